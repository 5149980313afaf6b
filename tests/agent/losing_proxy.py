"""A proxy before the real service that loses answers, or connections, when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class LosingProxy:
    """Forwards whole HTTP/1.1 messages with a Content-Length. While `lose` is above 0, a request whose path
    contains `losing` reaches the service, and its answer is thrown away with the connection."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self.base_url = ""
        self.losing = ""
        self.lose = 0
        self.lost = 0
        self.requests: list[str] = []
        self.serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.serving.add(task)
        task.add_done_callback(self.serving.discard)
        service_reader, service = await asyncio.open_connection(self._host, self._port)
        try:
            while True:
                request = await _message(reader)
                first = request.split(b"\r\n", 1)[0].decode()
                self.requests.append(first)
                service.write(request)
                await service.drain()
                answer = await _message(service_reader)
                if self.lose > 0 and self.losing in first:
                    self.lose -= 1
                    self.lost += 1
                    break
                writer.write(answer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            service.close()
            writer.close()


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = int(value)
    if head.startswith((b"HTTP/1.1 304", b"HTTP/1.1 204")):
        length = 0
    return head + await reader.readexactly(length)


@asynccontextmanager
async def losing_proxy(upstream: str) -> AsyncIterator[LosingProxy]:
    proxy = LosingProxy(upstream)
    listening = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.base_url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        listening.close()
        serving = list(proxy.serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
