"""What is sent again, what is not, and what a caller learns."""

import time

import pytest

from moeplace_agent.client import (
    AnswerLost,
    AnswerNotUnderstood,
    ServiceClient,
    ServiceProblem,
    ServiceUnreachable,
)
from moeplace_agent.retrying import RetryPolicy
from tests.agent.scripted import problem, reply, scripted

pytestmark = pytest.mark.anyio

ACCEPTED = {"accepted_count": 1, "duplicate": False, "partial_success": None}
QUICK = RetryPolicy(first_seconds=0.01, longest_seconds=0.02, attempts=6)


def client_of(base_url: str, retry: RetryPolicy = QUICK) -> ServiceClient:
    return ServiceClient(base_url, "east", retry=retry, timeout_seconds=2.0, use_environment=False)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_answers_that_say_later_are_retried_with_the_same_body(status: int) -> None:
    """Two refusals of the retried kind, then success: three requests, byte for byte the same."""
    refusal = problem(status, "not now")
    async with (
        scripted(refusal, refusal, reply(200, ACCEPTED)) as server,
        client_of(server.base_url) as client,
    ):
        answer = await client.post_telemetry("n1", b"\x81window", coding="zstd")
    assert answer.accepted_count == 1
    assert client.retries == 2
    assert [asked.body for asked in server.asked] == [b"\x81window"] * 3
    assert {asked.headers["content-encoding"] for asked in server.asked} == {"zstd"}


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422, 500, 501])
async def test_other_errors_are_final(status: int) -> None:
    """An error outside the retried ones is raised at once, with the service's words."""
    async with scripted(problem(status, "field x is bad")) as server, client_of(server.base_url) as client:
        with pytest.raises(ServiceProblem, match="field x is bad") as raised:
            await client.post_telemetry("n1", b"x")
    assert raised.value.status == status
    assert len(server.asked) == 1


async def test_retry_after_is_waited_for() -> None:
    """A refusal that names its time is not asked again before that time."""
    async with (
        scripted(problem(503, "full", Retry_After="1"), reply(200, ACCEPTED)) as server,
        client_of(server.base_url) as client,
    ):
        begun = time.monotonic()
        await client.post_telemetry("n1", b"x")
        assert time.monotonic() - begun >= 1.0
    assert len(server.asked) == 2


async def test_lost_connections_are_retried() -> None:
    """A connection closed before an answer, twice: the request is sent a third time."""
    async with scripted(b"", b"", reply(200, ACCEPTED)) as server, client_of(server.base_url) as client:
        answer = await client.post_telemetry("n1", b"x")
    assert answer.accepted_count == 1
    assert len(server.asked) == 3


async def test_a_success_whose_body_is_lost_is_not_sent_again() -> None:
    """The head says 200 and the connection dies in the body: the window is in, so it stays at one request."""
    broken = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\nConnection: close\r\n\r\n{"
    async with scripted(broken) as server, client_of(server.base_url) as client:
        with pytest.raises(AnswerLost):
            await client.post_telemetry("n1", b"x")
    assert len(server.asked) == 1


async def test_an_unreachable_service_is_given_up_after_the_attempts() -> None:
    """Nobody listens: the policy's attempts are made, and the error says what was tried."""
    async with scripted(reply(200)) as server:
        base_url = server.base_url
    policy = RetryPolicy(first_seconds=0.01, longest_seconds=0.01, attempts=3)
    async with client_of(base_url, policy) as client:
        with pytest.raises(ServiceUnreachable, match=r"POST /v1/clusters/east/nodes/n1/telemetry"):
            await client.post_telemetry("n1", b"x")
        assert client.retries == 2


async def test_a_heartbeat_is_sent_once() -> None:
    """The latest status replaces all before, so a failed one is not sent again by the client."""
    async with scripted(problem(503, "not now")) as server, client_of(server.base_url) as client:
        with pytest.raises(ServiceProblem):
            await client.report_status("n1", {"sequence_number": 1})
    assert len(server.asked) == 1


async def test_a_long_poll_names_what_it_knows_and_how_long_it_waits() -> None:
    """304 is no assignment; the request carried the entity tag in quotes and the wait."""
    async with scripted(b"HTTP/1.1 304 Not Modified\r\n\r\n") as server, client_of(server.base_url) as client:
        assert await client.wait_for_assignment("n1", "u.3.abc", 7) is None
    (asked,) = server.asked
    assert asked.path == "/v1/clusters/east/nodes/n1/assignment"
    assert asked.headers["if-none-match"] == '"u.3.abc"'
    assert asked.headers["prefer"] == "wait=7"


async def test_orders_are_read_and_unknown_fields_ignored() -> None:
    """A newer service may say more than this agent knows."""
    body = {
        "metadata": {"uid": "u", "generation": 3, "digest": "d", "colour": "red"},
        "node_id": "n1",
        "moves": [],
        "more": 1,
    }
    async with scripted(reply(200, body)) as server, client_of(server.base_url) as client:
        orders = await client.wait_for_moves("n1", None, 1)
    assert orders is not None
    assert orders.metadata.version == "u.3.d"


async def test_an_answer_of_something_else_is_named() -> None:
    """A proxy's page with status 200 is no answer of the service."""
    page = reply(200, "hello")
    async with scripted(page) as server, client_of(server.base_url) as client:
        with pytest.raises(AnswerNotUnderstood, match="does something else listen at this address"):
            await client.report_status("n1", {})


async def test_ids_cannot_leave_their_place_in_the_path() -> None:
    """A node id with a slash stays one segment of the path."""
    async with scripted(reply(200, ACCEPTED)) as server, client_of(server.base_url) as client:
        await client.post_telemetry("a/../b", b"x")
    assert server.asked[0].path == "/v1/clusters/east/nodes/a%2F..%2Fb/telemetry"
