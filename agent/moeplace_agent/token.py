"""The token a client sends, and what it does when the service refuses it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator

import httpx

logger = logging.getLogger(__name__)

UNAUTHENTICATED = 401


class BearerToken(httpx.Auth):
    """`read` is asked again when the token is refused: one that is kept in a file is replaced by writing
    another there. If it is another by then, the request is sent once more."""

    def __init__(self, read: Callable[[], str | None]) -> None:
        self._read = read
        self._token = read()

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        sent = self._set(request)
        response = yield request
        if response.status_code == UNAUTHENTICATED and self._changed(sent):
            self._set(request)
            yield request

    def _set(self, request: httpx.Request) -> str | None:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return self._token

    def _changed(self, sent: str | None) -> bool:
        """Whether there is another token than was sent; another request may have read it already."""
        if self._token == sent:
            try:
                self._token = self._read() or sent
            except Exception as error:  # noqa: BLE001 - it may be being written: the next refusal looks again
                logger.warning("the token cannot be read again: %s", error)
        return self._token != sent
