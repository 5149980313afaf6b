"""Connections that cannot be: told apart at once, in words that name the remedy."""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from moeplace_agent.client import ServiceClient, ServiceError, ServiceUnreachable
from moeplace_agent.retrying import RetryPolicy
from tests.agent.experts import free_url

pytestmark = pytest.mark.anyio

LIBRARIES = ("httpx", "httpcore", "anyio", "Error(", "ssl.c", "SSL:", "Traceback", "Errno")


@contextlib.asynccontextmanager
async def server(answer: bytes, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Answers every request with the same bytes, over TLS or plainly; its port and host."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read(1 << 16)
            writer.write(answer)
            await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()


def tls(name: str = "127.0.0.1") -> ssl.SSLContext:
    """Of a certificate whose authority nobody here trusts."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert(name).configure_cert(context)
    return context


async def failure(url: str, ca_file: Path | None = None) -> ServiceError:
    """What a request ends with, which must be known long before the time for retries is over."""
    begun = time.monotonic()
    retry = RetryPolicy(timeout_seconds=60)
    with pytest.raises(ServiceError) as raised:
        async with ServiceClient(
            url, "c", retry=retry, use_environment=False, ca_file=ca_file, examines=True
        ) as client:
            await client.get("")
    assert time.monotonic() - begun < 10
    assert not [word for word in LIBRARIES if word in str(raised.value)], raised.value
    return raised.value


JSON = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


async def test_http_to_a_server_that_speaks_https() -> None:
    """It closes the connection without a word: the client finds out why, and does not try again."""
    async with server(JSON, tls()) as place:
        assert "speaks HTTPS: use https://" in str(await failure(f"http://{place}"))


async def test_https_to_a_server_that_speaks_http() -> None:
    """What comes is no TLS: the scheme is named as the fault."""
    async with server(JSON) as place:
        assert "speaks HTTP without TLS: use http://" in str(await failure(f"https://{place}"))


async def test_a_certificate_that_nobody_trusts() -> None:
    """The way to name its authority is said."""
    async with server(JSON, tls()) as place:
        assert "is not trusted" in str(found := await failure(f"https://{place}"))
    assert "MOEPLACE_CA_FILE" in str(found)
    assert isinstance(found, ServiceUnreachable)
    assert found.lasting


async def test_a_certificate_for_another_name(tmp_path: Path) -> None:
    """Trusted, and of another server."""
    authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("another.example").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with server(JSON, context) as place:
        words = str(await failure(f"https://{place}", tmp_path / "ca.pem"))
    assert "certificate is for another name" in words


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "does something else listen"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "does something else listen"),
        (b"HTTP/1.1 301 Moved\r\nLocation: https://b.example/\r\nContent-Length: 0\r\n\r\n", "sends on to"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi",
            "breaks the rules of HTTP",
        ),
    ],
    ids=["another protocol", "no JSON", "another server", "redirect", "broken coding"],
)
async def test_something_else_listens(answer: bytes, words: str) -> None:
    """Whatever it is, the command ends at once and says what was strange."""
    async with server(answer) as place:
        assert words in str(await failure(f"http://{place}"))


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8080", "ftp://h", "http://", "http://h:99999", "http://h:x", "http://h/?a=b", "http://[::"],
)
async def test_what_is_not_a_url_is_said_to_be_none(url: str) -> None:
    """Before anything is sent."""
    assert "is not a URL such as http://host:port" in str(await failure(url))


async def test_a_name_that_cannot_be_resolved_is_tried_a_few_times() -> None:
    """It may be a slip of the network for a moment, and is a slip of the hand after that."""
    found = await failure("http://nowhere.invalid:1")
    assert "the name nowhere.invalid cannot be resolved" in str(found)


async def test_a_port_on_which_nothing_listens_may_get_a_listener() -> None:
    """A service that is being started: this alone is waited for."""
    url = free_url()
    port = int(url.rpartition(":")[2])
    reasons: list[str] = []
    retry = RetryPolicy(first_seconds=0.1, longest_seconds=0.2, timeout_seconds=20)
    async with ServiceClient(url, "c", retry=retry, use_environment=False, waiting=reasons.append) as client:
        asking = asyncio.create_task(client.get(""))
        while not reasons:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.01)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(JSON)
            writer.close()

        listening = await asyncio.start_server(serve, "127.0.0.1", port, family=socket.AF_INET)
        assert await asking == {}
        listening.close()
    assert reasons == [f"GET /v1/clusters/c: nothing listens on port {port} of 127.0.0.1"]
