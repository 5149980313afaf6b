"""`.pt` files: SGLang's recorder and EPLB weights, through torch itself. Skipped where torch is absent."""

from __future__ import annotations

import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moeplace_agent.interop import tensors
from moeplace_agent.interop.faults import InteropError
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

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'moeplace-agent[torch]'")

TRUTH = tokens()
# Two spare slots: experts 4 and 0 are there twice.
TO_LOGICAL = np.tile(np.array([3, 1, 0, 2, 5, 4, 4, 0]), (MODEL_LAYERS, 1))


def _physical(part: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """[tokens, MoE layers, k] in physical experts, first and second copies in turn."""
    copies = [np.flatnonzero(TO_LOGICAL[0] == expert) for expert in range(EXPERTS)]
    turn = np.arange(part.size).reshape(part.shape)
    physical: np.ndarray[Any, Any] = np.vectorize(
        lambda expert, at: copies[expert][at % len(copies[expert])]
    )(part, turn)
    return physical


def _padded(part: np.ndarray[Any, Any]) -> Any:
    """[layers, tokens, 8] as SGLang keeps them: -1 beyond k, in dense layers and in tokens that only pad."""
    table = np.full((MODEL_LAYERS, len(part) + 2, 8), -1)
    table[list(MOE.numbers), : len(part), :K] = _physical(part).transpose(1, 0, 2)
    return torch.tensor(table, dtype=torch.int32)


def _physical_counts(part: np.ndarray[Any, Any]) -> Any:
    physical = _physical(part)
    table = np.zeros((MODEL_LAYERS, TO_LOGICAL.shape[1]), np.int64)
    for at, layer in enumerate(MOE.numbers):
        table[layer] = np.bincount(physical[:, at].ravel(), minlength=TO_LOGICAL.shape[1])
    return torch.tensor(table, dtype=torch.int32)


def _detail(path: Path, by_token: bool) -> str:
    records = []
    for rank, part in enumerate((TRUTH[:10], TRUTH[10:])):
        record = {"forward_pass_id": rank, "rank": rank, "gatherer_key": "primary"}
        record["global_physical_count"] = _physical_counts(part)
        if by_token:
            record |= {"topk_ids_of_layer": _padded(part), "misc_objects": [], "input_ids": [1, 2]}
        records.append(record)
    content = {"records": records, "last_physical_to_logical_map": torch.tensor(TO_LOGICAL)}
    torch.save(content, path / "detail.pt")
    return str(path / "detail.pt")


def test_stat(tmp_path: Path) -> None:
    """Steps add up, unused places of the ring buffer are 0, dense rows fall away."""
    steps = np.stack(
        [model_rows(counts(TRUTH[:7])), model_rows(counts(TRUTH[7:])), 0 * model_rows(counts(TRUTH))]
    )
    content = {"rank": 0, "logical_count": torch.tensor(steps, dtype=torch.int32)}
    torch.save(content | {"average_utilization_rate_over_window": None}, tmp_path / "a.pt")
    assert imported("sglang-stat", f"{tmp_path}/a.pt")["all"].tolist() == counts(TRUTH).tolist()


def test_per_token(tmp_path: Path) -> None:
    """Physical ids become logical ones by the map, padding goes, ranks go to their sources."""
    file = _detail(tmp_path, by_token=True)
    assert imported("sglang-detail", file)["all"].tolist() == TRUTH.tolist()
    apart = imported("sglang-detail", file, ranks={0: "east", 1: "west"})
    assert apart["east"].tolist() == TRUTH[:10].tolist()
    assert apart["west"].shape == (TOKENS - 10, 2, K)


def test_per_pass(tmp_path: Path) -> None:
    """Physical counts become logical ones by the map: copies of an expert add up."""
    assert (
        imported("sglang-detail", _detail(tmp_path, by_token=False))["all"].tolist() == counts(TRUTH).tolist()
    )


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bfloat16])
def test_eplb_weight(tmp_path: Path, dtype: Any) -> None:
    """A tensor of weights of any kind of number."""
    torch.save(torch.tensor(counts(TRUTH)).to(dtype), tmp_path / "w.pt")
    assert imported("eplb-weight", f"{tmp_path}/w.pt")["all"].tolist() == counts(TRUTH).tolist()


def _fused(path: Path) -> str:
    """Two layers, two tokens: a third id, 8, is the shared expert's."""
    ids = torch.tensor([[[0, 3, 8], [1, 2, 8]]] * 2, dtype=torch.int32)
    record = {"forward_pass_id": 1, "rank": 0, "gatherer_key": "primary", "topk_ids_of_layer": ids}
    content = {"records": [record], "last_physical_to_logical_map": torch.arange(8).repeat(2, 1)}
    torch.save(content, path / "shared.pt")
    return f"{path}/shared.pt"


