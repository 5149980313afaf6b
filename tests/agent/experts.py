"""Expert files and servers of them, real ones and ones that misbehave as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moeplace_agent.experts.content import Content, Piece, Served
from moeplace_agent.experts.safetensors import ExpertTensor, expert_head
from moeplace_agent.experts.signing import Verifier
from moeplace_agent.holdings import ExpertKey
from moeplace_agent.serving.application import experts_application
from moeplace_agent.serving.embedded import serving
from moeplace_agent.serving.sending import Sends

KEY = ExpertKey("m", 3, 7)


@dataclass(frozen=True)
class ExpertFile:
    """The bytes of one expert's file."""

    key: ExpertKey
    body: bytes
    data_bytes: int

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.body).hexdigest()

    @property
    def served(self) -> Served:
        return Served(Content((Piece(len(self.body), data=self.body),)), self.digest)


def expert_file(key: ExpertKey = KEY, data_bytes: int = 300_000, seed: int = 0) -> ExpertFile:
    head = expert_head(key.layer, key.expert, [ExpertTensor("w", "U8", (data_bytes,), data_bytes)])
    data = np.random.default_rng([seed, *key[1:]]).integers(0, 256, data_bytes, np.uint8).tobytes()
    return ExpertFile(key, head + data, data_bytes)


class Shelf:
    """Serves the files it is given."""

    def __init__(self, *files: ExpertFile) -> None:
        self._files = {file.key: file.served for file in files}

    async def find(self, key: ExpertKey) -> Served | None:
        return self._files.get(key)

    def manifest(self) -> Any:
        return {"experts": [str(key) for key in self._files]}


def listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def url_of(sock: socket.socket) -> str:
    return f"http://127.0.0.1:{sock.getsockname()[1]}"


def free_url() -> str:
    """Where nobody listens."""
    with listener() as sock:
        return url_of(sock)


@contextlib.asynccontextmanager
async def shelf_server(
    *files: ExpertFile,
    sends: Sends | None = None,
    secret: str | None = None,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[str]:
    """A real server of the files; its URL."""
    sock = listener()
    verifier = None if secret is None else Verifier(secret, [url_of(sock)], clock=clock)
    async with serving(experts_application(Shelf(*files), sends or Sends(4), verifier=verifier), sock):
        yield url_of(sock)


@dataclass
class Asked:
    """Requests that came: the values of their Range headers, and all of their heads."""

    ranges: list[str | None]
    heads: list[str]


Misbehaviour = Callable[[str | None, asyncio.StreamWriter], Any]


@contextlib.asynccontextmanager
async def misbehaving_server(answer: Misbehaviour) -> AsyncIterator[tuple[str, Asked]]:
    """`answer(range, writer)` writes what a test wants, bytes for bytes; then the connection is closed."""
    asked = Asked([], [])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            found = [line[6:].strip() for line in head.split("\r\n") if line.lower().startswith("range:")]
            asked.heads.append(head)
            asked.ranges.append(found[0] if found else None)
            await answer(asked.ranges[-1], writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    finally:
        server.close()


def head(status: str, **fields: object) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def whole(file: ExpertFile, body: bytes | None = None) -> Misbehaviour:
    """Answers every request with `body` under the headers of the file, whatever range is asked for."""

    async def answer(_: str | None, writer: asyncio.StreamWriter) -> None:
        fields = {"Content-Length": len(file.body), "ETag": f'"{file.digest}"'}
        writer.write(head("200 OK", **fields) + (file.body if body is None else body))

    return answer


def dying(file: ExpertFile, after: int, *, times: int = 1_000) -> Misbehaviour:
    """Sends `after` bytes more of what is asked for and closes the connection, the first `times` times."""
    left = times

    async def answer(asked: str | None, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        size = len(file.body)
        fields: dict[str, object] = {"Content-Length": size - start, "ETag": f'"{file.digest}"'}
        status = "200 OK"
        if asked:
            status, fields["Content-Range"] = "206 Partial Content", f"bytes {start}-{size - 1}/{size}"
        end = start + after if left > 0 else size
        left -= 1
        writer.write(head(status, **fields) + file.body[start:end])

    return answer


def refusing(status: str, **fields: object) -> Misbehaviour:
    async def answer(_: str | None, writer: asyncio.StreamWriter) -> None:
        writer.write(head(status, Content_Length=0, **fields))

    return answer


def tree(root: Path) -> list[str]:
    """The files below, but for the lock."""
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and p.name != "lock")


def dripping(file: ExpertFile, pause_seconds: float) -> Misbehaviour:
    """Sends a byte, waits, sends the next, for as long as somebody listens."""

    async def answer(_: str | None, writer: asyncio.StreamWriter) -> None:
        writer.write(head("200 OK", Content_Length=len(file.body), ETag=f'"{file.digest}"'))
        for byte in file.body:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(pause_seconds)

    return answer


def redirecting(location: str) -> Misbehaviour:
    return refusing("302 Found", Location=location)
