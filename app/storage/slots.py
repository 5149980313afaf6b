"""Which slot of a Redis Cluster a command belongs to."""

from collections.abc import Sequence

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

SLOTS = REDIS_CLUSTER_HASH_SLOTS

KEYLESS = frozenset({"PING", "INFO", "COMMAND", "TIME", "CONFIG", "CLUSTER", "CLIENT", "SCRIPT", "UNWATCH"})
"""Commands used here that any server answers; of those with two words, the first."""

SCRIPTS = frozenset({"EVAL", "EVALSHA"})


def slot_of(command: Sequence[object]) -> int | None:
    """Slot of the command's first key, which is that of all its keys; None where it has none.

    A scan belongs to the slot of its pattern's hash tag: nobody here scans for more than one cluster's keys.
    """
    name = _word(command[0]).partition(" ")[0]
    if name in KEYLESS or len(command) < 2:
        return None
    if name in SCRIPTS:
        return key_slot(_bytes(command[3]))
    if name == "SCAN":
        return key_slot(_bytes(command[[_word(part) for part in command].index("MATCH") + 1]))
    return key_slot(_bytes(command[1]))


def _word(part: object) -> str:
    return (part.decode(errors="replace") if isinstance(part, bytes) else str(part)).upper()


def _bytes(key: object) -> bytes:
    return key if isinstance(key, bytes) else str(key).encode()
