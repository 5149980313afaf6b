"""Fetching from sources that are slow, busy, wrong, dying or dead, over real connections."""

import asyncio
import contextlib
import dataclasses
import hashlib
import resource
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from moeplace_agent.experts.address import expert_path
from moeplace_agent.experts.directory import ExpertDirectory, StoredExpert
from moeplace_agent.experts.fetching import ExpertFetcher, FetchLimits, Source
from moeplace_agent.experts.partial import PartialFile
from moeplace_agent.retrying import RetryPolicy
from moeplace_agent.serving.sending import Sends
from moeplace_agent.storage import FetchFailed
from tests.agent.experts import (
    KEY,
    Misbehaviour,
    dripping,
    dying,
    expert_file,
    free_url,
    head,
    misbehaving_server,
    redirecting,
    refusing,
    shelf_server,
    tree,
    whole,
)

pytestmark = pytest.mark.anyio

FILE = expert_file()
SIZE = len(FILE.body)
QUICK = RetryPolicy(first_seconds=0.02, longest_seconds=0.1)


class Fetching:
    """A fetcher over a directory, and what it told."""

    def __init__(self, directory: ExpertDirectory, fetcher: ExpertFetcher) -> None:
        self.directory = directory
        self.fetcher = fetcher
        self.progress: list[int] = []

    async def fetch(self, *urls: str, digest: str | None = FILE.digest, **more: Any) -> StoredExpert:
        sources = [Source(f"s{number}", url) for number, url in enumerate(urls)]
        return await self.fetcher.fetch(
            KEY,
            digest,
            "gpu-0",
            lambda: sources,
            data_bytes=FILE.data_bytes,
            progress=self.progress.append,
            **more,
        )

    def arrive(self, body: bytes) -> Path:
        """As if an earlier process had got so far."""
        partial = self.directory.partial(KEY, FILE.digest)
        partial.write_bytes(body)
        return partial


@contextlib.asynccontextmanager
async def fetching(
    root: Path,
    *,
    patience: float = 1.0,
    counted: Any = lambda *_: None,
    secret: str | None = None,
    **limits: float,
) -> AsyncIterator[Fetching]:
    directory = ExpertDirectory(root)
    fetcher = ExpertFetcher(
        directory,
        limits=FetchLimits(patience_seconds=patience, connect_seconds=1.0, **limits),
        retry=QUICK,
        secret=secret,
        use_environment=False,
        counted=counted,
    )
    try:
        yield Fetching(directory, fetcher)
    finally:
        await fetcher.aclose()
        directory.close()


def check(stored: StoredExpert) -> None:
    assert stored.path.read_bytes() == FILE.body
    assert stored.digest == FILE.digest


async def test_an_expert_arrives_whole(tmp_path: Path) -> None:
    """Its bytes are on disk under its digest, progress was told, nothing else is left."""
    async with shelf_server(FILE) as url, fetching(tmp_path) as f:
        check(await f.fetch(url))
        assert f.progress[-1] == SIZE
        assert f.progress == sorted(f.progress)
        assert len(tree(tmp_path)) == 1


