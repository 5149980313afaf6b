"""Fetching an expert over HTTP: from several sources in turn, resuming where the last one stopped."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

import httpx

from agent.experts.address import expert_path
from agent.experts.directory import ExpertDirectory, StoredExpert
from agent.experts.partial import PartialFile
from agent.experts.safetensors import MalformedFile
from agent.holdings import ExpertKey
from agent.retrying import RETRIED_STATUSES, RetryPolicy, retry_after_seconds
from agent.storage import FetchFailed
from agent.throttle import Throttle

_WRITE_BYTES = 1 << 20
_WRITE_SECONDS = 0.25
"""What has arrived is written at least this often: a killed process loses no more."""

_HEAD_ALLOWANCE = 1 << 20
"""By how much an expert's file may be larger than its tensors."""

_MAX_MISMATCHES = 3
_ETAG = re.compile(r'"([0-9a-f]{64})"')
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_UNSATISFIED = re.compile(r"bytes \*/(\d+)")


ORIGIN = "origin"
"""Name of the source that is no node."""


class Source(NamedTuple):
    """Somebody who serves experts. `name`: a node's id, or ORIGIN."""

    name: str
    base_url: str


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """`patience_seconds`: how long nothing may arrive from any source before the fetch fails."""

    bytes_per_second: float | None = None
    connect_seconds: float = 5.0
    silent_seconds: float = 10.0
    patience_seconds: float = 20.0


class _SourceFailed(Exception):
    """This source did not finish it. `hopeless`: asking it again would change nothing."""

    def __init__(self, words: str, *, hopeless: bool = False, retry_after: float | None = None) -> None:
        super().__init__(words)
        self.hopeless = hopeless
        self.retry_after = retry_after


@dataclass(slots=True)
class _Download:
    key: ExpertKey
    digest: str | None
    max_bytes: int
    throttles: tuple[Throttle, ...]
    progress: Callable[[int], None]
    partial: PartialFile | None = None


