"""Placements as engines read them: written, read by an independent reader, and read back."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.layers import MoeLayers
from moeplace_agent.interop.placements import FleetPlacement
from moeplace_agent.interop.registry import PLACEMENTS, PlacementFormat

Sets = list[list[set[int]]]
"""By MoE layer and node."""

EQUAL = ("eplb", "sglang", "tensorrt-llm", "vllm-ascend", "omni")
NEEDS_TORCH = pytest.mark.skipif(find_spec("torch") is None, reason="torch is an optional extra")


@st.composite
def placements(draw: st.DrawFn, equal: bool) -> tuple[FleetPlacement, int]:
    """A placement that holds every expert somewhere, and the ranks per node; with equal slots or without."""
    ranks = draw(st.integers(1, 2))
    nodes, experts = draw(st.integers(1, 4)), draw(st.integers(2, 8))
    least = -(-experts // nodes)
    slots = draw(st.sampled_from([s for s in range(least, experts + 1) if s % ranks == 0] or [experts]))
    ranks = ranks if slots % ranks == 0 else 1
    numbers = tuple(sorted(draw(st.sets(st.integers(0, 9), min_size=1, max_size=4))))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    holds = []
    for _ in numbers:
        held = np.zeros((nodes, experts), np.bool_)
        for at, expert in enumerate(random.permutation(experts)):
            held[at % nodes, expert] = True
        for n in range(nodes):
            spare = random.permutation(np.flatnonzero(~held[n]))
            more = slots - int(held[n].sum()) if equal else int(random.integers(0, len(spare) + 1))
            held[n, spare[:more]] = True
        holds.append(held)
    model_layers = numbers[-1] + 1 + draw(st.integers(0, 2))
    names = tuple(f"{n}" for n in range(nodes))
    return FleetPlacement(names, MoeLayers.of(numbers, model_layers), tuple(holds)), ranks


def sets_of(placement: FleetPlacement) -> Sets:
    return [[set(np.flatnonzero(row).tolist()) for row in held] for held in placement.holds]


# --- what the engines' own readers make of the files, written from their documentation and nothing of ours
def _by_rank(row: list[int], ranks: int, ranks_per_node: int) -> list[set[int]]:
    """Slot i is of rank i // (slots / ranks); the ranks of a node hold different experts."""
    each = len(row) // ranks
    assert each * ranks == len(row)
    of_rank = [row[rank * each : (rank + 1) * each] for rank in range(ranks)]
    nodes = []
    for first in range(0, ranks, ranks_per_node):
        members = [expert for rank in range(first, first + ranks_per_node) for expert in of_rank[rank]]
        assert len(set(members)) == len(members)
        nodes.append(set(members))
    return nodes


def _eplb(path: Path, placement: FleetPlacement, ranks_per_node: int) -> Sets:
    with np.load(path) as file:
        forward, back, count = (
            file[key] for key in ("physical_to_logical_map", "logical_to_physical_map", "expert_count")
        )
    layers, experts, replicas = back.shape
    assert forward.shape[0] == layers == len(placement.holds)
    assert replicas == count.max()
    for layer in range(layers):
        for expert in range(experts):
            slots = back[layer, expert, : count[layer, expert]]
            assert (forward[layer, slots] == expert).all()
            assert (back[layer, expert, count[layer, expert] :] == -1).all()
        assert count[layer].sum() == forward.shape[1]
    ranks = len(placement.nodes) * ranks_per_node
    return [_by_rank(row, ranks, ranks_per_node) for row in forward.tolist()]


def _sglang(path: Path, placement: FleetPlacement, ranks_per_node: int) -> Sets:
    content = json.loads(path.read_text())
    assert list(content) == ["physical_to_logical_map"]
    rows = content["physical_to_logical_map"]
    assert len(rows) == placement.moe.model_layers
    experts = placement.holds[0].shape[1]
    assert all(len(row) == len(rows[0]) and set(row) == set(range(experts)) for row in rows)
    ranks = len(placement.nodes) * ranks_per_node
    return [_by_rank(rows[layer], ranks, ranks_per_node) for layer in placement.moe.numbers]


