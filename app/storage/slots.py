"""Which slot of a Redis Cluster a command belongs to."""

from collections.abc import Sequence

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import RedisError

SLOTS = REDIS_CLUSTER_HASH_SLOTS

KEYLESS = frozenset({"PING", "INFO", "COMMAND", "TIME", "CONFIG", "CLUSTER", "CLIENT", "SCRIPT", "UNWATCH"})
"""Commands used here that any server answers; of those with two words, the first."""

SCRIPTS = frozenset({"EVAL", "EVALSHA"})

KEYS_ALONE = frozenset({"DEL", "UNLINK", "EXISTS", "WATCH", "MGET", "TOUCH"})
"""Commands all of whose arguments are keys. Those of the others used here have one, the first argument."""


class TwoSlots(RedisError):
    """A command, script or transaction touches keys of two slots: a fault of the program, which no cluster
    could execute."""


def slot_of(*commands: Sequence[object]) -> int | None:
    """The one slot that the commands' keys are in; None where they have no keys. Raises `TwoSlots`.

    A channel counts as a key, and a scan belongs to its pattern's slot: nobody here scans for more than one
    cluster's keys.
    """
    slots = {key_slot(_bytes(key)) for command in commands for key in _keys(command)}
    if len(slots) > 1:
        names = ", ".join(sorted({_word(command[0]) for command in commands}))
        raise TwoSlots(f"keys of {len(slots)} slots in {names}")
    return next(iter(slots), None)


def _keys(command: Sequence[object]) -> Sequence[object]:
    name = _word(command[0]).partition(" ")[0]
    if name in KEYLESS:
        return ()
    if name in SCRIPTS:
        return command[3 : 3 + int(str(command[2]))]
    if name in KEYS_ALONE:
        return command[1:]
    if name == "SCAN":
        return (command[[_word(part) for part in command].index("MATCH") + 1],)
    return command[1:2]


def _word(part: object) -> str:
    return (part.decode(errors="replace") if isinstance(part, bytes) else str(part)).upper()


def _bytes(key: object) -> bytes:
    return key if isinstance(key, bytes) else str(key).encode()
