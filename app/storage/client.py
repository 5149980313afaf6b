"""Connections to Redis or Valkey, and what a server must be for the service to work on it."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard
from urllib.parse import SplitResult, urlsplit, urlunsplit

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig

from app.storage.sharded import ShardedRedis
from app.storage.slots import slot_of
from app.storage.topology import Address, NoCluster, Topology

SCHEMES: Mapping[str, str] = {
    "redis": "redis",
    "rediss": "rediss",
    "valkey": "redis",
    "valkeys": "rediss",
    "unix": "unix",
}
"""Accepted URL schemes and the ones redis-py knows them by."""

CLUSTER_SUFFIX = "+cluster"
"""Behind a scheme: the hosts (several, with commas) are servers of a Redis or Valkey Cluster."""

DEFAULT_PORT = 6379

MINIMUM_REDIS = (7, 0)
MINIMUM_VALKEY = (7, 2)

CONNECT_TIMEOUT_SECONDS = 3.0
COMMAND_TIMEOUT_SECONDS = 5.0
CONNECTIONS = 64
"""Connections a process opens at most; commands beyond wait for one."""

_CREDENTIALS = re.compile(r"(?<=://)(?P<user>[^:/?#@]*):.*@")
"""Up to the last @, so that no / or @ within a password leaves a part of it behind."""

log = structlog.stdlib.get_logger(__name__)


class StorageError(Exception):
    """The server cannot be used; the message is one line for an operator and holds no password."""


class StorageUnreachable(StorageError):
    """The server does not answer now and may later."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says about itself."""

    engine: str
    version: str
    eviction_policy: str


def redacted(url: str) -> str:
    """The URL without its password, also where the password's characters make it none that parses."""
    return _CREDENTIALS.sub(lambda found: f"{found['user']}:***@", url)


def open_client(url: str, *, blocking: bool = False) -> Redis:
    """A client that has not talked to any server yet; replies are bytes.

    `blocking` is for connections that wait in a command (XREAD BLOCK, pub/sub): their reads never time out.

    Commands are never repeated by the client: a command whose reply was lost may have been executed, and only
    its caller knows whether to do it again.
    """
    parts, sharded = _parts(url)
    if not sharded:
        return _open_server(parts, blocking=blocking)
    credentials, at, hosts = parts.netloc.rpartition("@")

    def open_server(address: Address) -> Redis:
        host = f"[{address.host}]" if ":" in address.host else address.host
        netloc = f"{credentials}{at}{host}:{address.port}"
        return _open_server(parts._replace(netloc=netloc), blocking=blocking)

    seeds = [_address(host, url) for host in hosts.split(",")]
    return ShardedRedis(Topology(seeds, open_server))


def _parts(url: str) -> tuple[SplitResult, bool]:
    """The URL with the scheme that redis-py knows, and whether it is that of a cluster."""
    try:
        parts = urlsplit(url)
        sharded = parts.scheme.endswith(CLUSTER_SUFFIX)
        if not sharded:
            _ = parts.port
    except ValueError:
        raise StorageError(
            f"redis_url: {redacted(url)!r} is not a URL; within a password, write / as %2F, @ as %40, "
            "# as %23, ? as %3F and : as %3A"
        ) from None
    scheme = SCHEMES.get(parts.scheme.removesuffix(CLUSTER_SUFFIX))
    if scheme is None or (sharded and scheme == "unix"):
        raise StorageError(
            "redis_url: expected redis://, rediss://, valkey://, valkeys:// or unix://, or for a cluster "
            f"redis+cluster:// and the like, got {redacted(url)!r}"
        )
    database = parts.path.strip("/")
    if scheme != "unix" and database and not database.isdecimal():
        raise StorageError(
            f"redis_url: expected the number of a database after the host, got {redacted(url)!r}"
        )
    if sharded and database not in ("", "0"):
        raise StorageError(f"redis_url: a cluster has database 0 alone, got {redacted(url)!r}")
    return parts._replace(scheme=scheme), sharded


def _address(host: str, url: str) -> Address:
    try:
        parts = urlsplit(f"//{host}")
        port = parts.port or DEFAULT_PORT
    except ValueError:
        parts, port = urlsplit(""), DEFAULT_PORT
    if not parts.hostname:
        raise StorageError(f"redis_url: expected HOST:PORT,HOST:PORT,... of a cluster, got {redacted(url)!r}")
    return Address(parts.hostname, port)


