"""HTTP to the service, with the rules every client of it follows.

Sent again: 429, 502, 503, 504 and lost connections, nothing else; and nothing at all once an answer of
success has begun, even where its body was lost on the way.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping, Sequence
from email.utils import formatdate
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec
import stamina

from moeplace_agent.connecting import ConnectionFault, examine, fault_of, is_http_url
from moeplace_agent.messages import (
    Assignment,
    Orders,
    Problem,
    Registration,
    ReportAnswer,
    StatusAnswer,
    TelemetryAnswer,
)
from moeplace_agent.retrying import RETRIED_STATUSES, RetryPolicy, retry_after_seconds
from moeplace_agent.token import BearerToken

logger = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")

MSGPACK = "application/msgpack"
JSON = "application/json"
_READ_SLACK_SECONDS = 10.0
NOT_THE_SERVICE = "the answer is not what the service gives; does something else listen at this address?"


class ServiceError(Exception):
    """The service could not be asked, or said no."""


class ServiceProblem(ServiceError):
    """The service answered with an error, in its words."""

    def __init__(self, status: int, problem: Problem, retry_after: float | None) -> None:
        words = problem.detail or problem.title or "no explanation given"
        others = [fault for fault in problem.errors[:3] if fault.detail != words]
        faults = "; ".join(f"{fault.pointer} {fault.detail}" for fault in others)
        super().__init__(f"{status}: {words}{f' ({faults})' if faults else ''}")
        self.status = status
        self.problem = problem
        self.retry_after_seconds = retry_after


class ServiceUnreachable(ServiceError):
    """The connection could not be made, or was lost before an answer began. `tries`: after so many the fault
    will not pass by itself; None: it may pass at any moment."""

    def __init__(self, words: str, tries: int | None = None) -> None:
        super().__init__(words)
        self.tries = tries

    @property
    def lasting(self) -> bool:
        """True where somebody has to change something first, such as a certificate or a URL."""
        return self.tries == 1


class AnswerLost(ServiceError):
    """The request succeeded, and its answer was lost: it must not be sent again."""


class AnswerNotUnderstood(ServiceError):
    """A body that does not follow the contract: something else answers at this address."""


class ServiceClient:
    """One cluster of one service. Use it as an asynchronous context manager, or call `aclose`."""

    def __init__(
        self,
        base_url: str,
        cluster_id: str,
        *,
        retry: RetryPolicy | None = None,
        token: str | Callable[[], str | None] | None = None,
        ca_file: Path | None = None,
        timeout_seconds: float = 15.0,
        use_environment: bool = True,
        waiting: Callable[[str], None] = lambda _: None,
        examines: bool = False,
    ) -> None:
        """`token`: sent with each request; a function gives it, and is asked again when it is refused.
        `ca_file`: PEM of the authorities that sign the service's certificate, where the system does not know
        them. `use_environment`: whether proxies named in the environment are used. `waiting`: called with the
        reason when a request is to be sent again. `examines`: whether the client looks at what listens there,
        by connections of its own, where its first ones end without an answer. Raises OSError for a `ca_file`
        that cannot be read, `ServiceUnreachable` for URLs that cannot be used, and what `token` raises."""
        self._retry = retry or RetryPolicy()
        self._timeout = timeout_seconds
        self._cluster = f"/v1/clusters/{quote(cluster_id, safe='')}"
        headers = {"User-Agent": "moeplace-agent", "Accept": JSON}
        self._waiting = waiting
        self._examines = examines
        verify = True if ca_file is None else ssl.create_default_context(cafile=str(ca_file))
        auth = None if token is None else BearerToken(token if callable(token) else lambda: token)
        if not is_http_url(base_url):
            raise ServiceUnreachable(f"{base_url!r:.200} is not a URL such as http://host:port", tries=1)
        try:
            self._http = httpx.AsyncClient(
                base_url=base_url,
                headers=headers,
                auth=auth,
                verify=verify,
                timeout=timeout_seconds,
                trust_env=use_environment,
            )
        except (httpx.InvalidURL, ValueError, ImportError):
            proxies = "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY"
            words = f"{base_url!r:.200} is not a URL that can be used, or a proxy in {proxies} is not"
            raise ServiceUnreachable(words, tries=1) from None
        self.retries = 0
        """Requests sent again so far."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    # --- what a node says
    async def register(self, node_id: str, spec: Mapping[str, Any]) -> Registration:
        """Register, or register anew; raises `ServiceError`."""
        return _decode(
            await self._send("PUT", self._node(node_id), msgspec.json.encode(spec), JSON), Registration
        )

    async def report_status(self, node_id: str, status: Mapping[str, Any]) -> StatusAnswer:
        """One heartbeat, never sent again: the next one says all that this one did, and more recently. Its
        Date is what this host's clock shows: the service sees whether the clock is right."""
        path = f"{self._node(node_id)}/status"
        body, date = msgspec.json.encode(status), {"Date": formatdate(usegmt=True)}
        return _decode(await self._once("PUT", path, body, JSON, headers=date), StatusAnswer)

    async def post_telemetry(
        self, node_id: str, body: bytes, *, coding: str | None = None
    ) -> TelemetryAnswer:
        """One window in MessagePack. A repeat carries the same sequence number, so it counts once."""
        path = f"{self._node(node_id)}/telemetry"
        return _decode(await self._send("POST", path, body, MSGPACK, coding=coding), TelemetryAnswer)

    async def report_moves(self, node_id: str, reports: Sequence[Mapping[str, Any]]) -> ReportAnswer:
        """Full states of moves, never sent again: newer states may have come meanwhile."""
        path = f"{self._node(node_id)}/move_reports"
        body = msgspec.json.encode({"reports": reports})
        return _decode(await self._once("POST", path, body, JSON), ReportAnswer)

    # --- what a node is told
    async def wait_for_assignment(
        self, node_id: str, known_version: str | None, wait_seconds: int
    ) -> Assignment | None:
        """The assignment once it is another than `known_version`; None when the wait ended without one."""
        response = await self._poll(f"{self._node(node_id)}/assignment", known_version, wait_seconds)
        return None if response is None else _decode(response, Assignment)

    async def wait_for_moves(
        self, node_id: str, known_version: str | None, wait_seconds: int
    ) -> Orders | None:
        """The released moves once they are others than `known_version`; None when the wait ended first."""
        response = await self._poll(f"{self._node(node_id)}/moves", known_version, wait_seconds)
        return None if response is None else _decode(response, Orders)

    # --- the rest of the API, for tools
    async def get(self, path: str) -> Any:
        """GET a resource below the cluster ("" is the cluster itself), decoded."""
        return _decode(await self._send("GET", self._cluster + path), Any)

    async def put(self, path: str, body: Any, *, headers: Mapping[str, str] | None = None) -> Any:
        """PUT a resource below the cluster, decoded answer."""
        content = msgspec.json.encode(body)
        return _decode(await self._send("PUT", self._cluster + path, content, JSON, headers=headers), Any)

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Any route by its whole path, decoded answer; None where it has none."""
        content = None if body is None else msgspec.json.encode(body)
        response = await self._send(method, path, content, None if body is None else JSON)
        return _decode(response, Any) if response.content else None

    # --- how
    def _node(self, node_id: str) -> str:
        return f"{self._cluster}/nodes/{quote(node_id, safe='')}"

    async def _poll(self, path: str, known: str | None, wait_seconds: int) -> httpx.Response | None:
        """One long poll, sent once: whoever polls in a loop waits between failures anyway."""
        headers = {"Prefer": f"wait={wait_seconds}"}
        if known is not None:
            headers["If-None-Match"] = f'"{known}"'
        try:
            response = await self._once(
                "GET", path, headers=headers, read_seconds=wait_seconds + _READ_SLACK_SECONDS
            )
        except ServiceProblem as problem:
            if problem.status == 404 and problem.problem.type != "about:blank":
                return None
            raise
        return None if response.status_code == 304 else response

    async def _send(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        media_type: str | None = None,
        *,
        coding: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        failures = 0

        def wait_before_retry(error: Exception) -> float | bool:
            nonlocal failures
            failures += 1
            if isinstance(error, ServiceProblem) and error.status in RETRIED_STATUSES:
                asked = error.retry_after_seconds
            elif isinstance(error, ServiceUnreachable) and (error.tries is None or failures < error.tries):
                asked = None
            else:
                return False
            if failures == 1:
                self._waiting(str(error))
            return self._retry.wait_seconds(failures, asked)

        async for attempt in stamina.retry_context(
            on=wait_before_retry, attempts=self._retry.attempts, timeout=self._retry.timeout_seconds
        ):
            self.retries += attempt.num > 1
            with attempt:
                return await self._once(method, path, content, media_type, coding=coding, headers=headers)
        raise AssertionError("a retry context ends by an answer or by its last error")

    async def _once(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        media_type: str | None = None,
        *,
        coding: str | None = None,
        headers: Mapping[str, str] | None = None,
        read_seconds: float | None = None,
    ) -> httpx.Response:
        sent = dict(headers or {})
        if media_type is not None:
            sent["Content-Type"] = media_type
        if coding is not None:
            sent["Content-Encoding"] = coding
        timeout = httpx.Timeout(self._timeout, read=read_seconds or self._timeout)
        begun: int | None = None
        try:
            async with self._http.stream(
                method, path, content=content, headers=sent, timeout=timeout
            ) as response:
                begun = response.status_code
                await response.aread()
        except httpx.RequestError as error:
            fault = await self._fault_of(error)
            words = f"{method} {path}: {fault.words}"
            if begun is not None and 200 <= begun < 300 and method != "GET":
                raise AnswerLost(f"{words}, after the answer {begun} had begun") from error
            raise ServiceUnreachable(words, fault.tries) from error
        self._examines = False
        if response.has_redirect_location:
            words = f"{method} {path}: sends on to {response.headers['Location']!r:.200}: give that address"
            raise ServiceUnreachable(words, tries=1)
        if response.is_success or response.status_code == 304:
            return response
        raise ServiceProblem(
            response.status_code, _problem(response), retry_after_seconds(response.headers.get("Retry-After"))
        )

    async def _fault_of(self, error: httpx.RequestError) -> ConnectionFault:
        url = self._http.base_url
        fault = fault_of(error, url)
        ended = isinstance(error, httpx.RemoteProtocolError | httpx.ReadError)
        if not ended or url.scheme != "http" or not self._examines:
            return fault
        return await asyncio.to_thread(examine, url) or fault


def _decode(response: httpx.Response, kind: type[_Answer] | Any) -> _Answer | Any:
    try:
        return msgspec.json.decode(response.content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        logger.debug("an answer that cannot be decoded: %s", error)
        request = response.request
        raise AnswerNotUnderstood(f"{request.method} {request.url.path}: {NOT_THE_SERVICE}") from error


def converted(answer: Any, shape: type[_Answer]) -> _Answer:
    """A decoded answer as far as it is of interest; other fields are ignored."""
    try:
        return msgspec.convert(answer, shape)
    except msgspec.ValidationError:
        raise AnswerNotUnderstood(NOT_THE_SERVICE) from None


def _problem(response: httpx.Response) -> Problem:
    if response.headers.get("Content-Type", "").startswith("application/problem+json"):
        try:
            return msgspec.json.decode(response.content, type=Problem)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            logger.debug("a problem that cannot be decoded: %s", error)
    said = response.reason_phrase or "an error"
    return Problem(title=f"{said}, without an explanation; does something else listen at this address?")
