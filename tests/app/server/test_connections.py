"""Connections that only take room are given up, whatever they send or do not send."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

from app.http.extensions import ARRIVED, HOLD_OFF, WHOLE, lines
from app.server import connections
from app.server.api_process import several
from app.server.connections import GuardedProtocol

MAX_CONNECTIONS = 24
KEEP_ALIVE_SECONDS = 1
SLOW: list[str] = []
"""A request each that held the loop up."""


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with more than the sockets in between can hold, refuses, or holds the loop up."""
    if scope["type"] == "lifespan":
        return
    if scope["path"] == "/refused":
        scope["extensions"][HOLD_OFF]()
    if scope["path"] == "/slow":
        SLOW.append(scope["path"])
        time.sleep(0.1)  # noqa: ASYNC251
    if scope["path"] == "/body":
        await receive()
    if scope["path"] == "/echo":
        arrived: bytes | None = scope["extensions"][ARRIVED](scope)
        echo = await everything_of(receive) if arrived is None else arrived
        head = [(b"content-length", b"%d" % len(echo)), (b"x-arrived", b"%d" % (arrived is not None))]
        await send({"type": WHOLE, "status": 201, "head": lines(head), "body": echo})
        return
    body = b"x" * (8 << 20 if scope["path"] == "/large" else 2)
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def everything_of(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    return body


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a server whose connections are looked at ten times a second, with short limits."""
    before = connections.HEAD_SECONDS, connections.WRITE_SECONDS, connections.HOLD_OFF_SECONDS
    connections.HEAD_SECONDS = connections.WRITE_SECONDS = connections.HOLD_OFF_SECONDS = 0.5
    listener = socket.create_server(("127.0.0.1", 0))

    class Server(uvicorn.Server):
        async def on_tick(self, counter: int) -> bool:
            for connection in list(self.server_state.connections):
                assert isinstance(connection, GuardedProtocol)
                connection.check(time.monotonic())
            return await super().on_tick(counter)

    def protocol(*given: object, **options: object) -> GuardedProtocol:
        return GuardedProtocol(*given, max_connections=MAX_CONNECTIONS, **options)

    server = Server(
        uvicorn.Config(
            application,
            http=protocol,  # type: ignore[arg-type]  # it is called
            ws="none",
            lifespan="off",
            log_config=None,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
    )
    thread = threading.Thread(target=lambda: uvloop.run(server.serve(several(listener))))
    thread.start()
    yield int(listener.getsockname()[1])
    server.should_exit = True
    thread.join()
    listener.close()
    connections.HEAD_SECONDS, connections.WRITE_SECONDS, connections.HOLD_OFF_SECONDS = before


def connected(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port))
    client.settimeout(10)
    return client


def everything(client: socket.socket) -> bytes:
    """Until the server hangs up."""
    received = b""
    try:
        while piece := client.recv(65536):
            received += piece
    except ConnectionError:
        pass
    return received


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Mo"])
def test_a_head_that_does_not_come_is_given_up(port: int, sent: bytes) -> None:
    """Nothing at all, or half of it: hung up on after a while, and not before."""
    with connected(port) as client:
        client.sendall(sent)
        began = time.monotonic()
        assert everything(client) == b""
        assert 0.4 < time.monotonic() - began < 9


def test_an_endless_head_is_refused(port: int) -> None:
    """431 as soon as it is longer than any head is."""
    with connected(port) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: " + b"y" * 1000 + b"\r\n")
        for _ in range(70):
            try:
                client.sendall(b"X-A: " + b"y" * 1000 + b"\r\n")
            except ConnectionError:
                break
        assert everything(client)[:12] in (b"HTTP/1.1 431", b"")  # a reset may overtake the answer


def test_a_client_that_does_not_read_is_given_up(port: int) -> None:
    """What it was sent is cut short; one that reads gets all of it."""
    with connected(port) as idle, connected(port) as reading:
        for client in (idle, reading):
            client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert len(everything(reading)) > 8 << 20
        time.sleep(1.0)
        assert len(everything(idle)) < 8 << 20


def test_too_many_connections_are_told_so(port: int) -> None:
    """503 with Retry-After to the one too many; those there are go on, and there is room again later."""
    kept = [connected(port) for _ in range(MAX_CONNECTIONS)]
    time.sleep(0.1)
    with connected(port) as refused:
        answer = everything(refused)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"Retry-After: 2" in answer
    for client in kept:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert everything(client).startswith(b"HTTP/1.1 200")
        client.close()
    with connected(port) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert everything(client).startswith(b"HTTP/1.1 200")


def test_nothing_is_read_from_who_was_refused(port: int) -> None:
    """For a while, and then again; others are answered meanwhile, the refused one's pipelined request too."""
    with connected(port) as refused, connected(port) as other:
        began = time.monotonic()
        refused.sendall(b"POST /refused HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n\r\n" + b"x" * 50000)
        assert refused.recv(65536).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - began < 0.4
        refused.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        other.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert everything(other).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - began < 0.4
        assert everything(refused).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - began > 0.45


def test_many_connect_in_one_turn(port: int) -> None:
    """While each turn of the loop is long, those who connect do not wait for a turn each."""
    stop = threading.Event()

    def hold_up() -> None:
        with connected(port) as busy:
            while not stop.is_set():
                busy.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
                busy.recv(65536)

    # Two of them, so that one always has something to do.
    holding = [threading.Thread(target=hold_up) for _ in range(2)]
    for thread in holding:
        thread.start()
    try:
        while len(SLOW) < 3:
            time.sleep(0.01)
        before = len(SLOW)
        clients = [connected(port) for _ in range(MAX_CONNECTIONS - 4)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        for client in clients:
            assert everything(client).startswith(b"HTTP/1.1 200")
            client.close()
        assert len(SLOW) - before < MAX_CONNECTIONS - 8
    finally:
        stop.set()
        for thread in holding:
            thread.join()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_answer_is_whole(port: int, method: str) -> None:
    """Head and body are written together, where there is a body; requests that were pipelined in order."""
    with connected(port) as client:
        ask = f"{method} / HTTP/1.1\r\nHost: x\r\n"
        client.sendall(f"{ask}\r\n{ask}Connection: close\r\n\r\n".encode())
        answers = everything(client)
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert answers.count(b"content-length: 2") == 2
    assert answers.count(b"\r\n\r\nxx") == (2 if method == "GET" else 0)


def test_whoever_waits_for_100_gets_it_first(port: int) -> None:
    with connected(port) as client:
        client.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n")
        assert client.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"y")
        assert client.recv(65536).startswith(b"HTTP/1.1 200")


def post(body: bytes, *, fields: str = "") -> bytes:
    head = f"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{fields}\r\n"
    return head.encode() + body


def answers(client: socket.socket, number: int) -> list[tuple[str, bytes]]:
    """Head and body of each."""
    file = client.makefile("rb")
    found = []
    for _ in range(number):
        head = b"".join(iter(file.readline, b"\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        found.append((head, file.read(length)))
    return found


def test_a_body_that_is_here_is_not_waited_for(port: int) -> None:
    """Whole answers to whole bodies on one connection, with the default headers; in order where the next
    request does not wait for the answer."""
    bodies = [b"", b"a", b"b" * 5000]
    with connected(port) as client:
        for sent in bodies:
            client.sendall(post(sent))
            ((head, body),) = answers(client, 1)
            assert head.startswith("http/1.1 201 created\r\ndate: ")
            assert "x-arrived: 1" in head
            assert body == sent
        client.sendall(b"".join(map(post, bodies)))
        assert [body for _, body in answers(client, 3)] == bodies


@pytest.mark.parametrize("pieces", [2, 3, 40])
def test_a_body_in_pieces_is_put_together(port: int, pieces: int) -> None:
    """Whether they come while it is waited for or before."""
    body = bytes(range(256)) * 40
    size = -(-len(body) // pieces)
    with connected(port) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(post(body)[: -len(body)])
        for at in range(0, len(body), size):
            time.sleep(0.01 if at < 4 * size else 0)
            client.sendall(body[at : at + size])
        ((head, echo),) = answers(client, 1)
    assert echo == body
    assert "x-arrived: 0" in head


def test_a_body_larger_than_any_read_is_put_together(port: int) -> None:
    """While the loop is held up it comes in several reads, before anybody waits for it."""
    body = bytes(range(256)) * 8000
    with connected(port) as client:
        client.sendall(post(body))
        assert answers(client, 1)[0][1] == body


@pytest.mark.parametrize("close", ["Connection: close\r\n", ""])
def test_a_whole_answer_ends_the_connection_where_it_must(port: int, close: str) -> None:
    """When asked to, and told in its head; else once it was idle for long enough, and not before."""
    with connected(port) as client:
        began = time.monotonic()
        client.sendall(post(b"x", fields=close))
        answer = everything(client).lower()
        waited = time.monotonic() - began
    assert answer.endswith(b"\r\n\r\nx")
    assert (b"connection: close" in answer) is bool(close)
    assert waited < 0.5 if close else KEEP_ALIVE_SECONDS < waited < 9


def test_an_old_client_is_hung_up_on(port: int) -> None:
    """HTTP/1.0 keeps no connection."""
    with connected(port) as client:
        client.sendall(b"POST /echo HTTP/1.0\r\nContent-Length: 1\r\n\r\nx")
        assert everything(client).endswith(b"\r\n\r\nx")


def test_a_client_that_asks_first_is_told_to_go_on(port: int) -> None:
    """Its body is not here, whatever it says of its length."""
    with connected(port) as client:
        client.sendall(post(b"xyz", fields="Expect: 100-continue\r\n")[:-3])
        assert client.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"xyz")
        ((head, body),) = answers(client, 1)
    assert body == b"xyz"
    assert "x-arrived: 0" in head