def _open_server(parts: SplitResult, *, blocking: bool) -> Redis:
    options: dict[str, Any] = {
        "max_connections": CONNECTIONS,
        "timeout": None if blocking else COMMAND_TIMEOUT_SECONDS,
        "socket_timeout": None if blocking else COMMAND_TIMEOUT_SECONDS,
        "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
        "client_name": "moeplace",
        "decode_responses": False,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    if parts.scheme != "unix":
        options["socket_keepalive"] = True
    url = urlunsplit(parts)
    try:
        pool = BlockingConnectionPool.from_url(url, **options)
    except (ValueError, TypeError) as error:
        raise StorageError(f"redis_url: {error} in {redacted(url)!r}") from None
    return Redis.from_pool(pool)


def is_sharded(redis: Redis) -> TypeGuard[ShardedRedis]:
    """Whether keys are spread over several servers."""
    return isinstance(redis, ShardedRedis)


async def servers_of(redis: Redis) -> list[Redis]:
    """A client of each server that has keys: of each primary of a cluster, or the one there is."""
    return await redis.topology.primaries() if is_sharded(redis) else [redis]


async def server_of(redis: Redis, key: str) -> Redis:
    """A client of the one server that has the key."""
    return await redis.topology.server(slot_of(("GET", key))) if is_sharded(redis) else redis


async def connect(url: str, *, blocking: bool = False) -> Redis:
    """A client whose server answered and can be used (`check_server`); raises `StorageError` otherwise."""
    redis = open_client(url, blocking=blocking)
    try:
        await check_server(redis, url)
    except BaseException:
        await redis.aclose()
        raise
    return redis


async def check_server(redis: Redis, url: str = "redis") -> ServerFacts:
    """Raise `StorageError` unless this is a writable Redis >= 7.0 or Valkey >= 7.2; warn if it may evict.

    Of a cluster each primary is looked at; what the last one says of itself is given."""
    where = redacted(url)
    try:
        infos = [await server.info() for server in await servers_of(redis)]
    except NoCluster as error:
        raise StorageError(f"{where}: this is not a cluster, use redis:// or the like: {error}") from None
    except BusyLoadingError:
        raise StorageUnreachable(f"{where}: the server is still loading its data") from None
    except (RedisTimeoutError, TimeoutError):
        raise StorageUnreachable(
            f"{where}: no answer within {COMMAND_TIMEOUT_SECONDS:g} s; is it a Redis or Valkey server?"
        ) from None
    except (RedisError, OSError) as error:
        raise _refusal(where, error) from None
    if not is_sharded(redis) and infos[0].get("cluster_enabled") == 1:
        raise StorageError(f"{where}: the server is one of a cluster, use redis+cluster:// and the like")
    return [_require_usable(info, where) for info in infos][-1]


def _require_usable(info: Mapping[str, Any], where: str) -> ServerFacts:
    facts = _facts(info)
    minimum = MINIMUM_VALKEY if facts.engine == "Valkey" else MINIMUM_REDIS
    found = _version(facts.version)
    if found < minimum:
        raise StorageError(
            f"{where}: {facts.engine} {facts.version} is too old, "
            f"moeplace needs Redis {_dotted(MINIMUM_REDIS)} or Valkey {_dotted(MINIMUM_VALKEY)}, or newer"
        )
    if info.get("role") == "slave":
        raise StorageError(f"{where}: the server is a read-only replica, give the address of its primary")
    if facts.eviction_policy != "noeviction":
        log.warning(
            "the server may evict keys when it is full and lose state: set maxmemory-policy noeviction",
            redis_url=where,
            maxmemory_policy=facts.eviction_policy,
        )
    return facts


# What servers answer while a connection is made reaches us as a plain connection error, so the text decides.
_NO_PASSWORD = re.compile("already authenticated|authentication required", re.IGNORECASE)
_WRONG_PASSWORD = re.compile("invalid username-password|invalid password|without any password", re.IGNORECASE)


def _refusal(where: str, error: Exception) -> StorageError:
    text = str(error)
    if _NO_PASSWORD.search(text):
        return StorageError(f"{where}: the server wants a password: redis://:PASSWORD@HOST:PORT")
    if _WRONG_PASSWORD.search(text) or isinstance(error, AuthenticationError | AuthorizationError):
        return StorageError(f"{where}: the server refuses the user name or password: {text}")
    if isinstance(error, ResponseError):
        return StorageError(f"{where}: the server answers {text}")
    return StorageUnreachable(f"{where}: cannot be reached: {_words(error)}")


def _facts(info: Mapping[str, Any]) -> ServerFacts:
    if "valkey_version" in info:
        engine, version = "Valkey", str(info["valkey_version"])
    else:
        engine, version = "Redis", str(info.get("redis_version", "of unknown version"))
    return ServerFacts(engine, version, str(info.get("maxmemory_policy", "noeviction")))


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _words(error: BaseException) -> str:
    """What went wrong in one line, without redis-py's error numbers where the cause has plain words."""
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OSError) and cause.errno:
        # asyncio puts its own words where the system's would be; name look-ups have negative numbers.
        return os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)
    return " ".join(str(error).split()) or type(error).__name__
