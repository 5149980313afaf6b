"""Sending an expert: ranges, a cap on how many are sent at once, and a limit to the bandwidth."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from moeplace_agent.experts.content import ContentReader, Served
from moeplace_agent.holdings import ExpertKey
from moeplace_agent.serving.ranges import Unsatisfiable, requested_range
from moeplace_agent.throttle import Throttle

logger = logging.getLogger(__name__)

Sent = Callable[[ExpertKey, int, float, str], None]
"""Called once an answer is out: the expert, its bytes, the seconds it took, the client's address."""


def not_recorded(key: ExpertKey, size: int, seconds: float, client: str) -> None:
    """Nobody wants to know."""


RETRY_AFTER_SECONDS = 1
_CLIENT_TAKES_NOTHING_SECONDS = 30.0


class Sends:
    """What one server sends: at most `at_once` experts, together at most `bytes_per_second`."""

    def __init__(
        self,
        at_once: int,
        bytes_per_second: float | None = None,
        *,
        counted: Callable[[int], None] = lambda _: None,
        refused: Callable[[], None] = lambda: None,
        sent: Sent = not_recorded,
    ) -> None:
        """`counted`: told the bytes sent, as they are sent. `refused`: called for every request answered 503
        because too many were running. `sent`: called once an answer is out, with the expert, its bytes, the
        seconds it took and the client's address."""
        if at_once < 1:
            raise ValueError(f"at_once: is {at_once}, expected at least 1")
        self._at_once = at_once
        self.throttle = Throttle(bytes_per_second)
        self.counted = counted
        self.sent = sent
        self._refused = refused
        self.running = 0

    def begin(self) -> bool:
        """Take a place if there is one."""
        if self.running >= self._at_once:
            self._refused()
            return False
        self.running += 1
        return True

    def end(self) -> None:
        self.running -= 1


class ExpertResponse:
    """An ASGI application that answers one request with an expert, or the part of it that was asked for."""

    def __init__(self, key: ExpertKey, served: Served, sends: Sends) -> None:
        self._key = key
        self._served = served
        self._sends = sends

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        size, tag = self._served.content.size, f'"{self._served.digest}"'
        if request.headers.get("if-none-match") == tag:
            await Response(status_code=304, headers={"ETag": tag})(scope, receive, send)
            return
        start, end, status = 0, size, 200
        if request.headers.get("if-range", tag) == tag:
            try:
                part = requested_range(request.headers.get("range"), size)
            except Unsatisfiable:
                headers = {"Content-Range": f"bytes */{size}", "ETag": tag}
                await Response(status_code=416, headers=headers)(scope, receive, send)
                return
            if part is not None:
                (start, end), status = part, 206
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(end - start),
            "Accept-Ranges": "bytes",
            "ETag": tag,
            "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(self._served.digest)).decode()}:",
            "Cache-Control": "no-cache",
        }
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        if request.method == "HEAD":
            await Response(status_code=status, headers=headers)(scope, receive, send)
            return
        if not self._sends.begin():
            busy = Response(
                "as many experts are being sent as may be at once\n",
                503,
                {"Retry-After": str(RETRY_AFTER_SECONDS)},
                "text/plain",
            )
            await busy(scope, receive, send)
            return
        begun = time.monotonic()
        try:
            whole = await self._send(status, headers, start, end, receive, send)
        finally:
            self._sends.end()
        if whole:
            client = "somebody" if request.client is None else request.client.host
            self._sends.sent(self._key, end - start, time.monotonic() - begun, client)

    async def _send(
        self, status: int, headers: dict[str, str], start: int, end: int, receive: Receive, send: Send
    ) -> bool:
        """Whether all of it was taken."""
        try:
            reader = await asyncio.to_thread(ContentReader, self._served.content)
        except OSError as error:
            logger.error("an expert cannot be read: %s", error)
            raise
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": status, "headers": raw})
            step = self._sends.throttle.chunk_bytes
            for at in range(start, end, step):
                count = min(step, end - at)
                await self._sends.throttle.take(count)
                body = await asyncio.to_thread(reader.read, at, count)
                if gone.done():
                    return False
                # A client that takes nothing must not keep its place for ever.
                async with asyncio.timeout(_CLIENT_TAKES_NOTHING_SECONDS):
                    await send({"type": "http.response.body", "body": body, "more_body": at + count < end})
                self._sends.counted(count)
        except TimeoutError:
            logger.info("a client took nothing for %.0f s: given up", _CLIENT_TAKES_NOTHING_SECONDS)
            return False
        finally:
            gone.cancel()
            reader.close()
        return True


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