def test_a_ninth_id_of_sglang_is_a_fused_shared_experts(tmp_path: Path) -> None:
    """An id beyond the experts is refused with what it is and what to do; --experts leaves it out."""
    file = _fused(tmp_path)
    for only_counts in (False, True):
        with pytest.raises(InteropError) as error:
            imported("sglang-detail", file, known=None, only_counts=only_counts)
        said = str(error.value)
        assert "topk_ids_of_layer[0,0,2]: is 8, expected less than the 8 experts there are" in said
        assert "--disable-shared-experts-fusion" in said
        assert "--experts 8" in said
    found = imported("sglang-detail", file, known=None, experts=8)["all"]
    assert found.tolist() == [[[0, 3]] * 2, [[1, 2]] * 2]
    counted = imported("sglang-detail", file, known=None, experts=8, only_counts=True)["all"]
    assert counted.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]] * 2


def test_draft_layers_in_recordings_of_sglang_are_left_out(tmp_path: Path) -> None:
    """A layer behind the model's is refused with the option that drops it, in every mode."""
    draft = counts(TRUTH)[:1]
    rows = np.concatenate([model_rows(counts(TRUTH)), draft])
    torch.save({"logical_count": torch.tensor(rows[None])}, tmp_path / "stat.pt")
    identity = torch.arange(EXPERTS).repeat(MODEL_LAYERS + 1, 1)
    record = {"rank": 0, "global_physical_count": torch.tensor(rows)}
    torch.save({"records": [record], "last_physical_to_logical_map": identity}, tmp_path / "detail.pt")
    for form, name in (("sglang-stat", "stat"), ("sglang-detail", "detail")):
        with pytest.raises(InteropError, match=r"layer 4: has activations.*--drop-layers 4\)"):
            imported(form, f"{tmp_path}/{name}.pt")
        found = imported(form, f"{tmp_path}/{name}.pt", dropped_layers=frozenset({4}))
        assert found["all"].tolist() == counts(TRUTH).tolist()


class _Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("it ran",)


@pytest.mark.parametrize(
    ("form", "content", "words"),
    [
        ("sglang-stat", {"rank": 0}, "logical_count: missing"),
        ("sglang-stat", torch.ones(2), "file: is a ndarray, expected a dict with logical_count"),
        (
            "sglang-stat",
            {"logical_count": torch.ones(2, 3)},
            "logical_count: has shape (2, 3), expected [steps,",
        ),
        ("sglang-detail", {"records": []}, "last_physical_to_logical_map: missing"),
        (
            "sglang-detail",
            {"records": [{"rank": 0}], "last_physical_to_logical_map": torch.tensor([[0]])},
            "records[0].global_physical_count: has shape ()",
        ),
        (
            "sglang-detail",
            {
                "records": [{"topk_ids_of_layer": torch.tensor([[[0, 1]]])}],
                "last_physical_to_logical_map": torch.tensor([[0]]),
            },
            "records[0].topk_ids_of_layer[0,0,1]: is 1, expected less than the 1 experts",
        ),
        (
            "sglang-detail",
            {
                "records": [{"topk_ids_of_layer": torch.tensor([[[0, 1], [0, -1]]])}],
                "last_physical_to_logical_map": torch.tensor([[0, 1]]),
            },
            "records[0].topk_ids_of_layer[0][1]: experts [0, -1], expected as many of every token",
        ),
        ("eplb-weight", {"weight": torch.ones(2, 2)}, "tensor: has shape (), expected [layers, experts]"),
        ("eplb-weight", torch.ones(1, 1).expand(10**6, 10**6), "file: has shape (1000000, 1000000), above"),
    ],
)
def test_malformed(tmp_path: Path, form: str, content: Any, words: str) -> None:
    """The key and the index are named; a tensor that claims more than is stored allocates nothing."""
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InteropError) as error:
        imported(form, f"{tmp_path}/a.pt")
    assert words in str(error.value)


def test_nothing_is_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A pickle that would call something is refused, as torch's archive and as a bare pickle."""
    torch.save({"logical_count": _Harmful()}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(_Harmful()))
    for name, words in (("a.pt", "not a readable .pt file"), ("b.pt", "not an archive")):
        with pytest.raises(InteropError, match=words):
            imported("sglang-stat", str(tmp_path / name))
    assert "it ran" not in capfd.readouterr().out


def test_archives_that_inflate_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size inflated is looked at before torch reads anything."""
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data/0", bytes(1_000_000))
    monkeypatch.setattr("moeplace_agent.interop.files.MAX_ARRAY_BYTES", 1000)
    with pytest.raises(InteropError, match="inflates to 1000000 bytes"):
        tensors.read_pt(tmp_path / "a.pt")


def test_without_torch_the_extra_is_named(tmp_path: Path) -> None:
    """Where torch is absent the message says what to install."""
    torch.save(torch.ones(1, 1), tmp_path / "a.pt")
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path; from moeplace_agent.interop.tensors import read_pt\n"
        f"read_pt(Path({str(tmp_path / 'a.pt')!r}))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "pip install 'moeplace-agent[torch]'" in ended.stderr
