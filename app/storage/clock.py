"""The time that all processes share: the clock of the server that has the data.

Hosts' clocks differ. A lease or a deadline that one process stamps and another one judges is therefore
stamped and judged with the server's clock alone: in the script or the transaction where it matters (`NOW`).
"""

from redis.asyncio.client import Pipeline

NOW = """
local time = redis.call('TIME')
return time[1] * 1000 + math.floor(time[2] / 1000)
"""
"""KEYS any key of the cluster asked about. Milliseconds since the epoch, by the server that has the key."""


def queue_now(pipe: Pipeline, key: str) -> None:
    """The pipeline gives the time too: whole milliseconds, by the server that has the key."""
    pipe.eval(NOW, 1, key)
