"""A Redis Cluster, used like one server: each command goes to the server that has its key's slot.

redis-py's own asynchronous cluster client is not used: it starts a thread and an event loop for each command
of a transaction, raises where its connections are all in use instead of waiting for one, and gives up a whole
pipeline when one of the servers fails. Here each server has redis-py's plain client.

What a server refused because a slot is elsewhere, or on its way, was not executed, so it is repeated; for as
long as `REDIRECTED_SECONDS`. Nothing else is: what was sent over a connection that broke may have been
executed. A transaction and a script touch one slot, and wait until a slot that is being moved key by key has
arrived: with half of its keys here and half there nobody could execute them.
"""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline, PubSub
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError, TryAgainError, WatchError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.storage.slots import TwoSlots, slot_of
from app.storage.topology import Address, Topology

REDIRECTED_SECONDS = 2.0
"""How long a command is repeated because of where its slot is."""

PAUSE_SECONDS = 0.05

REDIRECTIONS = (AskError, TryAgainError, ClusterDownError)
"""Not executed, because of where the slot is. A MovedError is an AskError."""

UNANSWERED = (RedisConnectionError, RedisTimeoutError, OSError)


class ShardedRedis(Redis):
    """Client of a whole cluster. `topology` is closed with it."""

    def __init__(self, topology: Topology) -> None:
        # Never used: every command is given to the client of one server.
        super().__init__(connection_pool=topology.anyone().connection_pool)
        self.topology = topology

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await self.topology.close()

    async def execute_command(self, *command: Any, **options: Any) -> Any:
        slot = slot_of(command)
        until = time.monotonic() + REDIRECTED_SECONDS
        asked: Redis | None = None
        while True:
            server = asked or await self.topology.server(slot)
            try:
                if asked is None:
                    return await server.execute_command(*command, **options)  # type: ignore[no-untyped-call]
                return await _asking(server, command, options)
            except REDIRECTIONS as error:
                if time.monotonic() >= until:
                    raise
                asked = self._asked(error)
                if asked is None:
                    await self.redirected(error)
            except (RedisError, OSError) as error:
                self.failed(error)
                raise

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> "ShardedPipeline":
        return ShardedPipeline(self, transaction)

    def pubsub(self, **options: Any) -> PubSub:
        """Any server: the cluster passes each message on to all of them."""
        return PubSub(self.topology.anyone().connection_pool, **options)

    async def redirected(self, error: RedisError) -> None:
        """Learn where the slot is from a server that refused it; what follows goes there."""
        if isinstance(error, MovedError) and self.topology.moved(error.slot_id, _address(error)):
            return
        await asyncio.sleep(PAUSE_SECONDS)
        if isinstance(error, MovedError | ClusterDownError):
            self.topology.suspect()

    def failed(self, error: BaseException) -> None:
        """A server may be gone."""
        if isinstance(error, UNANSWERED) or isinstance(error.__context__, UNANSWERED):
            self.topology.suspect()

    def _asked(self, error: RedisError) -> Redis | None:
        if isinstance(error, AskError) and not isinstance(error, MovedError):
            return self.topology.at(_address(error))
        return None


class ShardedPipeline(Pipeline):
    """A transaction on one slot's server, found by the first key it touches; or, without transaction, one
    pipeline to each of the servers that have a key, all at once."""

    def __init__(self, client: ShardedRedis, transaction: bool) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, transaction, None)
        self._client = client
        self._slot: int | None = None

    async def immediate_execute_command(self, *command: Any, **options: Any) -> Any:
        """WATCH, and what is read under it. `WatchError` where the slot is elsewhere: begin anew."""
        await self._bind(command)
        try:
            return await super().immediate_execute_command(*command, **options)  # type: ignore[no-untyped-call]
        except REDIRECTIONS as error:
            await self._client.redirected(error)
            raise WatchError(f"{error}") from error
        except (RedisError, OSError) as error:
            self._client.failed(error)
            raise

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        if not self.is_transaction and not self.explicit_transaction:
            commands, self.command_stack = self.command_stack, []
            return await self._scatter(commands, raise_on_error)
        watching, commands = self.connection is not None, self.command_stack
        until = time.monotonic() + REDIRECTED_SECONDS
        if not watching and not commands:
            return []
        while True:
            await self._bind(*(command for command, _ in commands))
            try:
                return await super().execute(raise_on_error)
            except REDIRECTIONS as error:
                await self._client.redirected(error)
                if watching:
                    raise WatchError(f"{error}") from error
                if time.monotonic() >= until:
                    raise
                self.command_stack = commands
            except (RedisError, OSError) as error:
                self._client.failed(error)
                raise

    async def _bind(self, *commands: Sequence[Any]) -> None:
        """Find the server, unless a connection to it is held already, for what was watched."""
        slot = slot_of(*commands)
        if self.connection is None:
            self._slot = slot
            server = await self._client.topology.server(slot)
            self.connection_pool = server.connection_pool
        elif slot not in (None, self._slot):
            raise TwoSlots("keys of another slot than those watched")

    async def _scatter(self, commands: Sequence[Any], raise_on_error: bool) -> list[Any]:
        shares: dict[Redis, list[int]] = {}
        for index, (command, _) in enumerate(commands):
            shares.setdefault(await self._client.topology.server(slot_of(command)), []).append(index)
        replies: list[Any] = [None] * len(commands)

        async def execute(server: Redis, share: Sequence[int]) -> None:
            pipe = server.pipeline(transaction=False)
            for index in share:
                command, options = commands[index]
                pipe.execute_command(*command, **options)
            found: list[Any]
            try:
                found = await pipe.execute(raise_on_error=False)
            except (RedisError, OSError) as error:
                self._client.failed(error)
                found = [error] * len(share)
            for index, reply in zip(share, found, strict=True):
                replies[index] = reply

        await asyncio.gather(*(execute(server, share) for server, share in shares.items()))
        refused: dict[int | None, list[int]] = {}
        for index, reply in enumerate(replies):
            if isinstance(reply, REDIRECTIONS):
                refused.setdefault(slot_of(commands[index][0]), []).append(index)
        await asyncio.gather(*(self._repeat(commands, share, replies) for share in refused.values()))
        if raise_on_error:
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return replies

    async def _repeat(self, commands: Sequence[Any], share: Sequence[int], replies: list[Any]) -> None:
        """The commands of one slot, in their order. Once its server cannot be had, the rest is not tried."""
        failure: Exception | None = None
        for index in share:
            command, options = commands[index]
            try:
                replies[index] = failure or await self._client.execute_command(*command, **options)
            except (*REDIRECTIONS, *UNANSWERED) as error:
                replies[index] = failure = error
            except RedisError as error:
                replies[index] = error


async def _asking(server: Redis, command: Sequence[Any], options: dict[str, Any]) -> Any:
    """Execute it at a server to which the slot is on its way."""
    pipe = server.pipeline(transaction=False)
    pipe.execute_command("ASKING")
    pipe.execute_command(*command, **options)
    _, reply = await cast("Awaitable[list[Any]]", pipe.execute())
    return reply


def _address(error: AskError) -> Address:
    return Address(error.host, error.port)
