"""Recordings of engines: files built from the documented shapes come back as what was in them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from moeplace_agent.interop import files as bounded
from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.layers import LayerIndex, MoeLayers
from tests.agent.interop.truth import (
    EXPERTS,
    MOE,
    TOKENS,
    K,
    counts,
    imported,
    model_rows,
    tokens,
)

TRUTH = tokens()


def _sglang_counts(path: Path) -> Path:
    (path / "a.json").write_text(json.dumps({"logical_count": model_rows(counts(TRUTH)).tolist()}))
    return path / "a.json"


def _sglang_counts_by_step(path: Path) -> Path:
    steps = [model_rows(counts(TRUTH[:7])).tolist(), model_rows(counts(TRUTH[7:])).tolist()]
    (path / "a.json").write_text(json.dumps({"logical_count": steps}, indent=1))
    return path / "a.json"


def _sglang_csv(path: Path) -> Path:
    table = counts(TRUTH)
    lines = [
        f"{layer},{expert},{table[at, expert]}"
        for at, layer in enumerate(MOE.numbers)
        for expert in range(EXPERTS)
        if table[at, expert]
    ]
    (path / "a.csv").write_text("\n".join(["layer_id,expert_id,count", *reversed(lines)]) + "\n")
    return path / "a.csv"


def _fastdeploy(path: Path) -> Path:
    data = [model_rows(counts(TRUTH[:7])).tolist(), model_rows(counts(TRUTH[7:])).tolist()]
    (path / "a.json").write_text(json.dumps({"code": 0, "msg": "ok", "data": data}))
    return path / "a.json"


def _moe_infinity(path: Path) -> Path:
    sequences = np.zeros((5, 2, EXPERTS))
    sequences[0], sequences[3] = counts(TRUTH[:7]), counts(TRUTH[7:])
    np.save(path / "a.npy", sequences)
    return path / "a.npy"


def _eplb_npy(path: Path) -> Path:
    np.save(path / "a.npy", counts(TRUTH).astype(np.float32))
    return path / "a.npy"


def _eplb_csv(path: Path) -> Path:
    np.savetxt(path / "a.csv", counts(TRUTH), delimiter=",", fmt="%d")
    return path / "a.csv"


def _tensorrt_llm(path: Path) -> Path:
    (path / "meta_info.json").write_text(json.dumps({"num_experts": EXPERTS, "num_experts_per_token": K}))
    for rank, part in enumerate((TRUTH[:10], TRUTH[10:])):
        table = {}
        for step, piece in enumerate((part[:5], part[5:])):
            for at, layer in enumerate(MOE.numbers):
                table[f"{50 + step}_{layer}"] = counts(piece)[at]
        save_file(table, path / f"rank{rank}.safetensors")
    save_file({"50_1": np.ones(3)}, path / "cooccurrence_rank0.safetensors")
    return path


def _vllm(path: Path) -> Path:
    np.save(path / "a.npy", TRUTH.astype(np.int16))
    return path / "a.npy"


def _vllm_requests(path: Path) -> Path:
    np.savez(path / "a.npz", first=TRUTH[:7].astype(np.int16), second=TRUTH[7:].astype(np.int16))
    return path / "a.npz"


def megatron_lines(part: np.ndarray[Any, Any], rank: int = 0, first_layer: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "layer": layer + first_layer,
            "rank": rank,
            "num_tokens": len(piece),
            "topk": K,
            "top_indices": piece[:, at].tolist(),
        }
        for step, piece in enumerate((part[:3], part[3:]))
        for at, layer in enumerate(MOE.numbers)
    ]


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    return path


def _megatron(path: Path) -> Path:
    lines = megatron_lines(TRUTH)
    mtp = lines[0] | {"block": "mtp", "mtp_idx": 0, "layer": 0}
    return _write_lines(path / "a.jsonl", [*lines, mtp])


def _megatron_directory(path: Path) -> Path:
    _write_lines(path / "router_trace_rank0.jsonl", megatron_lines(TRUTH[:10]))
    _write_lines(path / "router_trace_rank1.jsonl", megatron_lines(TRUTH[10:], rank=1))
    return path


COUNTED: list[tuple[str, Callable[[Path], Path]]] = [
    ("sglang-counts", _sglang_counts),
    ("sglang-counts", _sglang_counts_by_step),
    ("sglang-csv", _sglang_csv),
    ("fastdeploy", _fastdeploy),
    ("moe-infinity", _moe_infinity),
    ("eplb-weight", _eplb_npy),
    ("eplb-weight", _eplb_csv),
    ("tensorrt-llm-stat", _tensorrt_llm),
]
BY_TOKEN: list[tuple[str, Callable[[Path], Path]]] = [
    ("vllm-routed-experts", _vllm),
    ("vllm-routed-experts", _vllm_requests),
    ("megatron", _megatron),
    ("megatron", _megatron_directory),
]


@pytest.mark.parametrize(("form", "build"), COUNTED)
def test_counts_come_back(tmp_path: Path, form: str, build: Callable[[Path], Path]) -> None:
    """Counts of the two MoE layers, whatever the file says of dense layers, steps, sequences and ranks."""
    assert imported(form, str(build(tmp_path)))["all"].tolist() == counts(TRUTH).tolist()


@pytest.mark.parametrize(("form", "build"), BY_TOKEN)
def test_tokens_come_back(tmp_path: Path, form: str, build: Callable[[Path], Path]) -> None:
    """Every token with its experts in every MoE layer, and only counts where only those are asked for."""
    file = str(build(tmp_path))
    assert imported(form, file)["all"].tolist() == TRUTH.tolist()
    assert imported(form, file, only_counts=True)["all"].tolist() == counts(TRUTH).tolist()


@pytest.mark.parametrize("build", [_sglang_counts, _sglang_csv])
def test_dense_layers_are_found_by_their_silence(tmp_path: Path, build: Callable[[Path], Path]) -> None:
    """Where nobody says which layers are MoE layers, those without activations are none."""
    form = "sglang-csv" if build is _sglang_csv else "sglang-counts"
    assert imported(form, str(build(tmp_path)), known=None)["all"].tolist() == counts(TRUTH).tolist()


def test_layer_conventions_convert(tmp_path: Path) -> None:
    """The same rows, numbered by the model or among MoE layers, and from 0 or from 1, are one recording."""
    np.save(tmp_path / "model.npy", model_rows(counts(TRUTH)))
    np.save(tmp_path / "moe.npy", counts(TRUTH))
    model = imported("eplb-weight", f"{tmp_path}/model.npy", index=LayerIndex.MODEL)
    moe = imported("eplb-weight", f"{tmp_path}/moe.npy", index=LayerIndex.MOE)
    assert model["all"].tolist() == moe["all"].tolist() == counts(TRUTH).tolist()
    from_one = _write_lines(tmp_path / "one.jsonl", megatron_lines(TRUTH, first_layer=1))
    assert imported("megatron", str(from_one), first_layer=1)["all"].tolist() == TRUTH.tolist()
    with pytest.raises(InteropError, match=r"layer 2: has activations, expected them in MoE layers 1,3"):
        imported("megatron", str(from_one))
    with pytest.raises(InteropError, match=r"layer 3: has activations, expected them in 0\.\.1"):
        imported("eplb-weight", f"{tmp_path}/model.npy", index=LayerIndex.MOE)


def test_files_and_ranks_add_up_by_source(tmp_path: Path) -> None:
    """Several files of one source add up; ranks go where they are said to be; a rank of nobody is refused."""
    np.save(tmp_path / "a.npy", TRUTH[:10].astype(np.int16))
    np.save(tmp_path / "b.npy", TRUTH[10:].astype(np.int16))
    both = imported("vllm-routed-experts", f"east={tmp_path}/a.npy", f"east={tmp_path}/b.npy")
    assert list(both) == ["east"]
    assert both["east"].tolist() == TRUTH.tolist()
    apart = imported("vllm-routed-experts", f"east={tmp_path}/a.npy", f"west={tmp_path}/b.npy")
    assert apart["west"].tolist() == TRUTH[10:].tolist()
    (tmp_path / "ranks").mkdir()
    traces = str(_megatron_directory(tmp_path / "ranks"))
    ranked = imported("megatron", traces, ranks={0: "east", 1: "west"})
    assert (ranked["east"].tolist(), ranked["west"].tolist()) == (TRUTH[:10].tolist(), TRUTH[10:].tolist())
    with pytest.raises(InteropError, match=r"line 1: top_indices: rank 1 is of no source, expected a --rank"):
        imported("megatron", traces, ranks={0: "east"})
    with pytest.raises(InteropError, match="its files name no ranks"):
        imported("eplb-weight", f"{tmp_path}/a.npy", ranks={0: "east"})


def test_weights_that_are_no_counts_keep_their_proportions(tmp_path: Path) -> None:
    """Fractional weights are scaled together to whole numbers, within one in a million of the largest."""
    weights = np.random.default_rng(1).random((2, EXPERTS))
    np.save(tmp_path / "a.npy", weights)
    np.save(tmp_path / "b.npy", 3 * weights)
    found = imported("eplb-weight", f"a={tmp_path}/a.npy", f"b={tmp_path}/b.npy")
    scale = 1e6 / (3 * weights.max())
    assert np.abs(found["a"] - weights * scale).max() <= 0.5
    assert np.abs(found["b"] - 3 * weights * scale).max() <= 0.5


def _json(content: Any) -> Callable[[Path], object]:
    return lambda path: path.write_text(content if isinstance(content, str) else json.dumps(content))


def _npy(array: Any) -> Callable[[Path], object]:
    return lambda path: np.save(path, array)


LINE = megatron_lines(TRUTH)[0]


@pytest.mark.parametrize(
    ("form", "name", "build", "words"),
    [
        ("sglang-counts", "a.json", _json("{"), "JSON: input data was truncated"),
        ("sglang-counts", "a.json", _json({}), "missing required field `logical_count`"),
        (
            "sglang-counts",
            "a.json",
            _json({"logical_count": [[1, "x"]]}),
            "logical_count: expected `float`, got `str` - at `$[0][1]`",
        ),
        (
            "sglang-counts",
            "a.json",
            _json({"logical_count": [[1], [1, 2]]}),
            "logical_count: has rows of diff",
        ),
        (
            "sglang-counts",
            "a.json",
            _json({"logical_count": [[1, -2]]}),
            "logical_count[0,1]: is -2.0, expected a",
        ),
        ("sglang-counts", "a.json", _json({"logical_count": [[0, 0]]}), "nothing was activated"),
        ("sglang-counts", "a.json", _json("[" * 100_000), "JSON: "),
        (
            "sglang-csv",
            "a.csv",
            _json("layer,expert\n"),
            "line 1: expected the header layer_id,expert_id,count",
        ),
        ("sglang-csv", "a.csv", _json("layer_id,expert_id,count\n1,2\n"), "line 2: has 2 fields"),
        ("sglang-csv", "a.csv", _json("layer_id,expert_id,count\n1,-2,3\n"), "line 2: expert_id is '-2'"),
        ("sglang-csv", "a.csv", _json("layer_id,expert_id,count\n1,99999999,3\n"), "line 2: expert_id is"),
        (
            "fastdeploy",
            "a.json",
            _json({"code": 1, "msg": "disabled"}),
            "code: is 1, expected 0; the server said",
        ),
        ("fastdeploy", "a.json", _json({"code": 0, "data": []}), "data: is empty"),
        ("fastdeploy", "a.json", _json({"code": 0, "data": [[1]]}), "got `int` - at `$.data[0][0]`"),
        (
            "moe-infinity",
            "a.npy",
            _npy(np.ones((2, 3))),
            "array: has shape (2, 3), expected [sequences, layers, e",
        ),
        ("moe-infinity", "a.npy", _npy(np.full((1, 1, 2), np.nan)), "array[0,0,0]: is nan"),
        ("moe-infinity", "a.npy", _json("no numpy"), "file: not a readable .npy"),
        ("eplb-weight", "a.npy", _npy(np.array([{}])), "file: not a readable .npy"),
        ("eplb-weight", "a.npy", _npy(np.array([["a"]])), "array: has type <U1, expected numbers"),
        ("eplb-weight", "a.txt", _json("1"), "file: ends in '.txt', expected .npy, .csv or .pt"),
        ("eplb-weight", "a.csv", _json("1,2\n3,x\n"), "line 2, column 2: is 'x', expected a number"),
        ("eplb-weight", "a.csv", _json("1,2\n3\n"), "line 2: has 1 experts, expected 2"),
        ("eplb-weight", "a.csv", _json("1,inf\n"), "rows[0,1]: is inf, expected a number in 0..2**53"),
        ("vllm-routed-experts", "a.npy", _npy(np.ones((2, 1, 2), np.int16)), "array[:,0][0]: experts [1, 1]"),
        ("vllm-routed-experts", "a.npy", _npy(np.full((2, 1, 2), -1, np.int16)), "nothing was activated"),
        ("vllm-routed-experts", "a.npy", _npy(np.ones((2, 1, 2))), "expected whole numbers"),
        ("vllm-routed-experts", "a.npz", _json("PK"), "file: not an archive"),
        ("megatron", "a.jsonl", _json("{}\n"), "line 1: JSON: object missing required field `layer`"),
        (
            "megatron",
            "a.jsonl",
            _json(LINE | {"num_tokens": 9}),
            "line 1: top_indices has 3 rows, expected num_tok",
        ),
        (
            "megatron",
            "a.jsonl",
            _json(LINE | {"topk": 3}),
            "line 1: top_indices has 2 ids a token, expected topk",
        ),
        ("megatron", "a.jsonl", _json(LINE | {"layer": -1}), "`int` >= 0 - at `$.layer`"),
        ("tensorrt-llm-stat", "a.json", _json("{}"), "file: expected the directory"),
    ],
)
def test_malformed_files_are_named(
    tmp_path: Path, form: str, name: str, build: Callable[[Path], object], words: str
) -> None:
    """One line with the file, the key and the index; nothing in a file is run."""
    build(tmp_path / name)
    with pytest.raises(InteropError) as error:
        imported(form, str(tmp_path / name))
    said = str(error.value)
    assert words in said
    assert len(said.splitlines()) == 1
    assert "nothing was" in said or said.startswith(str(tmp_path / name))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"x": np.ones(EXPERTS)}, "rank0.safetensors: x: expected a name such as 12_3"),
        ({"1_1": np.ones(3)}, "rank0.safetensors: 1_1: has 3 experts, expected 6"),
        ({"1_1": np.ones((2, EXPERTS))}, "rank0.safetensors: 1_1: has shape (2, 6), expected [experts]"),
        (None, "rank0.safetensors: not a readable safetensors file"),
    ],
)
def test_malformed_statistics_of_ranks_are_named(tmp_path: Path, table: Any, words: str) -> None:
    """A directory's faults name the file in it, the tensor and what was expected."""
    _tensorrt_llm(tmp_path)
    if table is None:
        (tmp_path / "rank0.safetensors").write_bytes(b"\xff" * 64)
    else:
        save_file(table, tmp_path / "rank0.safetensors")
    with pytest.raises(InteropError) as error:
        imported("tensorrt-llm-stat", str(tmp_path))
    assert words in str(error.value)


