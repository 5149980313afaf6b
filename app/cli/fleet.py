"""A fleet described in YAML, and the problem it makes of recorded routing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from solvers.io.traces import Recording, Routes, routes_of
from solvers.problem import Coupling, PlacementProblem, ProblemError

_PART = re.compile(r"(?P<domain>.+)@(?P<begin>[0-9.]+):(?P<end>[0-9.]+)")
_FORMS = ("constrained-int", "Latency")
_Seconds = Annotated[float, Field(ge=0)]
_Bytes = Annotated[int, Field(ge=0)]
_Bandwidth = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Latency(_Strict):
    """One latency for the node itself and one for every other."""

    local: _Seconds
    remote: _Seconds


class FleetNode(_Strict):
    """A node: its memory in one of three ways, and the tokens per second of each domain it serves."""

    name: str = ""
    capacity: Annotated[float, Field(ge=0, le=1)] | None = None
    capacity_bytes: _Bytes | None = None
    device_bytes: list[_Bytes] | None = None
    domains: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = {}
    ingress_bytes_per_second: _Bandwidth | None = None
    egress_bytes_per_second: _Bandwidth | None = None


class Fleet(_Strict):
    """The YAML file. capacity of a node is a share of the bytes of all experts."""

    expert_bytes: Annotated[int, Field(ge=1)] | list[Annotated[int, Field(ge=1)]]
    experts: Annotated[int, Field(ge=1)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    coupling: Coupling = Coupling.SLOWEST
    min_replicas: Annotated[int, Field(ge=0)] = 1
    latency_seconds: Latency | list[list[_Seconds]]
    origin_latency_seconds: _Seconds | None = None
    horizon_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    nodes: Annotated[list[FleetNode], Field(min_length=1)]


def read_fleet(path: Path) -> Fleet:
    """The fleet of a YAML file. `ProblemError` with one line that names the key, `OSError`."""
    try:
        described = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}"
        raise ProblemError(f"file: not YAML{where}") from None
    try:
        return Fleet.model_validate(described)
    except ValidationError as error:
        first = error.errors()[0]
        # without the names of the alternatives that a key of several forms was tried as
        parts = [str(part) for part in first["loc"]]
        key = ".".join(p for p in parts if p not in _FORMS and not p.startswith("list[")) or "file"
        raise ProblemError(f"{key}: {first['msg'][0].lower()}{first['msg'][1:]}") from None


def problem_of(fleet: Fleet, recordings: Mapping[str, Recording]) -> PlacementProblem:
    """The problem of a fleet whose nodes serve the recorded domains. `ProblemError` names what is wrong."""
    chosen = [
        [(_find(recordings, domain, n), rate) for domain, rate in node.domains.items()]
        for n, node in enumerate(fleet.nodes)
    ]
    used = [recording for pairs in chosen for recording, _ in pairs]
    if not used:
        raise ProblemError(f"nodes: none has domains, expected some of {', '.join(recordings)}")
    blocks = used[0].layers
    for recording in used:
        if recording.layers != blocks:
            raise ProblemError(f"{recording.domain}: has {recording.layers} layers, expected {blocks}")
    proven = max(recording.experts for recording in used)
    experts = fleet.experts or proven
    if experts < proven:
        raise ProblemError(f"experts: is {experts}, expected at least {proven}, which the recording has")
    sizes = fleet.expert_bytes if isinstance(fleet.expert_bytes, list) else [fleet.expert_bytes] * blocks
    if len(sizes) != blocks:
        raise ProblemError(f"expert_bytes: has {len(sizes)} entries, expected {blocks}, one per layer")
    total = sum(sizes) * experts
    devices = [_devices(node, n, total) for n, node in enumerate(fleet.nodes)]
    values: dict[str, Any] = {}
    if any(len(capacities) > 1 for capacities in devices):
        values["device_node"] = np.repeat(np.arange(len(devices)), [len(d) for d in devices])
        values["device_capacity_bytes"] = np.array([size for d in devices for size in d], np.int64)
    for key in ("ingress_bytes_per_second", "egress_bytes_per_second"):
        given = [getattr(node, key) for node in fleet.nodes]
        if any(value is not None for value in given):
            if None in given:
                raise ProblemError(f"nodes.{given.index(None)}.{key}: absent, expected for all nodes or none")
            values[key] = np.array(given)
    origin = np.inf if fleet.origin_latency_seconds is None else fleet.origin_latency_seconds
    return PlacementProblem(
        expert_bytes=np.array(sizes, np.int64),
        experts_per_block=np.full(blocks, experts, np.int64),
        capacity_bytes=np.array([sum(d) for d in devices], np.int64),
        latency_seconds=_latency(fleet),
        origin_latency_seconds=np.full(len(fleet.nodes), origin),
        coupling=fleet.coupling,
        min_replicas=fleet.min_replicas,
        horizon_seconds=fleet.horizon_seconds,
        **_traffic(chosen, fleet.top_k),
        **values,
    )


def _find(recordings: Mapping[str, Recording], name: str, n: int) -> Recording:
    if name in recordings:
        return recordings[name]
    part = _PART.fullmatch(name)
    if part is not None and part["domain"] in recordings:
        try:
            begin, end = float(part["begin"]), float(part["end"])
        except ValueError:
            raise ProblemError(f"nodes.{n}.domains: {name!r:.60}, expected name@from:to") from None
        return recordings[part["domain"]].part(begin, end)
    known = ", ".join(recordings)
    raise ProblemError(f"nodes.{n}.domains: {name!r:.60} is not recorded, expected some of {known}")


def _devices(node: FleetNode, n: int, total: int) -> list[int]:
    given = [v for v in (node.capacity, node.capacity_bytes, node.device_bytes) if v is not None]
    if len(given) != 1:
        raise ProblemError(f"nodes.{n}: expected one of capacity, capacity_bytes and device_bytes")
    if node.device_bytes is not None:
        return node.device_bytes
    return [node.capacity_bytes if node.capacity_bytes is not None else int((node.capacity or 0.0) * total)]


def _latency(fleet: Fleet) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    count = len(fleet.nodes)
    if isinstance(fleet.latency_seconds, Latency):
        near = np.eye(count) == 1
        return np.where(near, fleet.latency_seconds.local, fleet.latency_seconds.remote)
    rows = fleet.latency_seconds
    if len(rows) != count or any(len(row) != count for row in rows):
        raise ProblemError(f"latency_seconds: expected {count} rows of {count} numbers, one per node")
    return np.array(rows)


def _traffic(chosen: list[list[tuple[Recording, float]]], top_k: int | None) -> dict[str, Any]:
    known: dict[int, Routes] = {}
    node, routes, rate = [], [], []
    for n, pairs in enumerate(chosen):
        for recording, tokens_per_second in pairs:
            key = id(recording)
            if key not in known:
                known[key] = routes_of(recording, top_k)
            node.append(np.full(len(known[key].share), n, np.int32))
            routes.append(known[key])
            rate.append(known[key].share * tokens_per_second)
    width = max(found.experts.shape[1] for found in routes)
    padded = [
        np.pad(found.experts, ((0, 0), (0, width - found.experts.shape[1])), constant_values=-1)
        for found in routes
    ]
    return {
        "route_node": np.concatenate(node),
        "route_block": np.concatenate([found.block for found in routes]),
        "route_experts": np.concatenate(padded),
        "route_rate": np.concatenate(rate),
    }
