"""What an agent polls: the experts its node is to hold, and where to call for all others.

Pure and vectorised: for the largest models a cluster has hundreds of thousands of routes, so lists are made
by numpy and equal lists are shared, and the JSON is written by orjson without a model object per expert. The
result conforms to `app.placements.schemas.Assignment`.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import numpy.typing as npt
import orjson

from app.placements.schemas import TargetKind
from app.statistics.fleet import ExpertAddress, Fleet
from app.storage.documents import EncodedDocument, encode_document
from solvers.feasible.packing import pack
from solvers.problem import Float64, Int64, PlacementProblem, UInt8
from solvers.response.holders import first_holders

Bool = npt.NDArray[np.bool_]

MAX_TARGETS = 4
"""Places named for one expert; the origin is among them where it is one of the nearest."""

ORIGIN_ROW = -1


@dataclass(frozen=True, eq=False)
class Tables:
    """What all assignments of a cluster are made from.

    desired uint8[N, E]: what the generation in force gives; serving uint8[N, E]: copies that may be called;
    obsolete: node_id -> what it holds of models that are no more.
    """

    fleet: Fleet
    problem: PlacementProblem
    desired: UInt8
    serving: UInt8
    origin_url: str | None
    uid: str
    generation: int
    obsolete: Mapping[str, Sequence[ExpertAddress]] = field(default_factory=dict)


def assignment_contents(tables: Tables) -> dict[str, bytes]:
    """node_id -> JSON of devices, targets, routes and what to evict, for every node. O(N^2 log N), and per
    node and expert as much as there are nodes nearer than its last target."""
    held_by: UInt8 = np.ascontiguousarray(tables.serving.T)
    serves: Bool = np.any(tables.serving, axis=1)
    return {
        node_id: orjson.dumps(
            {
                "devices": _devices(tables, row),
                **_routes(tables, held_by, _by_latency(tables, serves, row), row),
                "evict": _by_layer(tables.obsolete.get(node_id, ())),
            },
            option=orjson.OPT_SERIALIZE_NUMPY,
        )
        for row, node_id in enumerate(tables.fleet.node_ids)
    }


def assignment_digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def assignment_versions(
    tables: Tables, contents: Mapping[str, bytes], before: Mapping[str, str], mark: str
) -> dict[str, str]:
    """node_id -> version of its assignment: that in `before` while it says the same, else one with `mark`.

    With a mark never used before, no version comes back once another has been in its place. So a node that is
    known to have used the newest version uses it still, however old the heartbeat that said so.
    """
    versions = {}
    for node_id, content in contents.items():
        plain = f"{tables.uid}.{tables.generation}.{assignment_digest(content)}-"
        known = before.get(node_id, "")
        versions[node_id] = known if known.startswith(plain) else plain + mark
    return versions


def encode_assignments(
    tables: Tables, contents: Mapping[str, bytes], versions: Mapping[str, str]
) -> dict[str, EncodedDocument]:
    """The documents of the nodes in `contents`."""
    documents = {}
    for node_id, content in contents.items():
        digest = versions[node_id].removeprefix(f"{tables.uid}.{tables.generation}.")
        head = {
            "metadata": {"uid": tables.uid, "generation": tables.generation, "digest": digest},
            "node_id": node_id,
        }
        body = orjson.dumps(head)[:-1] + b"," + content[1:]
        documents[node_id] = encode_document(
            body, uid=tables.uid, generation=tables.generation, digest=digest
        )
    return documents


def device_of_columns(problem: PlacementProblem, fleet: Fleet, row: int, held: UInt8) -> dict[int, str]:
    """column -> device_id for the experts of uint8[E] `held` at a node; empty where they don't fit."""
    columns: Int64 = np.flatnonzero(held).astype(np.int64)
    devices = pack(problem, row, columns)
    if devices is None:
        return {}
    first = int(np.searchsorted(problem.devices[0], row))
    names = [device.device_id for device in fleet.nodes[row].spec.devices]
    return {
        column: names[device - first]
        for column, device in zip(columns.tolist(), devices.tolist(), strict=True)
    }


