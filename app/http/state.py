"""What every request finds at hand: set once on `app.state`, read with its type here."""

from typing import Any, cast

from redis.asyncio import Redis
from starlette.datastructures import State
from starlette.requests import HTTPConnection

from app.config import Settings
from app.http.waiting import Waiters

TOKEN = "moeplace.token"
"""Key of the request's scope: the id of its token, where it was authorised by one."""


def token_of(connection: HTTPConnection) -> str | None:
    found: str | None = connection.scope.get(TOKEN)
    return found


class AtHand(State):
    """With attributes of its own: those of `State` are looked up in a mapping, after a look-up that failed,
    and every request looks for several."""

    def __setattr__(self, key: Any, value: Any) -> None:
        object.__setattr__(self, key, value)


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
