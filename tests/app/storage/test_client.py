"""Servers the service can work on are accepted, others refused in words an operator understands."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs

from app.storage.client import (
    StorageError,
    StorageUnreachable,
    check_server,
    connect,
    open_client,
    redacted,
)
from app.storage.embedded import EmbeddedServer
from tests.ports import free_port

pytestmark = pytest.mark.anyio

PASSWORD = "s3cret-word"


@contextlib.asynccontextmanager
async def answering(reply: bytes | None) -> AsyncIterator[str]:
    """A server that gives `reply` to INFO and OK to the rest; None says nothing at all."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                if reply is None:
                    continue
                commands = data.upper().count(b"*") or 1
                for part in data.upper().split(b"*")[-commands:]:
                    if b"HELLO" in part:
                        writer.write(b"-ERR unknown command 'HELLO'\r\n")
                    elif b"INFO" in part and b"SETINFO" not in part:
                        writer.write(b"$%d\r\n%s\r\n" % (len(reply), reply))
                    else:
                        writer.write(b"+OK\r\n")
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"redis://127.0.0.1:{port}?protocol=2"
    finally:
        server.close()


@pytest.fixture
async def locked_down(redis: Redis, redis_server: EmbeddedServer) -> AsyncIterator[str]:
    """URL of a server that wants a password."""
    await redis.config_set("requirepass", PASSWORD)
    try:
        yield redis_server.url
    finally:
        await redis.config_set("requirepass", "")


async def test_our_own_server_is_good_enough(redis: Redis, redis_server: EmbeddedServer) -> None:
    """The embedded server passes its own check, and evicts nothing."""
    with capture_logs() as logs:
        facts = await check_server(redis, redis_server.url)
    assert facts.eviction_policy == "noeviction"
    assert facts.engine in {"Valkey", "Redis"}
    assert logs == []


async def test_eviction_is_warned_about(redis: Redis, redis_server: EmbeddedServer) -> None:
    """A server that may evict keys works, but the operator is told that it may lose state."""
    await redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with capture_logs() as logs:
            await check_server(redis, redis_server.url)
    finally:
        await redis.config_set("maxmemory-policy", "noeviction")
    assert [entry["maxmemory_policy"] for entry in logs] == ["allkeys-lru"]


async def test_replies_are_bytes_and_commands_are_not_repeated(redis_url: str) -> None:
    """A client gives bytes, and a command whose connection breaks is not sent again behind our back."""
    async with await connect(redis_url) as client, open_client(redis_url) as killer:
        assert await client.set("a", b"\xff")
        assert await client.get("a") == b"\xff"

        async def kill_soon() -> None:
            await asyncio.sleep(0.1)
            await killer.client_kill_filter(_type="normal", skipme=True)

        killing = asyncio.create_task(kill_soon())
        with pytest.raises(RedisConnectionError):
            await client.blpop(["nothing"], timeout=3)
        await killing


@pytest.mark.parametrize("scheme", ["valkey", "redis"])
async def test_both_names_of_the_protocol_are_accepted(scheme: str) -> None:
    """valkey:// is what redis:// is."""
    async with answering(b"redis_version:7.2.4\r\nvalkey_version:8.0.1\r\nrole:master\r\n") as url:
        client = await connect(url.replace("redis://", f"{scheme}://"))
        await client.aclose()


@pytest.mark.parametrize(
    ("info", "said"),
    [
        (b"redis_version:6.2.14\r\n", r"Redis 6\.2\.14 is too old.*Redis 7\.0 or Valkey 7\.2"),
        (b"redis_version:7.2.4\r\nvalkey_version:7.1.9\r\n", r"Valkey 7\.1\.9 is too old"),
        (b"something:else\r\n", r"of unknown version is too old"),
    ],
)
async def test_old_servers_are_refused(info: bytes, said: str) -> None:
    """A server below the floor is named with its version and the floor."""
    async with answering(info) as url:
        with pytest.raises(StorageError, match=said):
            await connect(url)


@pytest.mark.parametrize(
    "info", [b"redis_version:7.0.0\r\n", b"redis_version:7.2.4\r\nvalkey_version:7.2.0\r\n"]
)
async def test_oldest_accepted_servers(info: bytes) -> None:
    """The floor itself is accepted."""
    async with answering(info) as url:
        await (await connect(url)).aclose()


async def test_read_only_replica_is_refused() -> None:
    """A replica would refuse every write: the operator is sent to its primary."""
    async with answering(b"redis_version:7.4.0\r\nrole:slave\r\n") as url:
        with pytest.raises(StorageError, match="read-only replica"):
            await connect(url)


async def test_nobody_there() -> None:
    """A closed port, a missing socket and an unknown host are unreachable, each in one line."""
    for url in (
        f"redis://127.0.0.1:{free_port()}",
        "unix:///nonexistent/valkey.sock",
        "redis://nowhere.invalid",
    ):
        with pytest.raises(StorageUnreachable, match=r"cannot be reached: .+") as raised:
            await connect(url)
        assert "\n" not in str(raised.value)


async def test_silent_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something that accepts connections and says nothing is given up after the command's time."""
    monkeypatch.setattr("app.storage.client.COMMAND_TIMEOUT_SECONDS", 0.3)
    async with answering(None) as url:
        with pytest.raises(StorageUnreachable, match=r"no answer within 0\.3 s"):
            await connect(url)


async def test_missing_and_wrong_passwords(locked_down: str) -> None:
    """Both are told apart from an unreachable server, and no password is printed."""
    with pytest.raises(StorageError, match="wants a password"):
        await connect(locked_down)
    wrong = locked_down.replace("unix://", "unix://:wr0ng-word@")
    with pytest.raises(StorageError, match="refuses the user name or password") as raised:
        await connect(wrong)
    assert "wr0ng-word" not in str(raised.value)
    right = locked_down.replace("unix://", f"unix://:{PASSWORD}@")
    await (await connect(right)).aclose()


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:6379", "127.0.0.1:6379", "", "redis://127.0.0.1:port", "redis://127.0.0.1:6379/name"],
)
async def test_urls_that_are_none(url: str) -> None:
    """A malformed URL is named as the setting it came from."""
    with pytest.raises(StorageError, match=r"^redis_url: "):
        await connect(url)


async def test_passwords_are_redacted() -> None:
    """Messages name the server without its password."""
    assert redacted("rediss://user:secret@host:1/0") == "rediss://user:***@host:1/0"
    assert redacted("redis://host") == "redis://host"
    assert redacted("unix://:secret@/run/valkey.sock") == "unix://:***@/run/valkey.sock"


@pytest.mark.parametrize("password", ["sec/ret", "sec@ret", "sec#ret", "sec?ret", "sec:ret", "s[ecret"])
async def test_a_password_that_needs_escapes_is_not_printed(password: str) -> None:
    """Written as it is, it makes the URL another one or none; either way no part of it is in the message."""
    with pytest.raises(StorageError) as raised:
        await connect(f"redis://:{password}@127.0.0.1:1/0")
    assert "ret" not in str(raised.value)


async def test_blocking_client_outlives_the_command_timeout(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blocking read that takes longer than ordinary commands may is waited for."""
    monkeypatch.setattr("app.storage.client.COMMAND_TIMEOUT_SECONDS", 0.2)
    async with open_client(redis_url, blocking=True) as client:
        assert await client.blpop(["nothing"], timeout=0.6) is None