def _tensorrt_llm(path: Path, placement: FleetPlacement, ranks_per_node: int) -> Sets:
    content = yaml.safe_load(path.read_text())
    assert set(content) == {"num_slots", "initial_global_assignments", "layer_updates_per_iter"}
    assert content["layer_updates_per_iter"] == 0
    rows = content["initial_global_assignments"]
    assert list(rows) == list(placement.moe.numbers)
    assert all(len(row) == content["num_slots"] for row in rows.values())
    ranks = len(placement.nodes) * ranks_per_node
    return [_by_rank(row, ranks, ranks_per_node) for row in rows.values()]


def _vllm_ascend(path: Path, placement: FleetPlacement, ranks_per_node: int) -> Sets:
    content = json.loads(path.read_text())
    assert content["moe_layer_count"] == len(content["layer_list"]) == len(placement.holds)
    found = []
    for at, layer in enumerate(content["layer_list"]):
        devices = layer["device_list"]
        assert (layer["layer_id"], layer["device_count"]) == (at, len(devices))
        assert [device["device_id"] for device in devices] == list(range(len(devices)))
        # the engine makes one tensor of them, which must be rectangular
        table = np.array([device["device_expert"] for device in devices], np.int32)
        found.append(_by_rank(table.ravel().tolist(), len(devices), ranks_per_node))
    return found


def _omni(path: Path, placement: FleetPlacement, ranks_per_node: int) -> Sets:
    pattern = np.load(path)
    assert pattern.dtype == np.int32
    nodes, layers = len(placement.nodes), len(placement.holds)
    assert pattern.shape == (nodes * ranks_per_node, layers, placement.holds[0].shape[1])
    per_device = pattern.sum(axis=2)
    assert all(
        np.ptp(per_device[n * ranks_per_node : (n + 1) * ranks_per_node], axis=0).max() <= 1
        for n in range(nodes)
    )
    by_node = pattern.reshape(nodes, ranks_per_node, layers, -1).sum(axis=1)
    assert by_node.max() <= 1
    return [
        [set(np.flatnonzero(by_node[n, layer]).tolist()) for n in range(nodes)] for layer in range(layers)
    ]


def _ktransformers(path: Path, placement: FleetPlacement, _: int) -> Sets:
    import torch

    masks = []
    for node, held in zip(placement.nodes, zip(*placement.holds, strict=True), strict=True):
        loaded = torch.load(path / f"{node}.pt", weights_only=True)["logical_count"]
        assert loaded.shape == (1, placement.moe.model_layers, placement.holds[0].shape[1])
        frequency = loaded.sum(dim=0).float().flatten()
        number = int(np.concatenate(held).sum())
        mask = torch.zeros(frequency.shape, dtype=torch.bool)
        mask[torch.topk(frequency, number, sorted=False).indices] = True
        masks.append(mask.view(placement.moe.model_layers, -1).numpy())
    return [[set(np.flatnonzero(mask[layer]).tolist()) for mask in masks] for layer in placement.moe.numbers]


ENGINES: dict[str, Callable[[Path, FleetPlacement, int], Sets]] = {
    "eplb": _eplb,
    "sglang": _sglang,
    "tensorrt-llm": _tensorrt_llm,
    "vllm-ascend": _vllm_ascend,
    "omni": _omni,
    "ktransformers": _ktransformers,
}