@pytest.mark.parametrize("arrived", [1, SIZE // 2, SIZE - 1, SIZE])
async def test_what_has_arrived_is_not_sent_again(arrived: int, tmp_path: Path) -> None:
    """Resumed from an earlier process's bytes: only what is missing goes over the wire, and nothing at all
    where everything was there already."""
    sent: list[int] = []
    async with shelf_server(FILE, sends=Sends(1, counted=sent.append)) as url, fetching(tmp_path) as f:
        f.arrive(FILE.body[:arrived])
        check(await f.fetch(url))
    assert sum(sent) == SIZE - arrived


async def test_bytes_that_rotted_meanwhile_are_noticed(tmp_path: Path) -> None:
    """An earlier process's bytes are wrong: the digest of the whole shows it, and everything is fetched
    again, from the same source, which is not to blame."""
    sent: list[int] = []
    async with shelf_server(FILE, sends=Sends(1, counted=sent.append)) as url, fetching(tmp_path) as f:
        f.arrive(bytes(SIZE // 2))
        check(await f.fetch(url))
    assert sum(sent) == SIZE - SIZE // 2 + SIZE


async def test_more_had_arrived_than_there_is(tmp_path: Path) -> None:
    """What was collected is longer than the file: thrown away and begun anew."""
    async with shelf_server(FILE) as url, fetching(tmp_path) as f:
        f.arrive(FILE.body + b"more")
        check(await f.fetch(url))


async def test_a_source_that_dies_in_the_middle_is_resumed_elsewhere(tmp_path: Path) -> None:
    """The first gives 100,000 bytes and closes; the second is asked for the rest only."""
    sent: list[int] = []
    async with (
        misbehaving_server(dying(FILE, 100_000)) as (first, _),
        shelf_server(FILE, sends=Sends(1, counted=sent.append)) as second,
        fetching(tmp_path) as f,
    ):
        check(await f.fetch(first, second))
    assert sum(sent) == SIZE - 100_000


async def test_a_lone_source_that_keeps_dying_is_resumed_until_it_is_done(tmp_path: Path) -> None:
    """Every answer brings a third of the file: the fetch ends, with ranges that follow each other."""
    async with (
        misbehaving_server(dying(FILE, 110_000)) as (url, asked),
        fetching(tmp_path) as f,
    ):
        check(await f.fetch(url))
    assert asked.ranges == [None, "bytes=110000-", "bytes=220000-"]


@pytest.mark.parametrize(
    "first",
    [
        refusing("404 Not Found"),
        refusing("401 Unauthorized"),
        refusing("500 Internal Server Error"),
        refusing("503 Service Unavailable", Retry_After=60),
        refusing("200 OK", ETag='"' + "0" * 64 + '"'),
        whole(FILE, bytes(SIZE)),
        whole(FILE, FILE.body[:1000]),
    ],
    ids=["absent", "unauthorized", "broken", "busy", "other version", "corrupt", "short"],
)
async def test_the_next_source_is_asked_when_one_cannot(first: Misbehaviour, tmp_path: Path) -> None:
    """Whatever the first says or sends, what is kept came right from the second, and at once."""
    async with (
        misbehaving_server(first) as (bad, _),
        shelf_server(FILE) as good,
        fetching(tmp_path, patience=20) as f,
    ):
        async with asyncio.timeout(5):
            check(await f.fetch(bad, good))


async def test_dead_and_silent_sources_cost_no_more_than_their_timeouts(tmp_path: Path) -> None:
    """Nobody listens at the first, the second says nothing: the third serves."""

    async def silent(_: str | None, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3)

    async with (
        misbehaving_server(silent) as (mute, _),
        shelf_server(FILE) as good,
        fetching(tmp_path, silent_seconds=0.3) as f,
    ):
        async with asyncio.timeout(2.5):
            check(await f.fetch(free_url(), mute, good))


async def test_a_corrupt_source_is_given_up_with_its_name(tmp_path: Path) -> None:
    """Wrong bytes under the right headers: the fetch fails at once, says whose bytes they were, and keeps
    none of them."""
    async with misbehaving_server(whole(FILE, bytes(SIZE))) as (url, asked), fetching(tmp_path) as f:
        with pytest.raises(FetchFailed, match="s0: its bytes have another SHA-256"):
            await f.fetch(url)
        assert len(asked.ranges) == 1
    assert [(tmp_path / name).stat().st_size for name in tree(tmp_path)] == [0]


async def test_a_source_that_drips_is_left_for_the_next(tmp_path: Path) -> None:
    """A byte now and then is no progress: after the time that a silent source has, the next one serves."""
    async with (
        misbehaving_server(dripping(FILE, 0.05)) as (slow, _),
        shelf_server(FILE) as good,
        fetching(tmp_path, silent_seconds=0.4) as f,
    ):
        async with asyncio.timeout(3):
            check(await f.fetch(slow, good))


async def test_a_fetch_whose_only_source_drips_ends(tmp_path: Path) -> None:
    """Bytes below the least rate do not renew the patience of a fetch."""
    async with (
        misbehaving_server(dripping(FILE, 0.05)) as (slow, _),
        fetching(tmp_path, silent_seconds=0.3, patience=0.6) as f,
    ):
        async with asyncio.timeout(5):
            with pytest.raises(FetchFailed, match="s0: sends too little or nothing"):
                await f.fetch(slow)


async def test_a_head_that_drips_is_left_for_the_next(tmp_path: Path) -> None:
    """Header lines without end are waited for no longer than silence."""

    async def answer(_: str | None, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"A: b\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with (
        misbehaving_server(answer) as (slow, _),
        shelf_server(FILE) as good,
        fetching(tmp_path, silent_seconds=0.3) as f,
    ):
        async with asyncio.timeout(4):
            check(await f.fetch(slow, good))


async def test_a_slow_source_within_the_nodes_own_limit_is_not_blamed(tmp_path: Path) -> None:
    """A node that limits itself to less than the least rate fetches all the same."""
    slow: dict[str, Any] = {
        "bytes_per_second": SIZE / 0.6,
        "least_bytes_per_second": SIZE * 10.0,
        "silent_seconds": 0.2,
    }
    async with shelf_server(FILE) as url, fetching(tmp_path, patience=0.3, **slow) as f:
        check(await f.fetch(url))


async def test_redirects_to_other_servers_are_not_followed(tmp_path: Path) -> None:
    """A source that sends on to another address is left, and that address is never asked."""
    async with (
        misbehaving_server(whole(FILE)) as (target, asked),
        misbehaving_server(redirecting(target + expert_path(KEY))) as (first, _),
        shelf_server(FILE) as good,
        fetching(tmp_path, secret="secret") as f,
    ):
        with pytest.raises(FetchFailed, match="only paths of the same server are followed"):
            await f.fetch(first)
        check(await f.fetch(first, good))
    assert asked.heads == []


async def test_redirects_on_the_same_server_are_followed_without_credentials(tmp_path: Path) -> None:
    """As a web server with files elsewhere than under the paths of the protocol."""
    heads: list[str] = []

    async def answer(_: str | None, writer: asyncio.StreamWriter) -> None:
        moved = "GET /files/" in asked.heads[-1]
        await (whole(FILE) if moved else redirecting("/files/7"))(_, writer)

    async with misbehaving_server(answer) as (url, asked), fetching(tmp_path, secret="secret") as f:
        check(await f.fetch(url))
        heads = asked.heads
    assert ["authorization:" in head.lower() for head in heads] == [True, False]


async def test_the_secret_is_never_sent(tmp_path: Path) -> None:
    """Whoever registers a URL gets a signature for that URL and not the secret."""
    async with misbehaving_server(whole(FILE)) as (url, asked), fetching(tmp_path, secret="the-secret") as f:
        check(await f.fetch(url))
    assert "Moeplace-HMAC-SHA256" in asked.heads[0]
    assert "the-secret" not in asked.heads[0]


async def test_nodes_whose_clocks_differ_fetch_from_each_other(tmp_path: Path) -> None:
    """The source's clock is an hour ahead: its answer says its time, and the request is signed anew."""
    async with (
        shelf_server(FILE, secret="s", clock=lambda: time.time() + 3600) as url,
        fetching(tmp_path, secret="s") as f,
    ):
        check(await f.fetch(url))


async def test_a_refused_signature_says_why(tmp_path: Path) -> None:
    """With another secret, and where the server wants the secret itself as the release before did."""
    old = refusing("401 Unauthorized", WWW_Authenticate="Bearer")
    async with (
        shelf_server(FILE, secret="one") as url,
        misbehaving_server(old) as (before, _),
        fetching(tmp_path, secret="another") as f,
    ):
        with pytest.raises(FetchFailed, match=r"another secret.*s1: .*upgrade it"):
            await f.fetch(url, before)


@pytest.mark.parametrize("good_first", [False, True])
async def test_the_source_of_a_wrong_byte_is_blamed(
    good_first: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A source gives a part with one wrong byte and stops, another gives the rest: the expert is fetched
    whole from the other, and the line in the log names the first."""
    wrong = dataclasses.replace(FILE, body=FILE.body[:500] + bytes([FILE.body[500] ^ 1]) + FILE.body[501:])

    async def answer(asked: str | None, writer: asyncio.StreamWriter) -> None:
        # Under the right tag, as somebody would who means harm.
        body = wrong.body
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        fields = {"Content-Length": SIZE - start, "ETag": f'"{FILE.digest}"'}
        if asked:
            fields["Content-Range"] = f"bytes {start}-{SIZE - 1}/{SIZE}"
        writer.write(
            head("206 Partial Content" if asked else "200 OK", **fields) + body[start : start + 1000]
        )

    async with (
        misbehaving_server(answer) as (bad, _),
        misbehaving_server(dying(FILE, 400, times=1)) as (good, _),
        fetching(tmp_path, patience=5) as f,
    ):
        check(await f.fetch(*((good, bad) if good_first else (bad, good))))
    blamed = "s1" if good_first else "s0"
    assert f"came from {blamed}" in caplog.text
    assert "came from s" + ("0" if good_first else "1") not in caplog.text


async def test_busy_sources_are_waited_for(tmp_path: Path) -> None:
    """The only source is at its cap for a while: the fetch waits its turn and gets everything."""
    sends = Sends(1, SIZE / 0.5)
    async with shelf_server(FILE, sends=sends) as url, fetching(tmp_path, patience=10) as f:
        taken = asyncio.create_task(_take(url))
        while not sends.running:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.005)
        check(await f.fetch(url))
        await taken


async def test_patience_ends(tmp_path: Path) -> None:
    """Nothing arrives from anybody for the time allowed: the failure names every source and its reason."""
    async with (
        misbehaving_server(refusing("503 Service Unavailable")) as (busy, asked),
        fetching(tmp_path, patience=0.5) as f,
    ):
        with pytest.raises(FetchFailed, match=r"m/3/7: s0: .*; s1: answered 503"):
            await f.fetch(free_url(), busy)
        assert len(asked.ranges) > 1
        with pytest.raises(FetchFailed, match="no source is known"):
            await f.fetch()


async def test_without_a_registered_digest_the_sources_word_counts(tmp_path: Path) -> None:
    """The entity tag is what the bytes must have; a source that names none is refused; an interrupted fetch
    is resumed under the digest it had begun with."""

    async def anonymous(_: str | None, writer: asyncio.StreamWriter) -> None:
        writer.write(head("200 OK", Content_Length=SIZE) + FILE.body)

    sent: list[int] = []
    async with (
        misbehaving_server(anonymous) as (nameless, _),
        shelf_server(FILE, sends=Sends(1, counted=sent.append)) as url,
        fetching(tmp_path) as f,
    ):
        with pytest.raises(FetchFailed, match="says no SHA-256"):
            await f.fetch(nameless, digest=None)
        f.arrive(FILE.body[:1000])
        check(await f.fetch(url, digest=None))
    assert sum(sent) == SIZE - 1000


async def test_a_file_larger_than_the_expert_may_be_is_not_taken(tmp_path: Path) -> None:
    """The source announces, or sends, more than the order allows: refused before the disk is full."""
    large = expert_file(data_bytes=FILE.data_bytes + (2 << 20))
    async with shelf_server(large) as url, fetching(tmp_path) as f:
        with pytest.raises(FetchFailed, match="more than the expert may take"):
            await f.fetch(url, digest=large.digest)
    assert sum((tmp_path / name).stat().st_size for name in tree(tmp_path)) == 0


async def test_a_plain_web_server_will_do_as_an_origin(tmp_path: Path) -> None:
    """One with entity tags of its own kind and no ranges: the digest of the order decides."""

    async def plain(_: str | None, writer: asyncio.StreamWriter) -> None:
        writer.write(head("200 OK", Content_Length=SIZE, ETag='"5f-abc"') + FILE.body)

    async with misbehaving_server(plain) as (url, _), fetching(tmp_path) as f:
        f.arrive(FILE.body[:1000])
        check(await f.fetch(url))


async def test_the_limits_of_node_and_order_hold(tmp_path: Path) -> None:
    """A fetch takes no less than its bytes at the smaller of the two rates, but for what may pass at once."""
    for rates in ((SIZE / 0.6, SIZE / 0.1), (SIZE / 0.1, SIZE / 0.6)):
        root = tmp_path / f"{rates[0]:.0f}"
        async with shelf_server(FILE) as url, fetching(root, bytes_per_second=rates[0]) as f:
            begun = time.monotonic()
            check(await f.fetch(url, bytes_per_second=rates[1]))
            assert time.monotonic() - begun >= 0.6 - 0.05 - 0.02
            assert len(f.progress) > 1


async def test_a_cancelled_fetch_goes_on_where_it_was(tmp_path: Path) -> None:
    """Given up in the middle, for a new order: what had arrived stays and counts."""
    sent: list[int] = []
    sends = Sends(2, SIZE / 0.4, counted=sent.append)
    async with shelf_server(FILE, sends=sends) as url, fetching(tmp_path) as f:
        task = asyncio.create_task(f.fetch(url))
        while sum(sent) < SIZE // 3:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.01)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        (partial,) = [tmp_path / name for name in tree(tmp_path)]
        arrived = partial.stat().st_size
        assert arrived > 0
        assert FILE.body.startswith(partial.read_bytes())
        check(await f.fetch(url))
        assert f.progress[-1] == SIZE


def test_what_a_given_up_fetch_still_writes_is_dropped(tmp_path: Path) -> None:
    """A thread that writes while, or after, the fetch is given up neither raises nor leaves the file torn."""
    partial = PartialFile(tmp_path / "expert.part")
    started = threading.Event()

    def write() -> None:
        for _ in range(200):
            partial.append([bytes(1 << 16)])
            started.set()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        started.wait()
        partial.close()
        writing.result()
    assert partial.path.stat().st_size == partial.size
    assert partial.size % (1 << 16) == 0


async def test_a_full_disk_fails_the_fetch_and_is_not_kept_full(tmp_path: Path) -> None:
    """The system's limit on the size of a file stands for a full disk: the error is the system's, and nothing
    of what had arrived stays."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with shelf_server(FILE, sends=Sends(1, SIZE / 0.6)) as url, fetching(tmp_path) as f:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, limits[1]))
        try:
            with pytest.raises(OSError, match="too large"):
                await f.fetch(url)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert sum((tmp_path / name).stat().st_size for name in tree(tmp_path)) == 0
        check(await f.fetch(url))


async def test_source_kinds_are_counted(tmp_path: Path) -> None:
    """The bytes each source gave are told under its name."""
    told: dict[str, int] = {}

    def count(name: str, size: int) -> None:
        told[name] = told.get(name, 0) + size

    async with (
        misbehaving_server(dying(FILE, 1000, times=1)) as (first, _),
        shelf_server(FILE) as second,
        fetching(tmp_path, counted=count) as f,
    ):
        await f.fetch(first, second)
    assert told == {"s0": 1000, "s1": SIZE - 1000}


def test_the_digest_of_a_file_depends_on_nothing_but_its_expert() -> None:
    """The head of an expert's file is the same on every machine and in every version: pinned here, since all
    registered digests would be void otherwise."""
    head_of_file = expert_file(data_bytes=100).body[:-100]
    assert hashlib.sha256(head_of_file).hexdigest().startswith("ed96ec83e70709d31d44d49903df9d2c")


async def _take(url: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.get(url + expert_path(KEY))
