"""Fetching an expert over HTTP: from several sources in turn, resuming where the last one stopped.

What comes from a source is not trusted. Its bytes are taken while they keep a least rate, up to the size
that the expert may have; redirects are followed on the same server only; the secret is not sent, requests
are signed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import httpx

from moeplace_agent.connecting import fault_of
from moeplace_agent.experts.address import expert_path
from moeplace_agent.experts.directory import ExpertDirectory, StoredExpert
from moeplace_agent.experts.partial import PartialFile
from moeplace_agent.experts.patience import Patience
from moeplace_agent.experts.safetensors import MalformedFile
from moeplace_agent.experts.signing import SCHEME, Signer, canonical_url
from moeplace_agent.holdings import ExpertKey
from moeplace_agent.retrying import RETRIED_STATUSES, RetryPolicy, retry_after_seconds
from moeplace_agent.storage import FetchFailed
from moeplace_agent.throttle import Throttle

logger = logging.getLogger(__name__)

_WRITE_BYTES = 1 << 20
_WRITE_SECONDS = 0.25
"""What has arrived is written at least this often: a killed process loses no more."""

_HEAD_ALLOWANCE = 1 << 20
"""By how much an expert's file may be larger than its tensors."""

_MAX_WHOLE_FILES = 8
"""A fetch ends after so many whole files with wrong bytes, although other sources may have another."""

_MAX_REDIRECTS = 3
_Answer = TypeVar("_Answer")
_ETAG = re.compile(r'"([0-9a-f]{64})"')
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_UNSATISFIED = re.compile(r"bytes \*/(\d+)")


ORIGIN = "origin"
"""Name of the source that is no node."""


class Source(NamedTuple):
    """Somebody who serves experts. `name`: a node's id, or ORIGIN."""

    name: str
    base_url: str


_EARLIER = Source("an earlier start of this agent", "")
"""Of bytes that were there already."""


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """`silent_seconds`: how long a source may send nothing, or stay below `least_bytes_per_second`, before
    the next is asked. `patience_seconds`: the same for all sources together, before the fetch fails. Waiting
    for this node's own limits counts for neither."""

    bytes_per_second: float | None = None
    connect_seconds: float = 5.0
    silent_seconds: float = 10.0
    patience_seconds: float = 20.0
    least_bytes_per_second: float = 64_000.0


class _SourceFailed(Exception):
    """This source did not finish it. `final`: asking it again would change nothing."""

    def __init__(self, words: str, *, final: bool = False, retry_after: float | None = None) -> None:
        super().__init__(words)
        self.final = final
        self.retry_after = retry_after


class _Part(NamedTuple):
    """Bytes of one source up to `end`; `digest` is of all bytes before `end`."""

    source: Source
    end: int
    digest: str


@dataclass(slots=True)
class _Download:
    """`unmixed`: bytes of one source only, since bytes of several made no right file. `suspects`: the parts
    of that file."""

    key: ExpertKey
    digest: str | None
    max_bytes: int
    throttles: tuple[Throttle, ...]
    progress: Callable[[int], None]
    patience: Patience
    partial: PartialFile | None = None
    parts: list[_Part] = field(default_factory=list)
    unmixed: bool = False
    suspects: list[_Part] = field(default_factory=list)
    whole_files: int = 0

    @property
    def size(self) -> int:
        return 0 if self.partial is None else self.partial.size

    def note(self, source: Source) -> None:
        """What has arrived since the last note came from the source."""
        partial = self.partial
        if partial is None or partial.size == (self.parts[-1].end if self.parts else 0):
            return
        if self.parts and self.parts[-1].source == source:
            self.parts.pop()
        self.parts.append(_Part(source, partial.size, partial.sha256()))

    async def restart(self) -> None:
        """Forget everything that has arrived."""
        if self.partial is not None:
            await asyncio.to_thread(self.partial.restart)
        self.parts = []


