"""A server that executes a transaction and whose reply never arrives: a real server behind a proxy."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit


@dataclass
class LostReply:
    """url: of the proxy. While `armed`, the next EXEC is executed and its connection closed unanswered."""

    url: str
    armed: bool = False
    lost: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)


async def _to_server(proxy: LostReply, client: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
    while data := await client.read(1 << 16):
        server.write(data)
        await server.drain()
        if proxy.armed and b"EXEC\r\n" in data:
            proxy.armed = False
            proxy.lost += 1
            return
    server.write_eof()


async def _to_client(server: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
    while data := await server.read(1 << 16):
        client.write(data)
        await client.drain()


@contextlib.asynccontextmanager
async def losing_replies(server_url: str, directory: Path) -> AsyncIterator[LostReply]:
    """A proxy on a socket in `directory`, in front of the server with a unix socket at `server_url`."""
    path = directory / "proxy.sock"
    proxy = LostReply(f"unix://{path}")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(urlsplit(server_url).path)
        answers = asyncio.create_task(_to_client(server_reader, writer))
        requests = asyncio.create_task(_to_server(proxy, reader, server_writer))
        try:
            done, _ = await asyncio.wait({answers, requests}, return_when=asyncio.FIRST_COMPLETED)
            if requests in done and proxy.lost:
                answers.cancel()
                await server_reader.read(1)  # it is executed once its reply is there
        finally:
            for task in (answers, requests):
                task.cancel()
            await asyncio.gather(answers, requests, return_exceptions=True)
            server_writer.close()
            writer.close()

    listening = await asyncio.start_unix_server(serve, path)
    try:
        yield proxy
    finally:
        listening.close()
        await listening.wait_closed()