def test_unequal_tokens_are_refused_and_count(tmp_path: Path) -> None:
    """A recording that lost tokens of a layer is no recording by token; as counts it can be had."""
    lines = megatron_lines(TRUTH)
    file = str(_write_lines(tmp_path / "a.jsonl", lines[:-1]))
    with pytest.raises(InteropError, match=r"all: layer 3 has 3 tokens of 2 experts, expected 40 of 2"):
        imported("megatron", file)
    found = imported("megatron", file, only_counts=True)["all"]
    assert found.sum(axis=1).tolist() == [TOKENS * K, 3 * K]


def test_a_layer_without_activations_is_refused(tmp_path: Path) -> None:
    """A file of a model with fewer layers, or of one stage of a pipeline, is not taken for the whole."""
    np.save(tmp_path / "a.npy", counts(TRUTH)[:1])
    with pytest.raises(
        InteropError, match=r"all: nothing was activated in layer 1, expected something in every"
    ):
        imported("eplb-weight", f"{tmp_path}/a.npy")
    lines = [line for line in megatron_lines(TRUTH) if line["layer"] == 1]
    file = str(_write_lines(tmp_path / "a.jsonl", lines))
    with pytest.raises(InteropError, match=r"all: nothing was activated in layer 3, .* numbered as model"):
        imported("megatron", file, only_counts=True)


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text beyond the limit is not parsed, a header that promises more than the file has allocates nothing,
    and an archive that inflates beyond the limit is not inflated."""
    monkeypatch.setattr(bounded, "MAX_TEXT_BYTES", 100)
    monkeypatch.setattr(bounded, "MAX_ARRAY_BYTES", 10_000)
    (tmp_path / "a.json").write_text(json.dumps({"logical_count": [[1] * 100]}))
    with pytest.raises(InteropError, match="more than 100 bytes"):
        imported("sglang-counts", f"{tmp_path}/a.json")
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros((10_000, 2, 2), np.int16))
    with pytest.raises(InteropError, match="inflates to 80128 bytes"):
        imported("vllm-routed-experts", f"{tmp_path}/a.npz")
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (99999999999, 9999, 8), }"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(InteropError, match="not a readable"):
        imported("vllm-routed-experts", f"{tmp_path}/a.npy")


@pytest.mark.parametrize(("form", "build"), [*COUNTED, *BY_TOKEN])
def test_damage_is_refused_or_read(tmp_path: Path, form: str, build: Callable[[Path], Path]) -> None:
    """Whatever bytes of a file are overwritten, lost or doubled: it is read, or refused, and nothing else."""
    file = build(tmp_path)
    damaged = next(iter(sorted(file.glob("rank*")) or file.glob("*.jsonl"))) if file.is_dir() else file
    good = damaged.read_bytes()
    random = np.random.default_rng(len(good))
    for _ in range(60):
        content = bytearray(good)
        for at in random.integers(0, len(good), random.choice([1, 2, 20])):
            content[at] = random.integers(0, 256)
        cut = slice(*sorted(random.integers(0, len(good), 2)))
        if random.random() < 0.3:
            content[cut] = content[cut] * int(random.integers(0, 3))
        damaged.write_bytes(content)
        with contextlib.suppress(InteropError):
            imported(form, str(file))


def test_moe_layers_must_be_the_models() -> None:
    """Layers are different, ascending, and within the model."""
    assert str(MoeLayers.of((1, 2, 3, 7))) == "1-3,7"
    for numbers, layers in (((), None), ((2, 1), None), ((1, 1), None), ((1, 5), 5)):
        with pytest.raises(InteropError):
            MoeLayers.of(numbers, layers)
