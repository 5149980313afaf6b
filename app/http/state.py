"""What every request finds at hand: set once on `app.state`, read with its type here."""

from typing import cast

from redis.asyncio import Redis
from starlette.requests import HTTPConnection

from app.config import Settings
from app.http.waiting import Waiters


def settings_of(connection: HTTPConnection) -> Settings:
    """`app.state.settings`, set by `create_app`."""
    return cast(Settings, connection.app.state.settings)


def redis_of(connection: HTTPConnection) -> Redis:
    """`app.state.redis`, set when the application starts."""
    return cast(Redis, connection.app.state.redis)


def probing_redis_of(connection: HTTPConnection) -> Redis:
    """For probes alone: a busy process, whose requests wait for a connection, is a ready one."""
    return cast(Redis, connection.app.state.probing_redis)


def waiters_of(connection: HTTPConnection) -> Waiters:
    """`app.state.waiters`, set by `create_app`; fed by `Waiters.listen` while the application runs."""
    return cast(Waiters, connection.app.state.waiters)