class ExpertFetcher:
    """Brings experts into a directory. Close it with `aclose`."""

    def __init__(
        self,
        directory: ExpertDirectory,
        *,
        limits: FetchLimits | None = None,
        retry: RetryPolicy | None = None,
        secret: str | None = None,
        use_environment: bool = True,
        counted: Callable[[str, int], None] = lambda *_: None,
        fetched: Callable[[ExpertKey, int, float, Sequence[str]], None] = lambda *_: None,
    ) -> None:
        """`secret`: signs requests. `counted`: called with the name of the source and the bytes it gave.
        `fetched`: called with every expert fetched, its bytes, the seconds and the names of its sources.
        `use_environment`: whether proxies named in the environment are used."""
        self._directory = directory
        self._limits = limits or FetchLimits()
        self._retry = retry or RetryPolicy(first_seconds=0.2, longest_seconds=5.0)
        self._counted = counted
        self._fetched = fetched
        self._throttle = Throttle(self._limits.bytes_per_second)
        self._signer = None if secret is None else Signer(secret)
        headers = {"User-Agent": "moeplace-agent", "Accept-Encoding": "identity"}
        timeout = httpx.Timeout(self._limits.silent_seconds, connect=self._limits.connect_seconds)
        self._http = httpx.AsyncClient(
            headers=headers, timeout=timeout, follow_redirects=False, trust_env=use_environment
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
        begun = time.monotonic()
        throttles = (self._throttle, Throttle(bytes_per_second))
        allowed = data_bytes + data_bytes // 64 + _HEAD_ALLOWANCE
        if digest is None:
            digest = await asyncio.to_thread(self._directory.begun, key)
        patience = self._patience(self._limits.patience_seconds)
        download = _Download(key, digest, allowed, throttles, progress, patience)
        try:
            await self._until_whole(download, sources)
            assert download.partial is not None
            assert download.digest is not None
            try:
                stored = await asyncio.to_thread(
                    self._directory.keep, key, download.digest, device_id, download.partial.path
                )
            except MalformedFile as error:
                await download.restart()
                raise FetchFailed(f"{key}: {error}") from None
        except ValueError as error:
            raise FetchFailed(f"{key}: {error}") from None
        except OSError:
            # A full disk is not kept full by what cannot be finished.
            with contextlib.suppress(OSError):
                await download.restart()
            raise
        finally:
            if download.partial is not None:
                await asyncio.shield(asyncio.to_thread(download.partial.close))
        names = list(dict.fromkeys(part.source.name for part in download.parts))
        self._fetched(key, stored.size, time.monotonic() - begun, names)
        return stored

    def _patience(self, seconds: float) -> Patience:
        return Patience(seconds, self._limits.least_bytes_per_second)

    async def _until_whole(self, download: _Download, sources: Callable[[], Sequence[Source]]) -> None:
        reasons: dict[str, str] = {}
        excluded: set[Source] = set()
        rounds = 0
        if await self._open(download):
            return
        while True:
            asked: list[float] = []
            mixed = False
            candidates = [source for source in sources() if source not in excluded]
            if download.unmixed:
                # Who gave nothing to the wrong file comes first.
                suspects = {part.source for part in download.suspects}
                candidates.sort(key=lambda source: source in suspects)
            for source in candidates:
                before = download.size
                try:
                    if await self._whole_from(source, download):
                        return
                    mixed = True
                except _SourceFailed as failure:
                    reasons[source.name] = str(failure)
                    if failure.final:
                        excluded.add(source)
                    if failure.retry_after is not None:
                        asked.append(failure.retry_after)
                if mixed:
                    break
                if download.size > before:
                    rounds = 0
            if mixed:
                continue
            rounds += 1
            left = download.patience.left
            if left <= 0 or excluded.issuperset(candidates) or download.whole_files >= _MAX_WHOLE_FILES:
                said = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
                raise FetchFailed(f"{download.key}: {said or 'no source is known'}")
            pause = min(self._retry.wait_seconds(rounds, min(asked, default=None)), left)
            download.patience.waited(pause)
            await asyncio.sleep(pause)

    async def _open(self, download: _Download) -> bool:
        """Open what has arrived before; whether that is all of it already."""
        if download.digest is None or download.partial is not None:
            return False
        path = await asyncio.to_thread(self._directory.partial, download.key, download.digest)
        download.partial = await asyncio.to_thread(PartialFile, path)
        download.note(_EARLIER)
        return download.partial.sha256() == download.digest

    async def _whole_from(self, source: Source, download: _Download) -> bool:
        """Ask the source for what is missing; True where the file is whole then and right. False where bytes
        of several sources made a wrong one. Raises `_SourceFailed`."""
        if download.unmixed and any(part.source != source for part in download.parts):
            await download.restart()
        while True:
            before = download.size
            try:
                await self._ask(source, download)
                break
            except _SourceFailed as failure:
                # Another source would have to begin anew: this one is kept to while it gives something.
                progresses = download.size > before and download.patience.left > 0
                if failure.final or not download.unmixed or not progresses:
                    raise
            finally:
                download.note(source)
        partial = download.partial
        assert partial is not None
        if partial.sha256() == download.digest:
            await self._blame(download)
            return True
        parts = download.parts
        download.whole_files += 1
        await download.restart()
        if all(part.source == source for part in parts):
            raise _SourceFailed("its bytes have another SHA-256 than expected", final=True)
        download.unmixed, download.suspects = True, parts
        return False

    async def _blame(self, download: _Download) -> None:
        """Say whose bytes were wrong, now that the right ones are here."""
        suspects = download.suspects
        if not suspects:
            return
        assert download.partial is not None
        right = await asyncio.to_thread(download.partial.prefix_digests, [part.end for part in suspects])
        begin = 0
        for part, digest in zip(suspects, right, strict=True):
            if part.digest != digest:
                logger.warning(
                    "%s: wrong bytes between %d and %d came from %s",
                    download.key, begin, part.end, part.source.name,
                )  # fmt: skip
                return
            begin = part.end

    async def _ask(self, source: Source, download: _Download) -> None:
        """Ask for what is missing and take it in. Raises `_SourceFailed`."""
        headers = {}
        if download.size:
            headers = {"Range": f"bytes={download.size}-", "If-Range": f'"{download.digest}"'}
        try:
            url = httpx.URL(source.base_url.rstrip("/") + expert_path(download.key))
            canonical_url(source.base_url)
        except (httpx.InvalidURL, ValueError):
            raise _SourceFailed(
                f"{source.base_url!r:.200} is not a URL that can be asked", final=True
            ) from None
        seconds = self._limits.connect_seconds + self._limits.silent_seconds
        try:
            async with contextlib.AsyncExitStack() as stack:
                answer = self._answer(stack, source, download.key, headers)
                response = await _waited(answer, self._patience(seconds), download.patience)
                await self._take(source, response, download)
        except httpx.HTTPError as error:
            raise _SourceFailed(fault_of(error, url).words) from None

    async def _answer(
        self, stack: contextlib.AsyncExitStack, source: Source, key: ExpertKey, headers: dict[str, str]
    ) -> httpx.Response:
        """The head of the answer; `stack` closes it. Signed anew where the source's clock differs, and
        followed where the source sends on to another of its own paths."""
        path = expert_path(key)
        request = self._http.build_request("GET", source.base_url.rstrip("/") + path, headers=headers)
        signed = adjusted = False
        for _ in range(_MAX_REDIRECTS + 2):
            if self._signer is not None and not signed:
                request.headers["Authorization"] = self._signer.authorization(
                    "GET", source.base_url, path, headers.get("Range")
                )
                signed = True
            response = await self._http.send(request, stream=True)
            stack.push_async_callback(response.aclose)
            if response.status_code == 401 and self._signer is not None and not adjusted:
                adjusted = True
                if self._signer.adjust(source.base_url, response.headers.get("WWW-Authenticate")):
                    await response.aclose()
                    signed = False
                    continue
            onward = response.next_request
            if onward is None:
                return response
            if _server(onward.url) != _server(request.url):
                words = f"sends on to {onward.url.host}: only paths of the same server are followed"
                raise _SourceFailed(words, final=True)
            await response.aclose()
            # The signature is for the path that was asked first.
            request = self._http.build_request("GET", onward.url, headers=headers)
        raise _SourceFailed("sends on too often", final=True)

    async def _take(self, source: Source, response: httpx.Response, download: _Download) -> None:
        tag = _ETAG.fullmatch(response.headers.get("ETag", ""))
        if response.status_code == 416 and download.partial is not None:
            total = _UNSATISFIED.fullmatch(response.headers.get("Content-Range", ""))
            if total is None or int(total[1]) != download.partial.size:
                await download.restart()
                raise _SourceFailed("it has fewer bytes than had arrived: started again")
            return
        if response.status_code not in (200, 206):
            raise _SourceFailed(
                await self._refusal(response, download),
                final=response.status_code not in RETRIED_STATUSES,
                retry_after=retry_after_seconds(response.headers.get("Retry-After")),
            )
        if tag is not None and download.digest is not None and tag[1] != download.digest:
            raise _SourceFailed(f"has bytes with SHA-256 {tag[1]}", final=True)
        if download.digest is None:
            if tag is None:
                raise _SourceFailed("says no SHA-256, and none is registered", final=True)
            download.digest = tag[1]
            await self._open(download)
        partial = download.partial
        assert partial is not None
        total_bytes = await self._position(response, download, partial)
        if total_bytes > download.max_bytes:
            raise _SourceFailed(f"has {total_bytes} bytes, more than the expert may take", final=True)
        await self._write(source, response, download, partial)
        if partial.size < total_bytes:
            raise _SourceFailed(f"ended after {partial.size} of {total_bytes} bytes")

    async def _position(self, response: httpx.Response, download: _Download, partial: PartialFile) -> int:
        """Prepare for what the answer brings; the bytes of the whole file."""
        if response.status_code == 206:
            found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != partial.size:
                raise _SourceFailed("answered with another range than asked for", final=True)
            return int(found[2])
        length = response.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise _SourceFailed("does not say how many bytes it sends", final=True)
        if partial.size:
            await download.restart()
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
                raise _SourceFailed("sends more than it said", final=True)

        try:
            patience = self._patience(self._limits.silent_seconds)
            chunks = response.aiter_raw()
            while chunk := await _waited(anext(chunks, b""), patience, download.patience):
                patience.arrived(len(chunk))
                download.patience.arrived(len(chunk))
                for throttle in download.throttles:
                    await throttle.take(len(chunk))
                waiting.append(chunk)
                count += len(chunk)
                if count >= _WRITE_BYTES or time.monotonic() - written_at >= _WRITE_SECONDS:
                    await flush()
        finally:
            if waiting:
                await asyncio.shield(flush())

    async def _refusal(self, response: httpx.Response, download: _Download) -> str:
        """Why the source says no, in its words where they are about the signature."""
        words = f"answered {response.status_code}"
        if response.status_code != 401:
            return words
        if self._signer is None:
            return f"{words}: it wants requests signed with the secret of experts.token_file"
        if SCHEME not in response.headers.get("WWW-Authenticate", ""):
            return f"{words}: it wants the secret itself, which is not sent any more; upgrade it"
        patience = self._patience(self._limits.silent_seconds)
        said = await _waited(anext(response.aiter_raw(), b""), patience, download.patience)
        shown = said[:300].decode("utf-8", "replace").strip()
        return f"{words}: {shown}" if shown.isprintable() else words


async def _waited(answer: Awaitable[_Answer], patience: Patience, overall: Patience) -> _Answer:
    """The answer of a source; raises `_SourceFailed` where it takes longer than the source may."""
    begun = time.monotonic()
    try:
        async with asyncio.timeout(max(patience.left, 0.0)):
            return await answer
    except TimeoutError:
        raise _SourceFailed("sends too little or nothing") from None
    finally:
        patience.waited(time.monotonic() - begun)
        overall.waited(time.monotonic() - begun)


def _server(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
