"""`moeplace import` and `export` on files: from an engine's recording to an engine's placement and back."""

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from app.cli import command_line
from solvers.files import load_placement, load_problem, load_result
from solvers.objective import total_cost
from solvers.traces import read_recordings

NEEDS_TORCH = pytest.mark.skipif(find_spec("torch") is None, reason="torch is an optional extra")
LAYERS = (1, 2, 3)
EXPERTS, K = 8, 2


def run(*words: object) -> tuple[int, Any, str]:
    """Exit status, what was printed as JSON, and stderr."""
    arguments = [str(word) for word in words]
    ended = CliRunner().invoke(command_line(arguments), arguments)
    try:
        said = json.loads(ended.stdout)
    except ValueError:
        said = ended.stdout
    return ended.exit_code, said, ended.stderr


def _requests(folder: Path) -> tuple[str, str]:
    """Requests of two nodes, as vLLM returns them; east calls the first experts, west the last."""
    random = np.random.default_rng(0)
    for name, first in (("east", 1), ("west", 3)):
        chosen = np.argsort(random.random((60, len(LAYERS), 5)), axis=2)[:, :, :K] + first
        np.save(folder / f"{name}.npy", chosen.astype(np.int16))
    return f"east={folder}/east.npy", f"west={folder}/west.npy"


