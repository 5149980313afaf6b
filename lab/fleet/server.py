"""Serving expert calls of other nodes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from typing import cast

from lab.fleet.experts import LoadedExperts
from lab.fleet.frames import (
    NODE_HEADER,
    PATH,
    PROTOCOL,
    Answer,
    Call,
    Float32,
    Frames,
    MalformedFrame,
    check_call,
    encode,
)
from lab.fleet.links import LOOPBACK, Link, LinkSpec
from lab.tiny_moe.shape import WIDTH

logger = logging.getLogger(__name__)

_MAX_REQUEST_BYTES = 4096


class _Connection(asyncio.Protocol):
    """First an HTTP request for the upgrade, then calls. What does not speak the protocol is cut off."""

    def __init__(
        self, experts: LoadedExperts, links: Mapping[str, LinkSpec], sent: Callable[[int], None]
    ) -> None:
        self._experts = experts
        self._links = links
        self._sent = sent
        self._request = bytearray()
        self._frames: Frames | None = None
        self._link: Link | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        try:
            if self._frames is None:
                data = self._upgrade(data)
            if self._frames is not None:
                for call, hidden in self._frames.feed(data):
                    assert isinstance(call, Call)
                    self._answer(call, hidden)
        except MalformedFrame as error:
            logger.warning("a connection is cut off: %s", error)
            self._transport.abort()

    def _upgrade(self, data: bytes) -> bytes:
        """Answer the request once it is whole; what came after it."""
        assert self._transport is not None
        self._request += data
        head, end, rest = bytes(self._request).partition(b"\r\n\r\n")
        if not end:
            if len(self._request) > _MAX_REQUEST_BYTES:
                raise MalformedFrame("a request without end")
            return b""
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (li.partition(":") for li in lines)
        }
        if first.split()[:2] != ["GET", PATH] or headers.get("upgrade") != PROTOCOL:
            self._transport.write(
                f"HTTP/1.1 426 Upgrade Required\r\nUpgrade: {PROTOCOL}\r\nConnection: close\r\n"
                "Content-Length: 0\r\n\r\n".encode()
            )
            self._transport.close()
            return b""
        self._transport.write(
            f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: {PROTOCOL}\r\nConnection: Upgrade\r\n\r\n".encode()
        )
        self._link = Link(self._links.get(headers.get(NODE_HEADER.lower(), ""), LOOPBACK), self._deliver)
        self._frames = Frames(Call, WIDTH)
        return rest

    def _answer(self, call: Call, hidden: Float32) -> None:
        check_call(call, hidden)
        outputs, missing = self._experts.answer(call, hidden)
        frame = encode(Answer(call.number, missing), outputs)
        self._sent(len(frame))
        assert self._link is not None
        self._link.send(frame)

    def _deliver(self, frame: bytes) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write(frame)


@contextlib.asynccontextmanager
async def serving_calls(
    experts: LoadedExperts,
    links: Mapping[str, LinkSpec],
    sent: Callable[[int], None] = lambda _: None,
) -> AsyncIterator[str]:
    """Serve on a free port of the loopback interface; the URL. `links`: the way back to each node by its id;
    `sent` is told the bytes of each answer."""
    connections: set[asyncio.BaseTransport] = set()

    class Tracked(_Connection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            connections.add(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            assert self._transport is not None
            connections.discard(self._transport)

    server = await asyncio.get_running_loop().create_server(
        lambda: Tracked(experts, links, sent), "127.0.0.1", 0, family=socket.AF_INET
    )
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        server.close()
        for transport in list(connections):
            cast(asyncio.Transport, transport).abort()
        await server.wait_closed()
