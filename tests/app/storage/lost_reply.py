"""A server that executes a transaction and whose reply never arrives: a real server behind a proxy."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass
class LosingProxy:
    """url: of the proxy. While `armed`, the next EXEC is executed, and its connection closed unanswered."""

    url: str
    armed: bool = False
    lost: int = 0


@contextlib.asynccontextmanager
async def losing_replies(server_url: str, directory: Path) -> AsyncIterator[LosingProxy]:
    """A proxy on a socket in `directory`, in front of the server with a unix socket at `server_url`."""
    path = directory / "proxy.sock"
    proxy = LosingProxy(f"unix://{path}")

    async def serve(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_unix_connection(urlsplit(server_url).path)
        executing = asyncio.Event()

        async def requests() -> None:
            while data := await client.read(1 << 16):
                if proxy.armed and b"EXEC\r\n" in data:
                    proxy.armed = False
                    executing.set()
                to_server.write(data)
                await to_server.drain()

        async def answers() -> None:
            while data := await server.read(1 << 16):
                if executing.is_set():  # the client pipelines MULTI to EXEC: their answers come together
                    proxy.lost += 1
                    return
                to_client.write(data)
                await to_client.drain()

        tasks = [asyncio.create_task(requests()), asyncio.create_task(answers())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        to_server.close()
        to_client.close()

    listening = await asyncio.start_unix_server(serve, path)
    try:
        yield proxy
    finally:
        listening.close()
        await listening.wait_closed()
