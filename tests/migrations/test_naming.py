from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from migrations.model import ORIGIN, PlanError
from migrations.naming import BY_INDEX, Names
from migrations.planner import plan
from migrations.verify import verify
from tests.migrations.instances import cluster

_NAMES = Names(nodes=("edge-a", "edge-b"), blocks=("layer 0 of tiny", "layer 1 of tiny"))


def test_reasons_use_the_words_they_are_given() -> None:
    """The same plan says "node 0" by index and "node edge-a" by name, whichever way it fails."""
    stuck = cluster([10, 10], [[1, 0], [0, 1]], [[0, 1], [1, 0]])
    lost = cluster([20, 20], [[1, 0], [0, 0]], [[1, 0], [0, 1]])
    full = cluster([10, 15], [[1, 0], [0, 1]], [[1, 0], [1, 1]])
    for change, by_index, by_name in (
        (stuck, "node 0 lacks 10 bytes", "node edge-a lacks 10 bytes"),
        (lost, "expert 0 of block 1 (node 1)", "expert 0 of layer 1 of tiny (node edge-b)"),
        (full, "node 1 lacks 5 bytes", "node edge-b lacks 5 bytes"),
    ):
        unnamed = plan(change.problem, change.source, change.target)
        named = plan(change.problem, change.source, change.target, names=_NAMES)
        assert unnamed.reason is not None
        assert named.reason is not None
        assert by_index in unnamed.reason
        assert by_name in named.reason
        assert replace(named, reason=unnamed.reason) == unnamed


def test_violations_use_the_words_they_are_given() -> None:
    """A violation names the node and the expert as the caller knows them."""
    change = cluster([20, 20], [[1, 1], [0, 0]], [[1, 1], [1, 1]])
    made = plan(change.problem, change.source, change.target)
    short = replace(made, moves=made.moves[:1])
    details = " ".join(
        violation.detail
        for violation in verify(change.problem, change.source, change.target, short, names=_NAMES)
    )
    assert "node edge-b does not hold expert 0 of layer 1 of tiny in the end" in details


def test_names_must_fit_the_problem() -> None:
    """One word per node and one phrase per block, or none; a name too few is refused by key."""
    change = cluster([20, 20], [[1, 1], [0, 0]], [[1, 1], [1, 1]])
    for names, message in (
        (Names(nodes=("a",)), "names.nodes: has 1 entries, expected 2"),
        (Names(blocks=()), "names.blocks: has 0 entries, expected 2"),
    ):
        with pytest.raises(PlanError, match=message):
            plan(change.problem, change.source, change.target, names=names)
        made = plan(change.problem, change.source, change.target)
        with pytest.raises(PlanError, match=message):
            verify(change.problem, change.source, change.target, made, names=names)


def test_the_origin_has_a_name_and_names_travel() -> None:
    """The origin is called by that word, and names can be sent to another process."""
    assert BY_INDEX.node(ORIGIN) == _NAMES.node(ORIGIN) == "the origin"
    assert pickle.loads(pickle.dumps(_NAMES)) == _NAMES
