"""Why a connection failed, in words that say what to do, and whether trying again can help."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Iterator
from typing import NamedTuple

import httpx

_CERTIFICATES = (
    "MOEPLACE_CA_FILE (service.ca_file in node.yaml) names a file with the certificate of its authority"
)
_PLAIN_ANSWERS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")
_LOOK_SECONDS = 2.0


_TRIES_OF_A_NAME = 4


class ConnectionFault(NamedTuple):
    """`tries`: after so many the fault will not pass by itself; None: it may pass at any moment."""

    words: str
    tries: int | None = None


def is_http_url(text: str) -> bool:
    """Whether it can be the base URL of a service."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return False
    return (
        url.scheme in ("http", "https")
        and url.host != ""
        and (url.port is None or 0 < url.port < 1 << 16)
        and not url.query
        and not url.fragment
        and re.search(r"\s", text) is None
    )


def fault_of(error: httpx.HTTPError | httpx.InvalidURL, url: httpx.URL) -> ConnectionFault:
    """In words of the network, without those of libraries."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ConnectionFault(_certificate_fault(cause), tries=1)
        if isinstance(cause, ssl.SSLError):
            return _tls_fault(cause, url)
        if isinstance(cause, socket.gaierror):
            return ConnectionFault(f"the name {url.host} cannot be resolved", tries=_TRIES_OF_A_NAME)
        if isinstance(cause, ConnectionRefusedError):
            return ConnectionFault(f"nothing listens on port {_port(url)} of {url.host}")
        if isinstance(cause, ConnectionResetError | BrokenPipeError):
            return _lost(url)
    if isinstance(error, httpx.ConnectTimeout):
        return ConnectionFault(f"{url.host} does not answer on port {_port(url)}")
    if isinstance(error, httpx.TimeoutException):
        return ConnectionFault("the answer did not come in time")
    if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
        return ConnectionFault(f"{str(url)!r:.200} is not a URL such as http://host:port", tries=1)
    if isinstance(error, httpx.ProxyError):
        return ConnectionFault(f"the proxy that the environment names refuses: {error}")
    if isinstance(error, httpx.LocalProtocolError):
        # The library's words may quote a header, and so the token.
        return ConnectionFault(
            "the request cannot be sent: a header holds characters that HTTP does not allow", True
        )
    if isinstance(error, httpx.RemoteProtocolError) and "disconnected" not in str(error):
        if "peer closed connection" in str(error):
            return ConnectionFault("the connection was closed in the middle of the answer")
        return _another_protocol(url)
    if isinstance(error, httpx.TransportError):
        return _lost(url)
    return ConnectionFault("the answer breaks the rules of HTTP", tries=1)


def examine(url: httpx.URL) -> ConnectionFault | None:
    """What listens there, where it ended a plain connection without an answer: something that wants TLS or
    speaks another protocol. Blocks for up to four seconds."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    place = (url.host, _port(url))
    with (
        contextlib.suppress(OSError),
        socket.create_connection(place, _LOOK_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=url.host),
    ):
        words = f"port {_port(url)} of {url.host} speaks HTTPS: use https:// in the URL"
        return ConnectionFault(words, tries=1)
    with contextlib.suppress(OSError), socket.create_connection(place, _LOOK_SECONDS) as plain:
        plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
        said = plain.recv(16)
        if said and not said.startswith(b"HTTP/"):
            return _another_protocol(url)
    return None


def _another_protocol(url: httpx.URL) -> ConnectionFault:
    return ConnectionFault(f"what listens on port {_port(url)} of {url.host} does not speak HTTP", tries=1)


def _lost(url: httpx.URL) -> ConnectionFault:
    return ConnectionFault(f"{url.host} closed the connection before it answered")


def _certificate_fault(error: ssl.SSLCertVerificationError) -> str:
    reason = error.verify_message
    if "ostname mismatch" in reason or "IP address mismatch" in reason:
        return f"the server's certificate is for another name: {reason.rstrip('.')}"
    if "expired" in reason or "not yet valid" in reason:
        return f"the server's certificate is not valid now: {reason.rstrip('.')}"
    return f"the server's certificate is not trusted ({reason.rstrip('.')}): {_CERTIFICATES}"


def _tls_fault(error: ssl.SSLError, url: httpx.URL) -> ConnectionFault:
    if any(word in (error.reason or "") for word in _PLAIN_ANSWERS):
        words = f"port {_port(url)} of {url.host} speaks HTTP without TLS: use http:// in the URL"
        return ConnectionFault(words, tries=1)
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return _lost(url)
    reason = (error.reason or "no reason given").replace("_", " ").lower()
    return ConnectionFault(f"the TLS connection cannot be made: {reason}", tries=1)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that led to it."""
    waiting, seen = [error], set()
    while waiting:
        cause = waiting.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        waiting += [other for other in (cause.__cause__, cause.__context__) if other is not None]
        if isinstance(cause, BaseExceptionGroup):
            waiting += cause.exceptions


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)
