"""What is too much is refused at once, and is taken again as soon as there is room."""

import asyncio

import pytest
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from app.errors import Unavailable
from app.http.admission import Admission, admission_of
from app.http.edge import EdgeMiddleware
from app.http.waiting import Waiters

pytestmark = pytest.mark.anyio


def request_scope(path: str = "/v1/clusters") -> Scope:
    return {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}


async def ask(app: EdgeMiddleware, path: str = "/v1/clusters") -> tuple[int, dict[str, str]]:
    """Status and headers of the answer."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(request_scope(path), receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers


class Slow:
    """Answers when told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.go.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def test_requests_are_bounded_and_recover() -> None:
    """Two at once: the third is told when to come again, probes are answered, and room is given back."""
    slow = Slow()
    admission = Admission(Waiters(10), max_requests=2, max_bytes=100)
    app = EdgeMiddleware(slow, admission=admission, fast=(), durable=False)
    busy = [asyncio.create_task(ask(app)) for _ in range(2)]
    await asyncio.sleep(0)
    status, headers = await ask(app)
    assert (status, headers["retry-after"]) == (503, "1")
    probe = asyncio.create_task(ask(app, "/healthz"))
    await asyncio.sleep(0)
    slow.go.set()
    assert [(await task)[0] for task in [*busy, probe]] == [204, 204, 204]
    assert (await ask(app))[0] == 204


async def test_requests_that_wait_take_no_place() -> None:
    """Long polls, and bodies that are still to come, keep nobody from being answered."""
    waiters = Waiters(10)
    admission = Admission(waiters, max_requests=1, max_bytes=100)
    admission.enter(request_scope())
    with waiters.waiter("c", "topic"):
        admission.enter(request_scope())
        with pytest.raises(Unavailable):
            admission.enter(request_scope())
    never = asyncio.Event()

    async def receive() -> Message:
        await never.wait()
        return {}

    coming = asyncio.create_task(admission.receiving.next(receive, asyncio.get_running_loop().time() + 60))
    await asyncio.sleep(0)
    assert admission.busy == 1
    coming.cancel()
    await asyncio.gather(coming, return_exceptions=True)
    assert admission.busy == 2


async def test_bytes_are_bounded_and_given_back() -> None:
    """What all requests hold together is refused beyond the limit, and free once they are answered."""
    admission = Admission(Waiters(10), max_requests=10, max_bytes=100)
    first, second = request_scope(), request_scope()
    admission.hold(first, 80)
    with pytest.raises(Unavailable):
        admission.hold(second, 30)
    admission.leave(second)
    admission.hold(first, -50)
    admission.hold(second, 60)
    assert admission_of(Request(first)) is None


async def test_a_wait_is_given_up_when_its_time_is_over() -> None:
    """Within a look or two; a cancellation from outside stays one."""
    receiving = Admission(Waiters(1), max_requests=1, max_bytes=1).receiving
    never = asyncio.Event()

    async def receive() -> Message:
        await never.wait()
        return {}

    with pytest.raises(TimeoutError):
        await receiving.next(receive, asyncio.get_running_loop().time())
    waiting = asyncio.create_task(receiving.next(receive, asyncio.get_running_loop().time() + 60))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert receiving.waiting == 0
