"""The time that all processes share: the clock of the server that has the data.

Hosts' clocks differ. A lease or a deadline that one process stamps and another one judges is therefore
stamped and judged with the server's clock: exactly, in the script or the transaction where it matters
(`NOW`), or to within moments by what a process last measured (`server_now`), which its monotonic clock
carries on. What a host's own clock shows decides nothing.
"""

import asyncio
import math
import os
import socket
import time
from datetime import UTC, datetime
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError

from app.observability.metrics import CLOCK_AHEAD, CLOCK_ERROR
from app.storage.keys import PROCESS_CLOCKS

NOW = """
local time = redis.call('TIME')
return time[1] * 1000 + math.floor(time[2] / 1000)
"""
"""KEYS any key of the cluster asked about. Milliseconds since the epoch, by the server that has the key."""

MEASURE_SECONDS: Final = 5.0
"""How often a process compares its clock with the server's."""

RETRY_SECONDS: Final = 0.5
FIRST_SECONDS: Final = 1.0
"""How long a process that starts waits for its first comparison."""

SAMPLES: Final = 3
"""Questions of one comparison: the one answered fastest says most."""

DRIFT: Final = 2e-4
"""Seconds by which a monotonic clock may be wrong after one second; quartz is ten times better."""

MILLISECOND: Final = 1e-3

SAID_SECONDS: Final = 30.0
"""How long what a process said of its clock counts."""

# KEYS process_clocks; ARGV name of the process, milliseconds its host's clock is ahead, how long it counts
# The names of all processes whose words count, each with its `ahead:until`.
_SAY = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ':' .. string.format('%.0f', now + ARGV[3]))
local all = redis.call('HGETALL', KEYS[1])
local said = {}
for i = 1, #all, 2 do
  if tonumber(string.match(all[i + 1], ':(%d+)$') or '0') < now then
    redis.call('HDEL', KEYS[1], all[i])
  else
    said[#said + 1] = all[i]
    said[#said + 1] = all[i + 1]
  end
end
return said
"""


def queue_now(pipe: Pipeline, key: str) -> None:
    """The pipeline gives the time too: whole milliseconds, by the server that has the key."""
    pipe.eval(NOW, 1, key)


class ServerClock:
    """The server's clock as one process knows it. Until it was measured once it is that of the host."""

    def __init__(self) -> None:
        self._offset = 0.0
        self._error = math.inf
        self._at = 0.0

    @property
    def measured(self) -> bool:
        return math.isfinite(self._error)

    def seconds(self) -> float:
        """Since the epoch."""
        return time.monotonic() + self._offset if self.measured else time.time()

    @property
    def error_seconds(self) -> float:
        """By how much `seconds` may be wrong; infinite until it was measured."""
        return self._error + DRIFT * (time.monotonic() - self._at)

    @property
    def ahead_seconds(self) -> float:
        """How far the host's clock is ahead of the server's; negative: behind."""
        return time.time() - self.seconds()

    async def measure(self, redis: Redis) -> None:
        """Compare the clocks. With a Redis Cluster the one compared with is that of the server which has the
        list of clusters."""
        for _ in range(SAMPLES):
            sent = time.monotonic()
            milliseconds = int(await redis.eval(NOW, 1, PROCESS_CLOCKS))
            received = time.monotonic()
            error = (received - sent) / 2 + MILLISECOND
            self._take(milliseconds / 1000 + MILLISECOND / 2 - (sent + received) / 2, error, received)

    def _take(self, offset: float, error: float, now: float) -> None:
        """Keep the better of what was known and what was measured; where both cannot be true, the server's
        clock was set, or another server has taken over."""
        known = self.error_seconds
        if error <= known or abs(offset - self._offset) > error + known:
            self._offset, self._error, self._at = offset, error, now


PROCESS_CLOCK = ServerClock()
"""Of this process; `keep_clock` measures it."""


def server_seconds() -> float:
    """Since the epoch, by the server's clock."""
    return PROCESS_CLOCK.seconds()


def server_now() -> datetime:
    return datetime.fromtimestamp(PROCESS_CLOCK.seconds(), UTC)


class ProcessClocks:
    """What the processes of the service say of their hosts' clocks, as this one last heard."""

    def __init__(self) -> None:
        self.ahead: dict[str, float] = {}
        """Name of the process -> seconds that its host's clock is ahead of the server's."""

    async def say(self, redis: Redis, name: str) -> None:
        ahead = str(round(PROCESS_CLOCK.ahead_seconds * 1000))
        said = await redis.eval(_SAY, 1, PROCESS_CLOCKS, name, ahead, str(round(SAID_SECONDS * 1000)))
        names, values = said[::2], said[1::2]
        self.ahead = {
            known.decode(): int(value.partition(b":")[0]) / 1000
            for known, value in zip(names, values, strict=True)
        }


PROCESS_CLOCKS_HEARD = ProcessClocks()


def process_name(role: str) -> str:
    """What a person finds this process by."""
    return f"{role} {os.getpid()} on {socket.gethostname()}"


async def first_measure(redis: Redis) -> None:
    """For a process that starts: compare the clocks once, unless the server does not answer now."""
    try:
        async with asyncio.timeout(FIRST_SECONDS):
            await PROCESS_CLOCK.measure(redis)
    except (RedisError, OSError):  # TimeoutError is an OSError
        return


async def keep_clock(redis: Redis, name: str) -> None:
    """Compare the clocks again and again until cancelled, and say how this host's differs; `name` is what a
    person finds this process by."""
    while True:
        try:
            await PROCESS_CLOCK.measure(redis)
            CLOCK_AHEAD.set(PROCESS_CLOCK.ahead_seconds)
            CLOCK_ERROR.set(PROCESS_CLOCK.error_seconds)
            await PROCESS_CLOCKS_HEARD.say(redis, name)
        except (RedisError, OSError):
            await asyncio.sleep(RETRY_SECONDS)
            continue
        await asyncio.sleep(MEASURE_SECONDS if PROCESS_CLOCK.measured else RETRY_SECONDS)
