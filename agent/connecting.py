"""Why a connection failed, in words that say what to do, and whether waiting can help."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import NamedTuple

import httpx

_CERTIFICATES = (
    "MOEPLACE_CA_FILE (service.ca_file in node.yaml) names a file with the certificate of its authority"
)
_PLAIN_ANSWERS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")
_HANDSHAKE_SECONDS = 2.0


class ConnectionFault(NamedTuple):
    """`lasting`: it stays so until somebody changes something; trying again is of no use."""

    words: str
    lasting: bool = False


def fault_of(error: httpx.HTTPError | httpx.InvalidURL, url: httpx.URL) -> ConnectionFault:
    """In words of the network, without those of libraries."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ConnectionFault(_certificate_fault(cause), lasting=True)
        if isinstance(cause, ssl.SSLError):
            return _tls_fault(cause, url)
        if isinstance(cause, socket.gaierror):
            return ConnectionFault(f"the name {url.host} cannot be resolved")
        if isinstance(cause, ConnectionRefusedError):
            return ConnectionFault(f"nothing listens on port {_port(url)} of {url.host}")
        if isinstance(cause, ConnectionResetError | BrokenPipeError):
            return _lost(url)
    if isinstance(error, httpx.ConnectTimeout):
        return ConnectionFault(f"{url.host} does not answer on port {_port(url)}")
    if isinstance(error, httpx.TimeoutException):
        return ConnectionFault("the answer did not come in time")
    if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
        return ConnectionFault(f"{str(url)!r:.200} is not a URL such as http://host:port", lasting=True)
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
        return ConnectionFault(
            f"what listens on port {_port(url)} of {url.host} does not speak HTTP", lasting=True
        )
    if isinstance(error, httpx.TransportError):
        return _lost(url)
    return ConnectionFault("the answer breaks the rules of HTTP", lasting=True)


def speaks_tls(url: httpx.URL) -> bool:
    """Whether a server that ended a plain connection answers a TLS handshake. Blocks for up to two
    seconds."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((url.host, _port(url)), _HANDSHAKE_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=url.host),
        ):
            return True
    except OSError:
        return False


def speaks_https_only(url: httpx.URL) -> ConnectionFault:
    return ConnectionFault(
        f"port {_port(url)} of {url.host} speaks HTTPS: use https:// in the URL", lasting=True
    )


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
        return ConnectionFault(words, lasting=True)
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return _lost(url)
    reason = (error.reason or "no reason given").replace("_", " ").lower()
    return ConnectionFault(f"the TLS connection cannot be made: {reason}", lasting=True)


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
