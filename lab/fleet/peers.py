"""Calling the experts of other nodes: one connection per node, any number of calls at a time on it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import urlsplit

from lab.fleet.frames import (
    NODE_HEADER,
    PATH,
    PROTOCOL,
    Answer,
    Call,
    Float32,
    Frames,
    MalformedFrame,
    check_answer,
    encode,
)
from lab.fleet.links import LOOPBACK, Link, LinkSpec
from lab.tiny_moe.shape import WIDTH

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 1.0
SHUNNED_SECONDS = 2.0
"""After a failure others are asked first for so long."""


class CallFailed(Exception):
    """No answer came; in words."""


class _Connection(asyncio.Protocol):
    def __init__(self, url: str, node_id: str, link: LinkSpec) -> None:
        self._url = url
        self._node_id = node_id
        self._spec = link
        self._transport: asyncio.Transport | None = None
        self._link: Link | None = None
        self._head = bytearray()
        self._frames: Frames | None = None
        self._waiting: dict[int, tuple[Call, asyncio.Future[tuple[Float32, list[int]]]]] = {}
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.bytes_received = 0

    @property
    def usable(self) -> bool:
        return self._frames is not None and self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._link = Link(self._spec, self._deliver)
        host = urlsplit(self._url).netloc
        self._transport.write(
            f"GET {PATH} HTTP/1.1\r\nHost: {host}\r\nUpgrade: {PROTOCOL}\r\nConnection: Upgrade\r\n"
            f"{NODE_HEADER}: {self._node_id}\r\n\r\n".encode()
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(CallFailed(f"the connection to {self._url} was lost{f': {exc}' if exc else ''}"))

    def data_received(self, data: bytes) -> None:
        try:
            if self._frames is None:
                data = self._upgraded(data)
            if self._frames is not None:
                self.bytes_received += len(data)
                for answer, outputs in self._frames.feed(data):
                    assert isinstance(answer, Answer)
                    self._answered(answer, outputs)
        except MalformedFrame as error:
            logger.warning("%s: %s", self._url, error)
            self.close()

    def _upgraded(self, data: bytes) -> bytes:
        self._head += data
        head, end, rest = bytes(self._head).partition(b"\r\n\r\n")
        if not end:
            return b""
        if head.split(b" ", 2)[1:2] != [b"101"]:
            raise MalformedFrame("takes no expert calls")
        self._frames = Frames(Answer, WIDTH)
        if not self.ready.done():
            self.ready.set_result(None)
        return rest

    def send(self, call: Call, hidden: Float32) -> tuple[asyncio.Future[tuple[Float32, list[int]]], int]:
        """The answer to come, and the bytes sent."""
        answer: asyncio.Future[tuple[Float32, list[int]]] = asyncio.get_running_loop().create_future()
        self._waiting[call.number] = call, answer
        frame = encode(call, hidden)
        assert self._link is not None
        self._link.send(frame)
        return answer, len(frame)

    def forget(self, number: int) -> None:
        """Nobody waits for this answer any more."""
        self._waiting.pop(number, None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _answered(self, answer: Answer, outputs: Float32) -> None:
        if answer.number not in self._waiting:
            return
        call, waiting = self._waiting[answer.number]
        check_answer(call, answer, outputs)
        if not waiting.done():
            waiting.set_result((outputs, answer.missing))

    def _fail(self, error: CallFailed) -> None:
        for _, waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(error)
                waiting.exception()  # whoever has given up waiting does not hear of it
        self._waiting.clear()
        if not self.ready.done():
            self.ready.set_exception(error)
            self.ready.exception()

    def _deliver(self, frame: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)


class Peers:
    """Everybody this node calls, by URL."""

    def __init__(self, node_id: str, links: Mapping[str, LinkSpec], *, timeout_seconds: float = 2.0) -> None:
        """`links`: the way to each place by its name. A call without an answer fails after the timeout."""
        self._node_id = node_id
        self._links = links
        self._timeout = timeout_seconds
        self._connections: dict[str, _Connection] = {}
        self._connecting: dict[str, asyncio.Lock] = {}
        self._shunned_until: dict[str, float] = {}
        self._number = 0
        self.bytes_sent = 0

    @property
    def bytes_received(self) -> int:
        return sum(connection.bytes_received for connection in self._connections.values())

    def shunned(self, url: str) -> bool:
        """Whether a call there has failed a moment ago."""
        return asyncio.get_running_loop().time() < self._shunned_until.get(url, 0.0)

    async def call(
        self,
        name: str,
        url: str,
        model_id: str,
        layer: int,
        hidden: Float32,
        rows: list[int],
        experts: list[int],
        exchanged: Callable[[int], None] = lambda _: None,
    ) -> tuple[Float32, list[int]]:
        """The outputs of the pairs, and the pairs whose expert is not there. Raises `CallFailed`; `exchanged`
        is told the bytes of the call and of its answer."""
        try:
            async with asyncio.timeout(self._timeout):
                connection = self._connections.get(url)
                if connection is None or not connection.usable:
                    connection = await self._connect(name, url)
                self._number += 1
                number = self._number
                answer, sent = connection.send(Call(number, model_id, layer, rows, experts), hidden)
                self.bytes_sent += sent
                try:
                    outputs, missing = await answer
                finally:
                    connection.forget(number)
        except TimeoutError:
            self._shun(url)
            raise CallFailed(f"{name} at {url} did not answer within {self._timeout:g} s") from None
        except CallFailed:
            self._shun(url)
            raise
        exchanged(sent + outputs.nbytes)
        return outputs, missing

    async def aclose(self) -> None:
        for connection in self._connections.values():
            connection.close()
        await asyncio.sleep(0)

    def _shun(self, url: str) -> None:
        self._shunned_until[url] = asyncio.get_running_loop().time() + SHUNNED_SECONDS

    async def _connect(self, name: str, url: str) -> _Connection:
        async with self._connecting.setdefault(url, asyncio.Lock()):
            known = self._connections.get(url)
            if known is not None and known.usable:
                return known
            parts = urlsplit(url)
            link = self._links.get(name, LOOPBACK)
            connection = _Connection(url, self._node_id, link)
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await asyncio.get_running_loop().create_connection(
                        lambda: connection, parts.hostname or "", parts.port or 80
                    )
                    await connection.ready
            except (OSError, TimeoutError) as error:
                connection.close()
                why = str(error) or type(error).__name__
                raise CallFailed(f"{name} at {url} cannot be reached: {why}") from None
            except BaseException:
                connection.close()
                raise
            self._connections[url] = connection
            return connection
