"""Recordings as engines and users really make them, each named after what went wrong with it."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file

from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.layers import LayerIndex, MoeLayers
from moeplace_agent.interop.registry import RECORDINGS
from moeplace_agent.interop.sources import InputFile, accumulate
from tests.agent.interop.truth import (
    EXPERTS,
    MODEL_LAYERS,
    MOE,
    TOKENS,
    K,
    counts,
    imported,
    model_rows,
    tokens,
)

TRUTH = tokens()
DRAFT = np.ones((TOKENS, 1, K), np.int64) * np.arange(K)
"""What a draft layer behind the model's activates."""


def _vllm_rows(chosen: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[tokens, all layers, k]: a row for every layer of the model, dense ones 0."""
    table = np.zeros((len(chosen), MODEL_LAYERS, chosen.shape[2]), chosen.dtype)
    table[:, list(MOE.numbers)] = chosen
    return table


def _saved(path: Path, array: npt.NDArray[Any]) -> str:
    np.save(path / "a.npy", array)
    return f"{path}/a.npy"


# --- vLLM's routed experts
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.int64, np.uint64])
@pytest.mark.parametrize("known", [MOE, None])
def test_vllm_writes_a_row_of_zeros_for_each_dense_layer(
    tmp_path: Path, dtype: Any, known: MoeLayers | None
) -> None:
    """Whatever the type of the ids, and whether or not the model is named: dense layers fall away."""
    file = _saved(tmp_path, _vllm_rows(TRUTH).astype(dtype))
    assert imported("vllm-routed-experts", file, known=known)["all"].tolist() == TRUTH.tolist()


def test_vllm_files_of_moe_layers_only_are_still_read(tmp_path: Path) -> None:
    """Older files have a row for each MoE layer: the known layers say so."""
    file = _saved(tmp_path, TRUTH.astype(np.int16))
    assert imported("vllm-routed-experts", file)["all"].tolist() == TRUTH.tolist()


def test_vllm_dense_rows_are_no_activations(tmp_path: Path) -> None:
    """The zeros of dense layers are not counted, with --counts neither."""
    file = _saved(tmp_path, _vllm_rows(TRUTH).astype(np.uint8))
    for known in (MOE, None):
        found = imported("vllm-routed-experts", file, known=known, only_counts=True)
        assert found["all"].tolist() == counts(TRUTH).tolist()


def test_top_1_files_ask_which_layers_are_dense(tmp_path: Path) -> None:
    """With one expert a token, a dense layer's zeros look like expert 0: the options are named, and with them
    the layers are right."""
    file = _saved(tmp_path, _vllm_rows(TRUTH[:, :, :1]).astype(np.uint8))
    with pytest.raises(InteropError, match=r"layer 0: every token has expert 0.*--moe-layers"):
        imported("vllm-routed-experts", file, known=None)
    for only_counts in (False, True):
        found = imported("vllm-routed-experts", file, only_counts=only_counts)["all"]
        right = counts(TRUTH[:, :, :1]) if only_counts else TRUTH[:, :, :1]
        assert found.tolist() == right.tolist()


def test_top_1_layer_in_which_all_tokens_have_expert_0_stays(tmp_path: Path) -> None:
    """A MoE layer that is known as one is not taken for a dense one, whatever its tokens chose."""
    chosen = TRUTH[:, :, :1].copy()
    chosen[:, 1] = 0
    file = _saved(tmp_path, _vllm_rows(chosen).astype(np.uint8))
    assert imported("vllm-routed-experts", file)["all"].tolist() == chosen.tolist()


@pytest.mark.parametrize(
    ("dtype", "filler"), [(np.uint8, 255), (np.uint16, 65535), (np.int16, -1), (np.int64, -1), (np.uint8, 0)]
)
def test_tokens_that_were_not_captured_are_no_tokens(tmp_path: Path, dtype: Any, filler: int) -> None:
    """-1 in any type, or zeros in every layer: the token is left out and counted as such."""
    rows = _vllm_rows(TRUTH).astype(dtype)
    rows[3, list(MOE.numbers)] = np.array(filler).astype(dtype)
    file = _saved(tmp_path, rows)
    assert imported("vllm-routed-experts", file)["all"].tolist() == np.delete(TRUTH, 3, axis=0).tolist()
    assert accumulate(RECORDINGS["vllm-routed-experts"], [InputFile(Path(file))], {})["all"].unused_rows == 1


def test_255_of_top_1_files_is_an_expert_or_none_as_the_model_has_experts(tmp_path: Path) -> None:
    """-1 as uint8 is the last of 256 experts: which of the two it is depends on how many there are, and is
    asked where nothing says so."""
    rows = np.array([[[0]], [[3]], [[255]]], np.uint8)
    file = _saved(tmp_path, rows)
    one = MoeLayers.of((0,))
    with pytest.raises(
        InteropError, match=r"array\[:,0\]\[2\]: is 255, an expert or none, expected --experts"
    ):
        imported("vllm-routed-experts", file, known=one)
    for option, model in ((16, None), (None, 16), (16, 16)):
        found = imported("vllm-routed-experts", file, known=one, experts=option, known_experts=model)
        assert found["all"].tolist() == [[[0]], [[3]]]
    found = imported("vllm-routed-experts", file, known=one, known_experts=256)
    assert found["all"].tolist() == rows.tolist()


def test_tokens_without_experts_in_one_layer_only_are_not_moved(tmp_path: Path) -> None:
    """Two layers that lost different tokens have as many each, but not the same ones."""
    rows = _vllm_rows(TRUTH).astype(np.int16)
    rows[3, MOE.numbers[0]], rows[5, MOE.numbers[1]] = -1, -1
    file = _saved(tmp_path, rows)
    with pytest.raises(InteropError, match=r"layer 3 and layer 1 have other tokens without experts"):
        imported("vllm-routed-experts", file)
    assert imported("vllm-routed-experts", file, only_counts=True)["all"].sum() == 2 * K * (TOKENS - 1)


@pytest.mark.parametrize("size", [0, 1])
def test_requests_of_one_token_or_none_are_read(tmp_path: Path, size: int) -> None:
    """Among others in an archive, compressed or not."""
    for save in (np.savez, np.savez_compressed):
        rows = _vllm_rows(TRUTH).astype(np.uint8)
        save(tmp_path / "a.npz", small=rows[:size], others=rows[size:])
        assert imported("vllm-routed-experts", f"{tmp_path}/a.npz")["all"].tolist() == TRUTH.tolist()


def test_requests_of_different_models_are_refused(tmp_path: Path) -> None:
    """Arrays of one file have as many layers."""
    rows = _vllm_rows(TRUTH).astype(np.uint8)
    np.savez(tmp_path / "a.npz", one=rows, other=rows[:, :3])
    with pytest.raises(
        InteropError, match=r"other\[:,0\]: is of a table of 3 layers, expected 4 as in those"
    ):
        imported("vllm-routed-experts", f"{tmp_path}/a.npz")


@pytest.mark.parametrize("form", ["moe-infinity", "eplb-weight"])
def test_tables_of_all_layers_or_of_moe_layers_only(tmp_path: Path, form: str) -> None:
    """The known MoE layers say which of the two a table of counts is."""
    for rows in (counts(TRUTH), model_rows(counts(TRUTH))):
        file = _saved(tmp_path, rows[None] if form == "moe-infinity" else rows)
        assert imported(form, file)["all"].tolist() == counts(TRUTH).tolist()


# --- draft layers
def _csv(table: npt.NDArray[Any]) -> str:
    cells = [f"{layer},{expert},{table[layer, expert]}" for layer, expert in np.ndindex(*table.shape)]
    return "\n".join(["layer_id,expert_id,count", *cells])


def _lines(chosen: npt.NDArray[Any], layers: list[int]) -> str:
    lines = [
        {"step": 0, "layer": layer, "rank": 0, "num_tokens": len(chosen), "topk": K}
        | {"top_indices": chosen[:, at].tolist()}
        for at, layer in enumerate(layers)
    ]
    return "\n".join(map(json.dumps, lines))


WITH_DRAFT = np.concatenate([_vllm_rows(TRUTH), DRAFT], axis=1)
COUNTED = np.concatenate([model_rows(counts(TRUTH)), counts(DRAFT)])


def _ranks(path: Path) -> None:
    path.mkdir()
    (path / "meta_info.json").write_text(json.dumps({"num_experts": EXPERTS, "num_experts_per_token": K}))
    rows = {f"7_{layer}": row for layer, row in enumerate(COUNTED) if row.any()}
    save_file(rows, path / "rank0.safetensors")


FILES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "vllm-routed-experts": ("a.npy", lambda path: np.save(path, WITH_DRAFT.astype(np.uint8))),
    "moe-infinity": ("a.npy", lambda path: np.save(path, COUNTED[None])),
    "eplb-weight": ("a.npy", lambda path: np.save(path, COUNTED)),
    "sglang-counts": (
        "a.json",
        lambda path: path.write_text(json.dumps({"logical_count": COUNTED.tolist()})),
    ),
    "sglang-csv": ("a.csv", lambda path: path.write_text(_csv(COUNTED))),
    "tensorrt-llm-stat": ("expert_statistic", _ranks),
    "fastdeploy": (
        "a.json",
        lambda path: path.write_text(json.dumps({"code": 0, "data": [COUNTED.tolist()]})),
    ),
    "megatron": (
        "a.jsonl",
        lambda path: path.write_text(_lines(np.concatenate([TRUTH, DRAFT], axis=1), [1, 3, 4])),
    ),
}
"""Each format with a draft layer, number 4, behind the model's four."""


@pytest.mark.parametrize("form", FILES)
def test_draft_layers_behind_the_models_are_refused_with_the_option_that_drops_them(
    tmp_path: Path, form: str
) -> None:
    """Nobody's layer is not taken for the model's; the refusal says how to leave it out, and that works."""
    name, write = FILES[form]
    write(tmp_path / name)
    with pytest.raises(InteropError, match=r"--drop-layers 4\)"):
        imported(form, f"{tmp_path}/{name}", index=LayerIndex.MODEL)
    found = imported(form, f"{tmp_path}/{name}", dropped_layers=frozenset({4}))["all"]
    assert found.tolist() in (TRUTH.tolist(), counts(TRUTH).tolist())


def test_layers_before_the_models_are_no_draft_layers(tmp_path: Path) -> None:
    """Advice to drop a layer is only given for one that is behind the model's."""
    with pytest.raises(InteropError, match=r"layer 0: has activations.*see --layer-index\)$"):
        imported("eplb-weight", _saved(tmp_path, counts(TRUTH)), index=LayerIndex.MODEL)


# --- text of any system
def _crlf(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()


TEXTS: dict[str, Callable[[str], bytes]] = {
    "LF": str.encode,
    "CRLF": _crlf,
    "CR": lambda text: text.replace("\n", "\r").encode(),
    "blank lines before and after": lambda text: b"\r\n \r\n" + _crlf(text) + b"\r\n\r\n",
    "UTF-8 with a byte order mark": lambda text: codecs.BOM_UTF8 + _crlf(text),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16, big": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "tabs": lambda text: text.replace("\n", "\n\t").encode(),
}


@pytest.mark.parametrize("system", TEXTS)
@pytest.mark.parametrize("steps", [False, True])
def test_logical_count_is_the_same_with_any_line_ends(tmp_path: Path, system: str, steps: bool) -> None:
    """Whether there are steps depends on what is in the file, not on how its lines end."""
    table = [[1, 2], [3, 4]]
    text = json.dumps({"logical_count": [table, table] if steps else table}, indent=2)
    (tmp_path / "a.json").write_bytes(TEXTS[system](text))
    found = imported("sglang-counts", f"{tmp_path}/a.json", known=None)["all"]
    assert found.tolist() == (np.array(table) * (2 if steps else 1)).tolist()


@pytest.mark.parametrize("system", [name for name in TEXTS if name != "tabs"])
@pytest.mark.parametrize("form", ["sglang-csv", "megatron", "fastdeploy"])
def test_text_formats_are_the_same_with_any_line_ends(tmp_path: Path, form: str, system: str) -> None:
    """CSV, JSON and a JSON document a line, from any system."""
    texts = {
        "sglang-csv": _csv(model_rows(counts(TRUTH))),
        "megatron": _lines(TRUTH, [1, 3]),
        "fastdeploy": json.dumps({"code": 0, "data": [model_rows(counts(TRUTH)).tolist()]}, indent=1),
    }
    name = FILES[form][0]
    (tmp_path / name).write_bytes(TEXTS[system](texts[form]))
    found = imported(form, f"{tmp_path}/{name}")["all"]
    assert found.tolist() == (TRUTH if form == "megatron" else counts(TRUTH)).tolist()


@pytest.mark.parametrize(
    "text",
    [
        'layer_id,expert_id,count\n"0","1","7"\n',
        "count,layer_id,expert_id\n7,0,1\n",
        "layer_id;expert_id;count\n0;1;7\n",
        "layer_id\texpert_id\tcount\n0\t1\t7\n",
        "layer_id,expert_id,count,\n0,1,7,\n",
        ",layer_id,expert_id,count\n0,0,1,7\n",
        "\n \nlayer_id, expert_id , count\n 0 , 1,7\n",
        "layer_id,expert_id,count\r0,1,3\r0,1,4\r",
    ],
)
def test_tables_of_spreadsheets_are_read(tmp_path: Path, text: str) -> None:
    """Quotes, another order of columns, other marks between them, an index column, a mark at the end."""
    (tmp_path / "a.csv").write_bytes(text.encode())
    assert imported("sglang-csv", f"{tmp_path}/a.csv", known=None)["all"].tolist() == [[0, 7]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("layer_id,expert_id\n0,1\n", "line 1: expected the header layer_id,expert_id,count, found"),
        ("layer_id,expert_id,count,rank\n0,1,2,3\n", "line 1: expected the header"),
        ("layer_id,expert_id,count\n0,1,nan\n", "line 2: count is 'nan', expected a number"),
        ("layer_id,expert_id,count\n0,1,1e3\n", "line 2: count is '1e3', expected a number"),
        ("layer_id,expert_id,count\n\n0,1\n", "line 3: has 2 fields"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, text: str, words: str) -> None:
    """The line and the column are named; a column that nobody knows is not passed over."""
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InteropError) as error:
        imported("sglang-csv", f"{tmp_path}/a.csv", known=None)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "text", ["1,2\n3,4\n", "1;2\r\n3;4\r\n", "1,2,\r3,4,\r", "1.0e0 2\n\n 3  4\n", '"1","2"\n3,4']
)
def test_weights_of_spreadsheets_are_read(tmp_path: Path, text: str) -> None:
    """Commas, semicolons or spaces between the numbers, a mark at the end of lines, any line ends."""
    (tmp_path / "a.csv").write_bytes(text.encode())
    assert imported("eplb-weight", f"{tmp_path}/a.csv", known=None)["all"].tolist() == [[1, 2], [3, 4]]


# --- shared experts fused into the routed ones
FUSED = np.concatenate([TRUTH, np.full((TOKENS, 2, 1), EXPERTS)], axis=2)


@pytest.mark.parametrize("form", ["vllm-routed-experts", "megatron"])
def test_ids_of_fused_shared_experts_are_named_and_left_out(tmp_path: Path, form: str) -> None:
    """Where the model's experts are known, an id beyond them is refused with what it is and both remedies;
    --experts leaves such ids out, at whatever place of a row, and counts them."""
    rows = FUSED.copy()
    rows[::2] = rows[::2, :, ::-1]
    if form == "megatron":
        lines = _lines(rows, [1, 3]).replace(f'"topk": {K}', f'"topk": {K + 1}')
        (tmp_path / "a").write_text(lines)
    else:
        np.save(tmp_path / "a.npy", _vllm_rows(rows).astype(np.uint8))
    file = str(next(tmp_path.iterdir()))
    with pytest.raises(InteropError, match=r"--disable-shared-experts-fusion, .* --experts 6\)"):
        imported(form, file, known_experts=EXPERTS)
    found = np.sort(imported(form, file, experts=EXPERTS, known_experts=EXPERTS)["all"], axis=2)
    assert found.tolist() == np.sort(TRUTH, axis=2).tolist()
    left = accumulate(RECORDINGS[form], [InputFile(Path(file))], {}, experts=EXPERTS)["all"]
    assert left.beyond_experts == 2 * TOKENS


@pytest.mark.parametrize("form", ["moe-infinity", "eplb-weight", "sglang-counts", "sglang-csv", "fastdeploy"])
def test_counts_of_fused_shared_experts_are_named_and_left_out(tmp_path: Path, form: str) -> None:
    """Columns behind the experts: refused with the option that leaves them out, or zeros that fall away."""
    table = model_rows(np.concatenate([counts(TRUTH), np.full((2, 1), TOKENS)], axis=1))
    name = FILES[form][0]
    contents: dict[str, Any] = {
        "sglang-counts": {"logical_count": table.tolist()},
        "fastdeploy": {"code": 0, "data": [table.tolist()]},
    }
    if name.endswith(".npy"):
        np.save(tmp_path / name, table[None] if form == "moe-infinity" else table)
    else:
        (tmp_path / name).write_text(_csv(table) if form == "sglang-csv" else json.dumps(contents[form]))
    file = f"{tmp_path}/{name}"
    with pytest.raises(InteropError, match=r"is 6, expected less than the 6 experts .*--experts 6\)"):
        imported(form, file, known_experts=EXPERTS)
    assert imported(form, file, experts=EXPERTS)["all"].tolist() == counts(TRUTH).tolist()


def test_more_experts_than_the_file_has_are_no_way_round(tmp_path: Path) -> None:
    """--experts above the model's number of experts leaves the refusal as it is."""
    np.save(tmp_path / "a.npy", _vllm_rows(FUSED).astype(np.uint8))
    with pytest.raises(InteropError, match="expected less than the 6 experts"):
        imported("vllm-routed-experts", f"{tmp_path}/a.npy", experts=EXPERTS + 1, known_experts=EXPERTS)


def test_ranks_with_tables_of_different_sizes_are_refused(tmp_path: Path) -> None:
    """A rank that counts its own experts only is not added to one that counts all."""
    data = [model_rows(counts(TRUTH)).tolist(), model_rows(counts(TRUTH))[:, :3].tolist()]
    (tmp_path / "a.json").write_text(json.dumps({"code": 0, "data": data}))
    with pytest.raises(InteropError, match=r"data\[1\]\[0\]: is of a table of 3 experts, expected 6"):
        imported("fastdeploy", f"{tmp_path}/a.json")