class ExpertFetcher:
    """Brings experts into a directory. Close it with `aclose`."""

    def __init__(
        self,
        directory: ExpertDirectory,
        *,
        limits: FetchLimits | None = None,
        retry: RetryPolicy | None = None,
        token: str | None = None,
        use_environment: bool = True,
        counted: Callable[[str, int], None] = lambda *_: None,
    ) -> None:
        """`token`: sent as bearer. `counted`: told the name of the source and the bytes it gave.
        `use_environment`: whether proxies named in the environment are used."""
        self._directory = directory
        self._limits = limits or FetchLimits()
        self._retry = retry or RetryPolicy(first_seconds=0.2, longest_seconds=5.0)
        self._counted = counted
        self._throttle = Throttle(self._limits.bytes_per_second)
        headers = {"User-Agent": "moeplace-agent", "Accept-Encoding": "identity"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        timeout = httpx.Timeout(self._limits.silent_seconds, connect=self._limits.connect_seconds)
        self._http = httpx.AsyncClient(
            headers=headers, timeout=timeout, follow_redirects=True, trust_env=use_environment
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def fetch(
        self,
        key: ExpertKey,
        digest: str | None,
        device_id: str,
        sources: Callable[[], Sequence[Source]],
        *,
        data_bytes: int,
        bytes_per_second: float | None = None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> StoredExpert:
        """The expert, whole and in its place on disk.

        `sources` is asked before every round and gives them in the order in which they are tried.
        `digest`: what the bytes must have, in hex; None: what the source says they have, which protects the
        way and not the source. `data_bytes`: of its tensors; a longer file is refused. `bytes_per_second`: of
        this fetch, within the limit of all. Raises `FetchFailed`, and OSError where the disk fails; what has
        arrived is kept for the next try, unless the disk fails.
        """
        throttles = (self._throttle, Throttle(bytes_per_second))
        allowed = data_bytes + data_bytes // 64 + _HEAD_ALLOWANCE
        if digest is None:
            digest = await asyncio.to_thread(self._directory.begun, key)
        download = _Download(key, digest, allowed, throttles, progress)
        try:
            await self._until_whole(download, sources)
            assert download.partial is not None
            assert download.digest is not None
            try:
                return await asyncio.to_thread(
                    self._directory.keep, key, download.digest, device_id, download.partial.path
                )
            except MalformedFile as error:
                await asyncio.to_thread(download.partial.restart)
                raise FetchFailed(f"{key}: {error}") from None
        except ValueError as error:
            raise FetchFailed(f"{key}: {error}") from None
        except OSError:
            # A full disk is not kept full by what cannot be finished.
            if download.partial is not None:
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(download.partial.restart)
            raise
        finally:
            if download.partial is not None:
                await asyncio.shield(asyncio.to_thread(download.partial.close))

    async def _until_whole(self, download: _Download, sources: Callable[[], Sequence[Source]]) -> None:
        reasons: dict[str, str] = {}
        hopeless: set[Source] = set()
        mismatches = rounds = 0
        arrived_at, size = time.monotonic(), 0
        if await self._open(download):
            return
        while True:
            asked: list[float] = []
            candidates = [source for source in sources() if source not in hopeless]
            for source in candidates:
                begin = download.partial.size if download.partial is not None else 0
                try:
                    await self._ask(source, download)
                    if await self._is_whole(download):
                        return
                    mismatches += 1
                    if begin == 0:
                        hopeless.add(source)
                    reasons[source.name] = "its bytes have another SHA-256 than expected"
                except _SourceFailed as failure:
                    reasons[source.name] = str(failure)
                    if failure.hopeless:
                        hopeless.add(source)
                    if failure.retry_after is not None:
                        asked.append(failure.retry_after)
                if download.partial is not None and download.partial.size != size:
                    arrived_at, size, rounds = time.monotonic(), download.partial.size, 0
                if mismatches >= _MAX_MISMATCHES:
                    break
            rounds += 1
            patience = self._limits.patience_seconds - (time.monotonic() - arrived_at)
            if mismatches >= _MAX_MISMATCHES or patience <= 0 or hopeless.issuperset(candidates):
                told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
                raise FetchFailed(f"{download.key}: {told or 'nobody is known to serve it'}")
            await asyncio.sleep(min(self._retry.wait_seconds(rounds, min(asked, default=None)), patience))

    async def _open(self, download: _Download) -> bool:
        """Open what has arrived before; whether that is all of it already."""
        if download.digest is None or download.partial is not None:
            return False
        path = await asyncio.to_thread(self._directory.partial, download.key, download.digest)
        download.partial = await asyncio.to_thread(PartialFile, path)
        return download.partial.sha256() == download.digest

    async def _is_whole(self, download: _Download) -> bool:
        partial = download.partial
        assert partial is not None
        if partial.sha256() == download.digest:
            return True
        await asyncio.to_thread(partial.restart)
        return False

    async def _ask(self, source: Source, download: _Download) -> None:
        """Ask for what is missing and take it in. Raises `_SourceFailed`."""
        offset = download.partial.size if download.partial is not None else 0
        headers = {}
        if offset:
            headers = {"Range": f"bytes={offset}-", "If-Range": f'"{download.digest}"'}
        url = source.base_url.rstrip("/") + expert_path(download.key)
        try:
            async with self._answer(url, headers) as response:
                await self._take(source, response, download)
        except httpx.HTTPError as error:
            words = f"{type(error).__name__}{f': {error}' if str(error) else ''}"
            raise _SourceFailed(words) from None
        except httpx.InvalidURL as error:
            raise _SourceFailed(f"{url}: {error}", hopeless=True) from None

    @asynccontextmanager
    async def _answer(self, url: str, headers: dict[str, str]) -> AsyncIterator[httpx.Response]:
        async with self._http.stream("GET", url, headers=headers) as response:
            yield response

    async def _take(self, source: Source, response: httpx.Response, download: _Download) -> None:
        tag = _ETAG.fullmatch(response.headers.get("ETag", ""))
        if response.status_code == 416 and download.partial is not None:
            total = _UNSATISFIED.fullmatch(response.headers.get("Content-Range", ""))
            if total is None or int(total[1]) != download.partial.size:
                await asyncio.to_thread(download.partial.restart)
                raise _SourceFailed("it has fewer bytes than had arrived: started again")
            return
        if response.status_code not in (200, 206):
            raise _SourceFailed(
                f"answered {response.status_code}",
                hopeless=response.status_code not in RETRIED_STATUSES,
                retry_after=retry_after_seconds(response.headers.get("Retry-After")),
            )
        if tag is not None and download.digest is not None and tag[1] != download.digest:
            raise _SourceFailed(f"has bytes with SHA-256 {tag[1]}", hopeless=True)
        if download.digest is None:
            if tag is None:
                raise _SourceFailed("says no SHA-256, and none is registered", hopeless=True)
            download.digest = tag[1]
            await self._open(download)
        partial = download.partial
        assert partial is not None
        total_bytes = await self._position(response, partial)
        if total_bytes > download.max_bytes:
            raise _SourceFailed(f"has {total_bytes} bytes, more than the expert may take", hopeless=True)
        await self._write(source, response, download, partial)
        if partial.size < total_bytes:
            raise _SourceFailed(f"ended after {partial.size} of {total_bytes} bytes")

    async def _position(self, response: httpx.Response, partial: PartialFile) -> int:
        """Prepare for what the answer brings; the bytes of the whole file."""
        if response.status_code == 206:
            found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != partial.size:
                raise _SourceFailed("answered with another range than asked for", hopeless=True)
            return int(found[2])
        length = response.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise _SourceFailed("does not say how many bytes it sends", hopeless=True)
        if partial.size:
            await asyncio.to_thread(partial.restart)
        return int(length)

    async def _write(
        self, source: Source, response: httpx.Response, download: _Download, partial: PartialFile
    ) -> None:
        waiting: list[bytes] = []
        count, written_at = 0, time.monotonic()

        async def flush() -> None:
            nonlocal count, waiting, written_at
            parts, waiting = waiting, []
            await asyncio.to_thread(partial.append, parts)
            self._counted(source.name, count)
            count, written_at = 0, time.monotonic()
            download.progress(partial.size)
            if partial.size > download.max_bytes:
                raise _SourceFailed("sends more than it said", hopeless=True)

        try:
            async for chunk in response.aiter_raw():
                for throttle in download.throttles:
                    await throttle.take(len(chunk))
                waiting.append(chunk)
                count += len(chunk)
                if count >= _WRITE_BYTES or time.monotonic() - written_at >= _WRITE_SECONDS:
                    await flush()
        finally:
            if waiting:
                await asyncio.shield(flush())