@pytest.fixture(scope="module")
def solved_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `instance.npz` and `placement.npz` of equal slots, made by the commands themselves."""
    folder = tmp_path_factory.mktemp("solved")
    assert run("import", "vllm-routed-experts", *_requests(folder), "--out", folder / "traces.npz")[0] == 0
    fleet = {
        "expert_bytes": 10,
        "experts": EXPERTS,
        "latency_seconds": {"local": 0.001, "remote": 0.004},
        "nodes": [
            {"capacity_bytes": 190, "domains": {"east": 10}},
            {"capacity_bytes": 150, "domains": {"west": 10}},
        ],
    }
    (folder / "fleet.yaml").write_text(yaml.safe_dump(fleet))
    instance = folder / "instance.npz"
    assert run("instance", folder / "traces.npz", folder / "fleet.yaml", "--out", instance)[0] == 0
    limit = ("--time-limit", 1, "--out", folder / "placement.npz")
    status, said, _ = run("solve", instance, "--equal-slots", 4, *limit)
    assert (status, said["replicas"]) == (0, 2 * len(LAYERS) * 4)
    return folder


@pytest.fixture
def solved(solved_once: Path, tmp_path: Path) -> Path:
    for name in ("instance.npz", "placement.npz"):
        shutil.copy(solved_once / name, tmp_path)
    return tmp_path


def test_a_recording_feeds_an_instance(tmp_path: Path) -> None:
    """The sources become domains, token by token; the summary says what is in the file."""
    files, out = _requests(tmp_path), tmp_path / "t.npz"
    status, said, _ = run("import", "vllm-routed-experts", *files, "--moe-layers", "1-3", "--out", out)
    assert status == 0
    assert said["moe_layers"] == "1-3"
    assert said["sources"]["east"] == {
        "kind": "tokens",
        "shape": [60, 3, 2],
        "activations": 360.0,
        "left_out": {"activations_beyond_experts": 0.0, "tokens_without_experts": 0},
    }
    found = read_recordings(out)
    for name in ("east", "west"):
        assert found[name].activations.tolist() == np.load(tmp_path / f"{name}.npy").tolist()


@pytest.mark.parametrize("known", [("--preset", "deepseek-v2-lite"), ("--model-config", "config.json")])
def test_the_model_says_which_layers_count(tmp_path: Path, known: tuple[str, str]) -> None:
    """A preset or a config.json gives the MoE layers: row 0 of the file is a dense layer and falls away."""
    config = {
        "model_type": "deepseek_v2",
        "hidden_size": 8,
        "moe_intermediate_size": 8,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
        "num_hidden_layers": 27,
        "torch_dtype": "bfloat16",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    table = np.arange(27 * 4).reshape(27, 4)
    table[0] = 0
    (tmp_path / "a.json").write_text(json.dumps({"logical_count": table.tolist()}))
    option, value = known
    value = str(tmp_path / value) if option == "--model-config" else value
    status, said, errors = run(
        "import", "sglang-counts", tmp_path / "a.json", option, value, "--out", tmp_path / "t.npz"
    )
    assert status == 0, errors
    assert (said["moe_layers"], said["moe_layers_from"]) == ("1-26", "options")
    assert read_recordings(tmp_path / "t.npz")["all"].activations.tolist() == table[1:].tolist()


@pytest.mark.parametrize(
    ("form", "out"),
    [
        ("eplb", "out.npz"),
        ("sglang", "out.json"),
        ("tensorrt-llm", "out.yaml"),
        ("vllm-ascend", "out.json"),
        ("omni", "out.npy"),
        pytest.param("ktransformers", "masks", marks=NEEDS_TORCH),
    ],
)
def test_exported_and_imported_again(solved: Path, form: str, out: str) -> None:
    """Every format carries the placement there and back, with the cost the evaluator gives it."""
    problem, placement = load_problem(solved / "instance.npz"), load_placement(solved / "placement.npz")
    files = ("--instance", solved / "instance.npz", "--moe-layers", "1-3")
    ranks = () if form == "ktransformers" else ("--ranks-per-node", 2)
    status, said, errors = run(
        "export", form, *files, "--placement", solved / "placement.npz", "--out", solved / out, *ranks
    )
    assert status == 0, errors
    assert said["nodes"] == ["0", "1"]
    status, back, errors = run("import", form, solved / out, *files, *ranks, "--out", solved / "back.npz")
    assert status == 0, errors
    assert back["digest"] == placement.digest
    assert back["feasible"] is True
    assert load_result(solved / "back.npz").objective == total_cost(problem, placement.holds)


def test_a_placement_of_unequal_slots_is_refused(solved: Path) -> None:
    """Without --equal-slots the nodes hold what they can, and the table formats say who holds too many."""
    status, _, _ = run("solve", solved / "instance.npz", "--out", solved / "free.npz", "--time-limit", 1)
    assert status == 0
    files = ("--instance", solved / "instance.npz", "--placement", solved / "free.npz", "--moe-layers", "1-3")
    status, said, errors = run("export", "sglang", *files, "--out", solved / "out.json")
    assert (status, said) == (2, "")
    assert re.match(r"sglang: node [01], layer [123]: holds \d experts, \d too (many|few)", errors)
    assert not (solved / "out.json").exists()
    status, said, errors = run("export", "omni", *files, "--out", solved / "out.npy")
    assert (status, said) == (2, "")
    assert errors.startswith("omni: node ")


def test_equal_slots_auto_takes_what_fits(solved: Path) -> None:
    """150 bytes hold 5 experts of 10 bytes in each of 3 layers."""
    status, said, _ = run("solve", solved / "instance.npz", "--equal-slots", "auto", "--time-limit", 1)
    assert (status, said["replicas"]) == (0, 2 * 3 * 5)
    for wrong, words in (
        ("9", "--equal-slots: slots: are 9, expected 1..8"),
        ("x", "--equal-slots: is 'x', exp"),
    ):
        status, _, errors = run("solve", solved / "instance.npz", "--equal-slots", wrong)
        assert (status, words in errors) == (2, True)
    status, said, _ = run("solve", solved / "instance.npz", "--equal-slots", 6)
    assert status == 1
    assert (
        said["shortfall"] == "node 1: 6 slots in every block need 180 bytes, it holds 150: short by 30 bytes"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("import", "sglang-cvs", "a", "--out", "b.npz"),
            "FORMAT: is 'sglang-cvs', expected one of sglang-stat",
        ),
        (("import", "eplb-weight", "none.npy", "--out", "b.npz"), "none.npy: No such file or directory"),
        (("import", "eplb-weight", "none.npy"), "--out: expected either --out or --to"),
        (
            ("import", "eplb-weight", "a.npy", "--instance", "i.npz", "--out", "b"),
            "--instance: eplb-weight is a rec",
        ),
        (("import", "megatron", "a", "--rank", "0", "--out", "b"), "--rank: is '0', expected RANKS=SOURCE"),
        (("import", "megatron", "a", "--rank", "0=a b", "--out", "b"), "'a b': expected a name of letters"),
        (
            ("import", "megatron", "a", "--rank", "0=a", "--rank", "0-1=b", "--out", "b"),
            "--rank: rank 0 is of a and",
        ),
        (
            ("import", "eplb-weight", "a.npy", "--to", "http://h/x", "--model", "m", "--seconds", "1"),
            "No such file",
        ),
        (
            ("import", "sglang", "a.json", "--out", "b.npz"),
            "sglang: is a placement, expected --instance and --out",
        ),
        (
            ("import", "sglang", "a", "b", "--instance", "i", "--out", "b"),
            "sglang: is a placement, expected one FILE",
        ),
        (("export", "trt", "--out", "b"), "FORMAT: is 'trt', expected one of eplb, sglang"),
        (("export", "sglang", "--out", "b.yaml"), "--out: is 'b.yaml', expected a name that ends in .json"),
        (("export", "omni", "--out", "b.npy"), "--placement: absent, expected, or --from"),
        (
            ("export", "omni", "--out", "b.npy", "--from", "h:80/c"),
            "--from: is 'h:80/c', expected http://host:port/v1",
        ),
        (("export", "omni", "--out", "b.npy", "--preset", "x"), "--preset: is 'x', expected one of dbrx"),
        (
            ("export", "omni", "--out", "b.npy", "--moe-layers", "x"),
            "--moe-layers: 'x': expected numbers such as",
        ),
        (
            ("export", "omni", "--out", "b.npy", "--moe-layers", "1-5", "--model-layers", "3"),
            "--moe-layers: model layers: are 3, expected 6..10000",
        ),
        (
            ("export", "omni", "--out", "b.npy", "--model-layers", "3"),
            "--model-layers: expected --moe-layers with",
        ),
        (
            ("export", "omni", "--out", "b.npy", "--moe-layers", "1", "--preset", "dbrx"),
            "--preset: expected only one of --moe-layers, --model-config and --preset",
        ),
        (("export", "omni", "--out", "b.npy", "--model-config", "none.json"), "none.json: No such file"),
    ],
)
def test_wrong_options_are_named(
    words: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line on stderr that names the option or the file, status 2."""
    monkeypatch.chdir(tmp_path)
    status, printed, errors = run(*words)
    assert (status, printed) == (2, "")
    assert said in errors
    assert len(errors.splitlines()) == 1


def test_placements_need_true_layer_numbers(solved: Path) -> None:
    """An engine that counts dense layers is not sent numbers that do not."""
    files = ("--instance", solved / "instance.npz", "--placement", solved / "placement.npz")
    status, _, errors = run("export", "tensorrt-llm", *files, "--out", solved / "out.yaml")
    assert status == 2
    assert "tensorrt-llm: numbers layers as the model does, expected --moe-layers" in errors
    status, _, errors = run("export", "omni", *files, "--moe-layers", "1,2", "--out", solved / "out.npy")
    assert status == 2
    assert "MoE layers: are 1-2, 2 of them, but the placement has 3" in errors


@pytest.mark.parametrize("command", ["import", "export"])
def test_formats_are_listed(command: str) -> None:
    """--formats needs no other argument."""
    status, said, _ = run(command, "--formats")
    assert status == 0
    for name in ("sglang-stat", "megatron", "omni", "tensorrt-llm"):
        assert name in said