def _devices(tables: Tables, row: int) -> list[dict[str, object]]:
    fleet = tables.fleet
    columns: Int64 = np.flatnonzero(tables.desired[row]).astype(np.int64)
    packed = pack(tables.problem, row, columns)
    devices = fleet.nodes[row].spec.devices
    first = int(np.searchsorted(tables.problem.devices[0], row))
    # A placement that does not pack is refused before it comes into force; should the node's devices have
    # changed since, its agent checks the order against what it has.
    at = np.zeros(len(columns), np.int64) if packed is None else packed.astype(np.int64) - first
    return [
        {"device_id": device.device_id, "holds": _held(fleet, columns[at == index])}
        for index, device in enumerate(devices)
    ]


def _held(fleet: Fleet, columns: Int64) -> list[dict[str, object]]:
    cuts = np.searchsorted(columns, fleet.block_offset)
    return [
        {
            "model_id": fleet.blocks[block][0],
            "layer": fleet.blocks[block][1],
            "experts": columns[cuts[block] : cuts[block + 1]] - fleet.block_offset[block],
        }
        for block in np.flatnonzero(np.diff(cuts)).tolist()
    ]


def _by_layer(experts: Iterable[ExpertAddress]) -> list[dict[str, object]]:
    """As `HeldExperts`; experts of a layer follow each other."""
    return [
        {"model_id": model_id, "layer": layer, "experts": [address.expert for address in group]}
        for (model_id, layer), group in groupby(
            experts, key=lambda address: (address.model_id, address.layer)
        )
    ]


def _routes(tables: Tables, held_by: UInt8, order: Sequence[int], row: int) -> dict[str, object]:
    """`order`: rows of the places that serve anything, the nearest first. Of these, the targets are those
    that some list names, and the origin."""
    fleet, problem = tables.fleet, tables.problem
    elsewhere: Int64 = np.flatnonzero(tables.serving[row] == 0).astype(np.int64)
    origin = order.index(ORIGIN_ROW) if ORIGIN_ROW in order else None
    slots = first_holders(held_by, order, elsewhere, MAX_TARGETS, origin)
    named = np.zeros(len(order) + 1, np.bool_)
    named[slots] = True
    named[-1] = False  # where -1 stands for nobody
    if origin is not None:
        named[origin] = True
    places: Int64 = np.where(slots < 0, -1, (np.cumsum(named) - 1)[slots])
    cuts = np.searchsorted(elsewhere, fleet.block_offset)
    routes = []
    for block in np.flatnonzero(np.diff(cuts)).tolist():
        here = slice(int(cuts[block]), int(cuts[block + 1]))
        model_id, layer = fleet.blocks[block]
        routes.append(
            {
                "model_id": model_id,
                "layer": layer,
                "experts": elsewhere[here] - fleet.block_offset[block],
                "targets": _lists(places[here]),
            }
        )
    targets = []
    for other in (order[position] for position in np.flatnonzero(named).tolist()):
        if other == ORIGIN_ROW:
            kind, node_id, url, experts_url = TargetKind.ORIGIN, None, tables.origin_url, None
            latency = float(problem.origin_latency_seconds[row])
        else:
            node = fleet.nodes[other]
            kind, node_id, url = TargetKind.NODE, node.node_id, node.spec.base_url
            experts_url = node.spec.experts_url
            latency = float(problem.latency_seconds[row, other])
        targets.append(
            {
                "kind": kind.value,
                "node_id": node_id,
                "base_url": url,
                "experts_url": experts_url,
                "latency_seconds": latency,
            }
        )
    return {"targets": targets, "routes": routes}


def _by_latency(tables: Tables, serves: Bool, row: int) -> list[int]:
    """Rows of the nodes that serve anything and can be reached, nearest first, and ORIGIN_ROW among them,
    after nodes as near."""
    latency: Float64 = tables.problem.latency_seconds[row]
    origin = float(tables.problem.origin_latency_seconds[row])
    able = serves & np.isfinite(latency)
    able[row] = False
    others = np.flatnonzero(able)
    ranked: list[int] = others[np.argsort(latency[others], kind="stable")].tolist()
    if np.isfinite(origin):
        ranked.insert(int((latency[others] <= origin).sum()), ORIGIN_ROW)
    return ranked


def _lists(places: Int64) -> Int64 | list[list[int]]:
    """The rows of places int64[C, MAX_TARGETS] without what is -1, which comes last."""
    if (places >= 0).all():
        return places
    rows: list[list[int]] = places.tolist()
    return [row if row[-1] >= 0 else [place for place in row if place >= 0] for row in rows]
