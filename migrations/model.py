"""Moves, plans and their file format, moeplace-plan/1."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Final

import msgspec

PLAN_FORMAT: Final = "moeplace-plan/1"
ORIGIN: Final = -1
"""The `source` of a copy that is read from the origin."""


class PlanError(ValueError):
    """A plan, a file or a limit that breaks its contract; one line that names the key and the index."""


class MoveKind(StrEnum):
    COPY = "COPY"
    DROP = "DROP"


class PlanStatus(StrEnum):
    OK = "OK"
    INFEASIBLE = "INFEASIBLE"


@dataclass(frozen=True, slots=True)
class Move:
    """One copy of an expert into a node, or one drop of an expert from a node.

    `expert` is the id within `block`; `source` is a node, ORIGIN, or None for a drop; `destination` is the
    node that gains or loses the expert; `depends_on` names the moves that must have succeeded before.
    """

    move_id: str
    kind: MoveKind
    block: int
    expert: int
    source: int | None
    destination: int
    bytes: int
    depends_on: tuple[str, ...]
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes copied, seconds until the last move ends, and a bound no schedule of these ends can beat."""

    bytes: int
    seconds: float
    lower_bound_seconds: float


@dataclass(frozen=True)
class Plan:
    """An ordered way from one placement to another; `moves` is empty and `reason` set when INFEASIBLE.

    Moves stand in the order of their start, and after everything they depend on.
    """

    status: PlanStatus
    reason: str | None
    from_digest: str
    to_digest: str
    moves: tuple[Move, ...]
    estimate: Estimate

    @cached_property
    def by_id(self) -> Mapping[str, Move]:
        return {move.move_id: move for move in self.moves}


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps of the timing model, the same for planner, executor and verifier.

    max_receives, max_sends: copies one node takes part in at once, each at an equal share of its link.
    origin_max_sends: copies the origin serves at once, each at an equal share of its egress.
    max_copies: copies running in the whole cluster at once; None = no cap.
    """

    max_receives: int = 1
    max_sends: int = 1
    origin_max_sends: int = 4
    max_copies: int | None = None

    def __post_init__(self) -> None:
        for key in ("max_receives", "max_sends", "origin_max_sends", "max_copies"):
            value = getattr(self, key)
            if value is None and key == "max_copies":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise PlanError(f"{key}: is {value!r:.60}, expected a whole number of at least 1")


class _PlanDocument(msgspec.Struct):
    # The order is that of the file; `format` first lets a reader see at once what it holds.
    format: str
    status: PlanStatus
    from_digest: str
    to_digest: str
    moves: tuple[Move, ...]
    estimate: Estimate
    reason: str | None = None


def encode_plan(plan: Plan) -> bytes:
    """The plan as one JSON document of format moeplace-plan/1. O(moves + dependencies)."""
    return msgspec.json.encode(
        _PlanDocument(
            PLAN_FORMAT, plan.status, plan.from_digest, plan.to_digest, plan.moves, plan.estimate, plan.reason
        )
    )


def decode_plan(document: bytes) -> Plan:
    """The plan in `document`; whether it is a right one for two placements is `verify`'s business.

    Raises `PlanError` with one line that names the key and the index. O(moves + dependencies).
    """
    try:
        read = msgspec.json.decode(document, type=_PlanDocument)
    except msgspec.ValidationError as error:
        raise PlanError(f"plan: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PlanError(f"plan: not JSON: {error}") from None
    except RecursionError:
        raise PlanError("plan: not a plan: nested too deeply") from None
    if read.format != PLAN_FORMAT:
        raise PlanError(f"format: is {read.format!r:.60}, expected {PLAN_FORMAT!r}")
    seen: dict[str, int] = {}
    for index, move in enumerate(read.moves):
        _check_move(index, move)
        first = seen.setdefault(move.move_id, index)
        if first != index:
            raise PlanError(
                f"moves[{index}].move_id: is {move.move_id!r:.60}, as in moves[{first}], expected another"
            )
    _at_least_zero("estimate.bytes", read.estimate.bytes)
    _at_least_zero("estimate.seconds", read.estimate.seconds)
    _at_least_zero("estimate.lower_bound_seconds", read.estimate.lower_bound_seconds)
    if read.status is PlanStatus.INFEASIBLE:
        if read.moves:
            raise PlanError("moves: expected none in a plan whose status is INFEASIBLE")
        if not read.reason:
            raise PlanError("reason: absent, expected one in a plan whose status is INFEASIBLE")
    return Plan(read.status, read.reason, read.from_digest, read.to_digest, read.moves, read.estimate)


def save_plan(path: Path, plan: Plan) -> None:
    """Write the plan to `path` as moeplace-plan/1, whole or not at all. Raises OSError."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as temporary:
        written = Path(temporary.name)
        try:
            temporary.write(encode_plan(plan))
            temporary.flush()
            os.fsync(temporary.fileno())
            written.chmod(0o644)
            written.replace(path)
        except BaseException:
            written.unlink(missing_ok=True)
            raise


def load_plan(path: Path) -> Plan:
    """Read a plan from `path`. Raises `PlanError` on a malformed file, OSError on an unreadable one."""
    return decode_plan(path.read_bytes())


def _check_move(index: int, move: Move) -> None:
    where = f"moves[{index}]"
    if not move.move_id:
        raise PlanError(f"{where}.move_id: is empty, expected a name")
    _at_least_zero(f"{where}.block", move.block)
    _at_least_zero(f"{where}.expert", move.expert)
    _at_least_zero(f"{where}.destination", move.destination)
    _at_least_zero(f"{where}.bytes", move.bytes)
    _at_least_zero(f"{where}.start_seconds", move.start_seconds)
    _at_least_zero(f"{where}.end_seconds", move.end_seconds)
    if move.end_seconds < move.start_seconds:
        raise PlanError(
            f"{where}.end_seconds: is {move.end_seconds}, "
            f"expected at least start_seconds, {move.start_seconds}"
        )
    if move.kind is MoveKind.DROP and move.source is not None:
        raise PlanError(f"{where}.source: is {move.source}, expected null for a DROP")
    if move.kind is MoveKind.COPY and (move.source is None or move.source < ORIGIN):
        raise PlanError(f"{where}.source: is {move.source}, expected a node or {ORIGIN} (the origin)")


def _at_least_zero(key: str, value: float) -> None:
    if not (value >= 0 and math.isfinite(value)):
        raise PlanError(f"{key}: is {value}, expected a finite number of at least 0")
