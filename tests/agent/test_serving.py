"""Experts over HTTP: ranges, caps and limits, against a real server."""

import asyncio
import time

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeplace_agent.experts.address import expert_path
from moeplace_agent.experts.signing import Signer
from moeplace_agent.holdings import ExpertKey
from moeplace_agent.serving.ranges import Unsatisfiable, requested_range
from moeplace_agent.serving.sending import Sends
from tests.agent.experts import KEY, expert_file, shelf_server

pytestmark = pytest.mark.anyio

FILE = expert_file()
TAG = f'"{FILE.digest}"'


async def ask(url: str, method: str = "GET", **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.request(method, url + expert_path(KEY), headers=sent)


async def test_the_whole_file_and_parts_of_it() -> None:
    """A client sees every byte once, with the digest as entity tag, and can ask for any range."""
    size = len(FILE.body)
    async with shelf_server(FILE) as url:
        answer = await ask(url)
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (200, FILE.body, TAG)
        assert answer.headers["repr-digest"].startswith("sha-256=:")
        for header, start, end in (
            ("bytes=0-0", 0, 1),
            ("bytes=1000-", 1000, size),
            ("bytes=-5", size - 5, size),
            (f"bytes=5-{size + 100}", 5, size),
        ):
            part = await ask(url, range=header)
            assert (part.status_code, part.content) == (206, FILE.body[start:end])
            assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
        beyond = await ask(url, range=f"bytes={size}-")
        assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")
        only_head = await ask(url, "HEAD")
        assert (only_head.headers["content-length"], only_head.content) == (str(size), b"")
        assert (await ask(url, if_none_match=TAG)).status_code == 304


async def test_a_range_of_another_version_is_not_given() -> None:
    """If-Range with another tag gives everything: bytes of two versions are never put together."""
    async with shelf_server(FILE) as url:
        same = await ask(url, range="bytes=10-", if_range=TAG)
        other = await ask(url, range="bytes=10-", if_range='"' + "0" * 64 + '"')
    assert (same.status_code, other.status_code, other.content) == (206, 200, FILE.body)


async def test_what_is_not_there_is_said_to_be_not_there() -> None:
    """404 for experts and paths unknown, 405 for other methods."""
    async with shelf_server(FILE) as url, httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(url + expert_path(ExpertKey("m", 3, 8)))).status_code == 404
        assert (await client.get(url + "/v1/experts/m/3/x")).status_code == 404
        assert (await client.put(url + expert_path(KEY))).status_code == 405
        assert (await client.get(url + "/v1/experts")).json() == {"experts": ["m/3/7"]}


async def test_with_a_secret_only_those_who_know_it_fetch() -> None:
    """401 for others; health is for everybody. Agents of the release before send the secret itself."""
    async with shelf_server(FILE, secret="secret") as url:
        assert (await ask(url)).status_code == 401
        assert (await ask(url, authorization="Bearer wrong")).status_code == 401
        assert (await ask(url, authorization="Bearer secret")).status_code == 200
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(url + "/v1/experts")).status_code == 401
            assert (await client.get(url + "/healthz")).status_code == 200


async def test_a_signed_request_is_good_for_what_it_was_signed_for_and_once() -> None:
    """The same signature is refused a second time, for another range, for another path and at another
    server."""
    signer, path = Signer("secret"), expert_path(KEY)
    async with shelf_server(FILE, secret="secret") as url, shelf_server(FILE, secret="secret") as other:
        signed = signer.authorization("GET", url, path, None)
        assert (await ask(url, authorization=signed, range="bytes=0-9")).status_code == 401
        elsewhere = await ask(other, authorization=signed)
        assert elsewhere.status_code == 401
        assert f"signed for {url}" in elsewhere.text
        async with httpx.AsyncClient(trust_env=False) as client:
            listing = await client.get(url + "/v1/experts", headers={"Authorization": signed})
            assert listing.status_code == 401
        assert (await ask(url, authorization=signed)).status_code == 200
        assert (await ask(url, authorization=signed)).text == "the request was sent before\n"
        wrong = Signer("another").authorization("GET", url, path, None)
        assert (await ask(url, authorization=wrong)).status_code == 401


async def test_beyond_the_cap_clients_are_told_when_to_come_back() -> None:
    """While one expert is being sent and one may be, the next is answered 503 with Retry-After; and served
    when the first is done."""
    refused = 0

    def count() -> None:
        nonlocal refused
        refused += 1

    sends = Sends(1, 1e6, refused=count)
    async with shelf_server(FILE, sends=sends) as url:
        first = asyncio.create_task(ask(url))
        while not sends.running:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.005)
        busy = await ask(url)
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
        assert (await first).content == FILE.body
        assert (await ask(url)).status_code == 200
    assert (refused, sends.running) == (1, 0)


async def test_a_client_that_goes_away_gives_its_place_back() -> None:
    """Its connection is closed in the middle of a slow send: soon nothing is sent any more."""
    sends = Sends(1, 20_000)
    async with shelf_server(FILE, sends=sends) as url, httpx.AsyncClient(trust_env=False) as client:
        async with client.stream("GET", url + expert_path(KEY)) as response:
            assert response.status_code == 200
            assert sends.running == 1
        async with asyncio.timeout(5):
            while sends.running:  # noqa: ASYNC110 - nobody announces it
                await asyncio.sleep(0.02)


async def test_the_bandwidth_limit_is_that_of_all_together() -> None:
    """Three experts at once through a limit that allows their bytes in 0.9 s take at least that, less what
    may pass at once at the start; how much longer depends on the machine."""
    total = 3 * len(FILE.body)
    sends = Sends(3, total / 0.9)
    async with shelf_server(FILE, sends=sends) as url:
        begun = time.monotonic()
        answers = await asyncio.gather(*(ask(url) for _ in range(3)))
        took = time.monotonic() - begun
    assert all(answer.content == FILE.body for answer in answers)
    assert took >= 0.9 - 0.05 - 0.01


@given(st.integers(1, 40), st.integers(0, 50), st.integers(0, 50))
def test_ranges_are_those_of_slices(size: int, first: int, last: int) -> None:
    """Every satisfiable range is what Python's slices give; one beyond the end is refused."""
    body = bytes(range(size))
    if first < size and first <= last:
        start, end = requested_range(f"bytes={first}-{last}", size) or (0, 0)
        assert body[start:end] == body[first : last + 1]
    elif first <= last:
        with pytest.raises(Unsatisfiable):
            requested_range(f"bytes={first}-{last}", size)
    else:
        assert requested_range(f"bytes={first}-{last}", size) is None
    if last:
        start, end = requested_range(f"bytes=-{last}", size) or (0, 0)
        assert body[start:end] == body[-last:]


@pytest.mark.parametrize(
    "header", [None, "", "items=0-1", "bytes=0-1,4-5", "bytes=-", "bytes=a-b", "bytes=5-2"]
)
def test_other_ranges_give_everything(header: str | None) -> None:
    """As the standard lets a server do with what it does not understand."""
    assert requested_range(header, 10) is None