def _round_trip(form: PlacementFormat, placement: FleetPlacement, ranks_per_node: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"placement{form.suffix}"
        form.write(path, placement, ranks_per_node)
        wanted = sets_of(placement)
        assert ENGINES[form.name](path, placement, ranks_per_node) == wanted
        experts = [held.shape[1] for held in placement.holds]
        back = form.read(path, len(placement.nodes), ranks_per_node).holds(placement.moe, experts)
        assert sets_of(FleetPlacement(placement.nodes, placement.moe, back)) == wanted


@pytest.mark.parametrize("name", EQUAL)
@settings(max_examples=40)
@given(drawn=placements(equal=True))
def test_equal_slots_round_trip(name: str, drawn: tuple[FleetPlacement, int]) -> None:
    """What an engine reads from the file, and what we read back, are the sets that were written."""
    placement, ranks_per_node = drawn
    _round_trip(PLACEMENTS[name], placement, ranks_per_node)


@NEEDS_TORCH
@settings(max_examples=40)
@given(drawn=placements(equal=False))
def test_what_ktransformers_puts_on_the_gpu_is_what_the_node_holds(drawn: tuple[FleetPlacement, int]) -> None:
    """The experts that are counted most, as many as the node holds, are those it holds; of any number."""
    placement, _ = drawn
    _round_trip(PLACEMENTS["ktransformers"], placement, 1)


def placement_of(
    *holds: list[list[int]], experts: int = 4, layers: tuple[int, ...] | None = None
) -> FleetPlacement:
    """By layer and node, the experts held."""
    tables = []
    for layer in holds:
        table = np.zeros((len(layer), experts), np.bool_)
        for n, members in enumerate(layer):
            table[n, members] = True
        tables.append(table)
    nodes = tuple(f"node-{n}" for n in range(len(holds[0])))
    return FleetPlacement(nodes, MoeLayers.of(layers or range(len(holds))), tuple(tables))


@pytest.mark.parametrize("name", EQUAL)
def test_unequal_slots_are_refused_in_words(name: str, tmp_path: Path) -> None:
    """Which node, which layer, by how many, what the mean is, and what to do; nothing is written."""
    unequal = placement_of([[0, 1], [2, 3]], [[0, 1], [2, 3, 0]], [[0, 1, 2], [3]], layers=(1, 2, 5))
    path = tmp_path / f"out{PLACEMENTS[name].suffix}"
    with pytest.raises(InteropError) as error:
        PLACEMENTS[name].write(path, unequal, 1)
    said = str(error.value)
    assert said.startswith("node node-1, layer 2: holds 3 experts, 1 too many")
    assert "the mean over nodes and layers is 2, 2 more pairs of node and layer differ too" in said
    assert "moeplace solve --equal-slots" in said
    assert not path.exists()


@pytest.mark.parametrize("name", EQUAL)
def test_experts_on_no_node_are_refused(name: str, tmp_path: Path) -> None:
    """An engine without an origin cannot serve an expert that nobody holds."""
    path = tmp_path / f"out{PLACEMENTS[name].suffix}"
    with pytest.raises(InteropError, match=r"^layer 7: experts 2, 3 are on no node"):
        PLACEMENTS[name].write(path, placement_of([[0, 1], [0, 1]], layers=(7,)), 1)
    assert not path.exists()


@pytest.mark.parametrize("name", EQUAL)
def test_slots_are_dealt_to_ranks_or_refused(name: str, tmp_path: Path) -> None:
    """3 slots of a node cannot be 2 ranks' alike."""
    with pytest.raises(InteropError, match="3 slots per node and layer: expected a multiple of 2"):
        PLACEMENTS[name].write(tmp_path / "out", placement_of([[0, 1, 2], [1, 2, 3]]), 2)


@pytest.mark.parametrize("name", ["eplb", "sglang", "omni"])
def test_layers_of_different_sizes_are_refused(name: str, tmp_path: Path) -> None:
    """A rectangular table cannot say that one layer has more experts than another."""
    two = placement_of([[0, 1, 2, 3]], [[0, 1, 2, 3]])
    sizes = FleetPlacement(two.nodes, two.moe, (two.holds[0], np.ones((1, 5), np.bool_)))
    with pytest.raises(InteropError, match="layer 1: h"):
        PLACEMENTS[name].write(tmp_path / "out", sizes, 1)


def _map(rows: Any) -> bytes:
    return json.dumps({"physical_to_logical_map": rows}).encode()


def _packed(**arrays: npt.NDArray[Any]) -> Callable[[Path], None]:
    return lambda path: np.savez(path, allow_pickle=False, **arrays)


FORWARD, COUNT = np.array([[0, 1, 1, 0]]), np.array([[2, 2]])
BACK = np.array([[[0, 3], [1, 2]]])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("sglang", b"{}", "missing required field `physical_to_logical_map`"),
        ("sglang", _map([[0, "a"]]), "got `str` - at `$.physical_to_logical_map[0][1]`"),
        ("sglang", _map([[0, 1], [0]]), "physical_to_logical_map: has rows of different lengths"),
        ("sglang", _map([[0, -1]]), "physical_to_logical_map[0,1]: is -1, expected an expert"),
        (
            "sglang",
            _map([[0, 1, 2]]),
            "physical_to_logical_map: has 3 slots, expected a multiple of the 2 ranks",
        ),
        ("sglang", _map([[0, 5]]), "layer 0: names expert 5, expected 0..1"),
        ("sglang", _map([]), "physical_to_logical_map: "),
        ("tensorrt-llm", b"a: [", "file: not YAML, line"),
        ("tensorrt-llm", b"num_slots: 2", "initial_global_assignments: expected"),
        (
            "tensorrt-llm",
            b"num_slots: 3\ninitial_global_assignments: {0: [0, 1]}",
            "0: has 2 slots, expected num_s",
        ),
        ("tensorrt-llm", b"num_slots: 2\ninitial_global_assignments: {a: [0, 1]}", "expected a layer number"),
        (
            "tensorrt-llm",
            b"num_slots: 2\ninitial_global_assignments: {0: [0, x]}",
            "0: expected a list of whole",
        ),
        ("tensorrt-llm", b"num_slots: 2\ninitial_global_assignments: {3: [0, 1]}", "layer 0: missing"),
        (
            "vllm-ascend",
            b'{"moe_layer_count": 2, "layer_list": []}',
            "layer_list: has 0 layers, expected moe_lay",
        ),
        (
            "vllm-ascend",
            b'{"moe_layer_count": 1, "layer_list": [{"layer_id": 0, "device_count": 1, "device_list": []}]}',
            "layer_list[0]: has 0 devices, device_count 1, expected 2",
        ),
        ("omni", lambda path: np.save(path, np.full((2, 1, 2), 2)), "array: expected 0 and 1 only"),
        ("omni", lambda path: np.save(path, np.ones((3, 1, 2), int)), "array: has 3 devices, expected 2"),
        ("eplb", _packed(physical_to_logical_map=FORWARD), "logical_to_physical_map: missing"),
        (
            "eplb",
            _packed(physical_to_logical_map=FORWARD, logical_to_physical_map=BACK, expert_count=COUNT + 1),
            "expert_count: differs",
        ),
        (
            "eplb",
            _packed(
                physical_to_logical_map=FORWARD, logical_to_physical_map=BACK[:, ::-1], expert_count=COUNT
            ),
            "logical_to_physical_map: differs",
        ),
    ],
)
def test_malformed_placements_are_named(
    tmp_path: Path, name: str, content: bytes | Callable[[Path], None], words: str
) -> None:
    """One line that names the key and the index."""
    form = PLACEMENTS[name]
    path = tmp_path / f"a{form.suffix}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    with pytest.raises(InteropError) as error:
        form.read(path, 2, 1).holds(MoeLayers.of([0]), [2])
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@NEEDS_TORCH
def test_files_of_nodes_are_read_by_number(tmp_path: Path) -> None:
    """Files of nodes with names are in no order that could be relied on, and counts are no placement."""
    import torch

    for name in ("east", "west"):
        torch.save({"logical_count": torch.ones(1, 1, 2, dtype=torch.int64)}, tmp_path / f"{name}.pt")
    with pytest.raises(InteropError, match=r"a file per node, 0\.pt to 1\.pt"):
        PLACEMENTS["ktransformers"].read(tmp_path, 2, 1)
    torch.save({"logical_count": torch.full((1, 1, 2), 7)}, tmp_path / "0.pt")
    (tmp_path / "east.pt").unlink()
    (tmp_path / "west.pt").rename(tmp_path / "1.pt")
    with pytest.raises(InteropError, match=r"0\.pt: logical_count: expected one table of 0 and 1"):
        PLACEMENTS["ktransformers"].read(tmp_path, 2, 1)
