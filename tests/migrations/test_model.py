from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrations.model import Limits, Plan, PlanError, decode_plan, encode_plan, load_plan, save_plan
from migrations.planner import plan
from tests.migrations.instances import Change, changes, cluster


@settings(max_examples=30)
@given(change=changes(max_nodes=4))
def test_a_plan_survives_its_file(change: Change) -> None:
    """Writing and reading a plan, INFEASIBLE or not, changes nothing, times included."""
    made = plan(change.problem, change.source, change.target)
    assert decode_plan(encode_plan(made)) == made


def _made() -> Plan:
    change = cluster([20, 10], [[1, 0], [0, 1]], [[0, 1], [1, 0]])
    return plan(change.problem, change.source, change.target)


def test_the_file_has_the_documented_keys(tmp_path: Path) -> None:
    """The keys of moeplace-plan/1, in the order in which it is documented."""
    path = tmp_path / "plan.json"
    save_plan(path, _made())
    document = json.loads(path.read_text())
    assert list(document) == ["format", "status", "from_digest", "to_digest", "moves", "estimate", "reason"]
    assert document["format"] == "moeplace-plan/1"
    assert list(document["moves"][0]) == [
        "move_id", "kind", "block", "expert", "source", "destination", "bytes", "depends_on",
        "start_seconds", "end_seconds",
    ]  # fmt: skip
    assert list(document["estimate"]) == ["bytes", "seconds", "lower_bound_seconds"]
    assert {move["source"] for move in document["moves"] if move["kind"] == "DROP"} == {None}
    assert load_plan(path) == _made()


def _set(document: Any, path: list[str | int], value: Any) -> None:
    for key in path[:-1]:
        document = document[key]
    document[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["format"], "moeplace-plan/9", "format: is 'moeplace-plan/9', expected 'moeplace-plan/1'"),
        (["status"], "FINE", r"Invalid enum value 'FINE' - at `\$.status`"),
        (["moves", 1, "kind"], "SWAP", r"at `\$.moves\[1\].kind`"),
        (["moves", 1, "bytes"], "ten", r"Expected `int`, got `str` - at `\$.moves\[1\].bytes`"),
        (["moves", 1, "bytes"], -1, r"moves\[1\].bytes: is -1, expected a finite number of at least 0"),
        (["moves", 0, "start_seconds"], -0.5, r"moves\[0\].start_seconds: is -0.5"),
        (["moves", 0, "end_seconds"], 1e400, "Number out of range|end_seconds"),
        (["moves", 0, "start_seconds"], 9.0, r"moves\[0\].end_seconds: is 1.0, expected at least"),
        (["moves", 0, "source"], None, r"moves\[0\].source: is None, expected a node or -1"),
        (["moves", 0, "source"], -2, r"moves\[0\].source: is -2"),
        (["moves", 1, "source"], 1, r"moves\[1\].source: is 1, expected null for a DROP"),
        (["moves", 1, "move_id"], "m00000", r"moves\[1\].move_id: is 'm00000', as in moves\[0\]"),
        (["moves", 1, "move_id"], "", r"moves\[1\].move_id: is empty"),
        (["moves", 1, "depends_on"], [7], r"at `\$.moves\[1\].depends_on\[0\]`"),
        (["estimate", "seconds"], -1, "estimate.seconds: is -1"),
        (["status"], "INFEASIBLE", "moves: expected none"),
    ],
)
def test_malformed_files_name_the_key_and_the_index(
    path: list[str | int], value: object, message: str
) -> None:
    """Each fault is refused with one line that says where it is and what was expected."""
    document = json.loads(encode_plan(_made()))
    _set(document, path, value)
    text = json.dumps(document).replace("Infinity", "1e400")
    with pytest.raises(PlanError, match=message) as refused:
        decode_plan(text.encode())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("key", ["format", "status", "from_digest", "to_digest", "moves", "estimate"])
def test_missing_keys_are_named(key: str) -> None:
    """Every key but the reason is required."""
    document = json.loads(encode_plan(_made()))
    del document[key]
    with pytest.raises(PlanError, match=f"missing required field `{key}`"):
        decode_plan(json.dumps(document).encode())


def test_an_infeasible_plan_without_a_reason_is_refused() -> None:
    """INFEASIBLE carries its reason."""
    document = json.loads(encode_plan(_made()))
    document |= {"status": "INFEASIBLE", "moves": []}
    with pytest.raises(PlanError, match="reason: absent"):
        decode_plan(json.dumps(document).encode())


@given(garbage=st.one_of(st.binary(max_size=200), st.text(max_size=50).map(str.encode)))
def test_garbage_is_refused(garbage: bytes) -> None:
    """Whatever is not a plan is refused with `PlanError`, never another exception."""
    with pytest.raises(PlanError):
        decode_plan(garbage)


def test_deep_nesting_is_refused() -> None:
    """A document nested beyond any plan is refused, not recursed into without end."""
    with pytest.raises(PlanError):
        decode_plan(b'{"moves":' + b"[" * 100_000)


@pytest.mark.parametrize("value", [0, -1, True, 1.5])
@pytest.mark.parametrize("key", ["max_receives", "max_sends", "origin_max_sends", "max_copies"])
def test_limits_are_whole_numbers_of_at_least_one(key: str, value: Any) -> None:
    """A cap that would let nothing run is refused by name."""
    with pytest.raises(PlanError, match=f"{key}: is"):
        Limits(**{key: value})
