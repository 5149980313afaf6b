"""An HTTP server that answers what a test says, byte for byte, and remembers what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class ScriptedServer:
    """Plays its replies one after another, the last again and again; an empty reply closes the connection."""

    def __init__(self, replies: Iterable[bytes]) -> None:
        self._replies = list(replies)
        self.asked: list[Asked] = []
        self.base_url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                method, path, _ = line.decode().split(" ", 2)
                headers = {}
                while (field := (await reader.readline()).decode().strip()) != "":
                    name, _, value = field.partition(":")
                    headers[name.lower()] = value.strip()
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.asked.append(Asked(method, path, headers, body))
                answer = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
                writer.write(answer)
                await writer.drain()
                if not answer or b"Connection: close" in answer:
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def reply(status: int, body: object = None, **headers: str) -> bytes:
    """An answer with a JSON body."""
    content = b"" if body is None else msgspec.json.encode(body)
    lines = [f"HTTP/1.1 {status} Reason", "Content-Type: application/json", f"Content-Length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def problem(status: int, detail: str, **headers: str) -> bytes:
    body = {"type": "/problems/test", "title": "T", "status": status, "detail": detail, "errors": []}
    return reply(status, body, **headers).replace(b"application/json", b"application/problem+json", 1)


@asynccontextmanager
async def scripted(*replies: bytes) -> AsyncIterator[ScriptedServer]:
    """The server on a free port of loopback."""
    server = ScriptedServer(replies)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.base_url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listening.close()
