"""A cluster's keys are in one slot, and whatever would touch two is refused before it is sent."""

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from app.schema import ID_PATTERN
from app.storage.keys import CLUSTERS, INDEX_DISK_MARK, ClusterKeys
from app.storage.slots import TwoSlots, slot_of

CLUSTER_IDS = st.from_regex(ID_PATTERN, fullmatch=True)


def keys_of(keys: ClusterKeys) -> list[str]:
    """Every key there is of a cluster, channels included."""
    found = []
    for name, member in inspect.getmembers(ClusterKeys):
        if name.startswith("_") or name == "cluster_id":
            continue
        if isinstance(member, property):
            found.append(getattr(keys, name))
        else:
            arguments = inspect.signature(member).parameters.values()
            found.append(
                member(keys, *(1 if p.annotation is int else "x{y}z" for p in arguments if p.name != "self"))
            )
    return found


@given(CLUSTER_IDS)
def test_all_keys_of_a_cluster_are_in_one_slot(cluster_id: str) -> None:
    """Whatever the id, and whatever braces its members' might have: the hash tag is the cluster's id."""
    keys = keys_of(ClusterKeys(cluster_id))
    assert len(keys) > 30
    assert {key_slot(key.encode()) for key in keys} == {key_slot(cluster_id.encode())}


def test_the_mark_of_the_index_is_beside_it() -> None:
    """A write to the index is on disk once a mark at the same server is."""
    assert slot_of(("GET", INDEX_DISK_MARK)) == slot_of(("GET", CLUSTERS))


def test_keys_are_found_in_every_form_of_command() -> None:
    """Scripts declare their keys, some commands have nothing but keys, scans a pattern with a hash tag."""
    here = key_slot(b"east")
    for command in (
        ("GET", "moeplace:{east}:cluster"),
        ("SET", b"moeplace:{east}:cluster", "moeplace:{west}:value"),
        ("UNLINK", "moeplace:{east}:a", "moeplace:{east}:b"),
        ("EVAL", "return 1", 2, "moeplace:{east}:a", "moeplace:{east}:b", "moeplace:{west}:argument"),
        ("PUBLISH", "moeplace:{east}:wake", "work"),
        ("SCAN", 0, b"MATCH", "moeplace:{east}:*", b"COUNT", 10),
    ):
        assert slot_of(command) == here, command
    for keyless in (("INFO",), ("COMMAND INFO", "WAITAOF"), ("CONFIG SET", "a", "b"), ("PING",)):
        assert slot_of(keyless) is None, keyless


@pytest.mark.parametrize(
    "commands",
    [
        [("UNLINK", "moeplace:{east}:a", "moeplace:{west}:a")],
        [("EVAL", "return 1", 2, "moeplace:{east}:a", "moeplace:{west}:b")],
        [("SET", "moeplace:{east}:a", 1), ("SADD", CLUSTERS, "east")],
    ],
)
def test_two_slots_are_refused(commands: list[tuple[object, ...]]) -> None:
    """In one command, in one script, in one transaction."""
    with pytest.raises(TwoSlots):
        slot_of(*commands)
