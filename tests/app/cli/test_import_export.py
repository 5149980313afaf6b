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
from solvers.cost.evaluate import total_cost
from solvers.io.files import load_placement, load_problem, load_result
from solvers.io.traces import read_recordings

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


def _config(folder: Path, model_class: str) -> Path:
    config = {
        "architectures": [model_class],
        "model_type": "qwen3_moe",
        "hidden_size": 8,
        "intermediate_size": 8,
        "moe_intermediate_size": 8,
        "num_experts": EXPERTS,
        "num_experts_per_tok": K,
        "num_hidden_layers": 4,
        "mlp_only_layers": [0],
        "torch_dtype": "bfloat16",
    }
    path = folder / f"{model_class}.json"
    path.write_text(json.dumps(config))
    return path


def test_sglang_says_nothing_where_it_ignores_the_map_so_the_export_does(solved: Path) -> None:
    """For a class that drops the map the export is refused and nothing is written, for an unknown one there
    is a warning, for one that reads it there is none."""
    files = ("--instance", solved / "instance.npz", "--placement", solved / "placement.npz")
    for preset in ("mixtral-8x7b", "olmoe-1b-7b", "phi-3.5-moe", "llama-4-scout", "dbrx"):
        status, said, errors = run(
            "export", "sglang", *files, "--preset", preset, "--out", solved / "out.json"
        )
        assert (status, said) == (2, "")
        assert re.fullmatch(r"sglang: SGLang 0\.5\.23 ignores the file for \w+, and says nothing\n", errors)
    assert not (solved / "out.json").exists()
    for model_class, warned in (("Qwen3MoeForCausalLM", False), ("NewMoeForCausalLM", True)):
        config = _config(solved, model_class)
        status, said, errors = run(
            "export", "sglang", *files, "--model-config", config, "--out", solved / "out.json"
        )
        assert (status, said["moe_layers"], said["model_layers"]) == (0, "1-3", 4), errors
        assert (said["warning"] is not None) == ("is not known here" in errors) == warned
    status, said, errors = run(
        "export", "sglang", *files, "--moe-layers", "1-3", "--out", solved / "out.json"
    )
    assert "no model is named" in errors


@pytest.mark.parametrize(
    ("form", "out", "told"),
    [
        ("sglang", "a b.json", "--ep-num-redundant-experts 0 --ep-size 4 --init-expert-location '{out}'"),
        ("tensorrt-llm", "a b.yaml", '--ep_size 4 --config FILE.yaml, .*"load_balancer":"{out}"'),
        ("vllm-ascend", "a b.json", '"expert_map_path":"{out}"'),
        ("omni", "a b.npy", '"pattern_path":"{out}","max_moe_layer_num":3,"enable_dynamic":false'),
        pytest.param(
            "ktransformers",
            "a b",
            "0: .* --kt-expert-placement-strategy frequency --kt-num-gpu-experts 4 "
            "--init-expert-location '{out}/0.pt'",
            marks=NEEDS_TORCH,
        ),
    ],
)
def test_what_the_engine_is_started_with_is_said(solved: Path, form: str, out: str, told: str) -> None:
    """On stderr for people and in the summary for programs, with the whole path of the file."""
    files = ("--instance", solved / "instance.npz", "--placement", solved / "placement.npz")
    ranks = () if form == "ktransformers" else ("--ranks-per-node", 2)
    status, said, errors = run("export", form, *files, *ranks, "--moe-layers", "1-3", "--out", solved / out)
    assert status == 0, errors
    assert re.search(told.format(out=re.escape(str(solved / out))), said["engine"])
    assert said["engine"] in errors


def test_a_placement_of_another_model_than_is_named_is_refused(solved: Path) -> None:
    """Engines do not look whether a map fits the model's experts."""
    files = ("--instance", solved / "instance.npz", "--placement", solved / "placement.npz")
    three = json.loads(_config(solved, "Qwen3MoeForCausalLM").read_text()) | {"num_experts": 16}
    (solved / "other.json").write_text(json.dumps(three))
    status, _, errors = run(
        "export", "eplb", *files, "--model-config", solved / "other.json", "--out", solved / "out.npz"
    )
    assert (status, errors) == (2, "layer 1: has 8 experts in the placement, but 16 in the model\n")


OUTS = {"eplb": "out.npz", "sglang": "out.json", "tensorrt-llm": "out.yaml", "vllm-ascend": "out.json"}
OUTS |= {"omni": "out.npy"}


@pytest.mark.parametrize("form", ["eplb", "tensorrt-llm", "vllm-ascend", "omni"])
def test_draft_layers_go_out_and_come_back(solved: Path, form: str) -> None:
    """An engine that runs a draft layer gets a row for it, with every expert on some node; on the way back
    the row is refused with the option that leaves it out."""
    files = ("--instance", solved / "instance.npz", "--moe-layers", "1-3")
    placement, out = ("--placement", solved / "placement.npz"), solved / OUTS[form]
    status, said, errors = run("export", form, *files, *placement, "--draft-layers", "4", "--out", out)
    assert (status, said["moe_layers"], said["draft_layers"]) == (0, "1-4", [4]), errors
    if form == "tensorrt-llm":
        rows = yaml.safe_load(out.read_text())["initial_global_assignments"]
        assert set(rows[4]) == set(range(EXPERTS))
    number = 4 if form == "tensorrt-llm" else 3
    status, _, errors = run("import", form, out, *files, "--out", solved / "back.npz")
    assert status == 2
    assert errors.rstrip().endswith(f"is left out by --drop-layers {number})")
    status, back, errors = run(
        "import", form, out, *files, "--drop-layers", number, "--out", solved / "back.npz"
    )
    assert status == 0, errors
    assert back["digest"] == load_placement(solved / "placement.npz").digest


@pytest.mark.parametrize("form", OUTS)
def test_a_placement_with_a_draft_layer_is_exported_without_it(solved: Path, form: str) -> None:
    """An engine whose file has no row for the draft layer gets none: the file is that of the other layers."""
    files = ("--instance", solved / "instance.npz", "--placement", solved / "placement.npz")
    out = solved / OUTS[form]
    status, said, errors = run(
        "export", form, *files, "--moe-layers", "1-2", "--drop-layers", "3", "--out", out
    )
    assert status == 0, errors
    assert (said["moe_layers"], said["model_layers"], said["dropped_layers"]) == ("1-2", 3, [3])
    status, _, errors = run("export", form, *files, "--moe-layers", "1-2", "--out", out)
    assert (status, "2 of them, but the placement has 3" in errors) == (2, True)
    assert "--drop-layers" in errors
    status, _, errors = run("export", form, *files, "--moe-layers", "1-3", "--drop-layers", "7", "--out", out)
    assert (status, "are 1-3,7, 4 of them, but the placement has 3" in errors) == (2, True)


def test_draft_layers_are_behind_the_models_and_only_where_an_engine_reads_them(solved: Path) -> None:
    """Layers of the model are no draft layers, and SGLang's map has no rows for them."""
    files = (
        "--instance",
        solved / "instance.npz",
        "--placement",
        solved / "placement.npz",
        "--moe-layers",
        "1-3",
    )
    for form, out, layers, words in (
        (
            "tensorrt-llm",
            "out.yaml",
            "3",
            "--draft-layers: 3 is not a layer behind the model's, expected 4 or more",
        ),
        ("sglang", "out.json", "4", "--draft-layers: sglang has no rows for draft layers"),
        ("tensorrt-llm", "out.yaml", "x", "--draft-layers: 'x': expected numbers"),
    ):
        status, _, errors = run("export", form, *files, "--draft-layers", layers, "--out", solved / out)
        assert (status, words in errors) == (2, True), errors


def test_a_map_with_more_layers_than_the_model_is_refused(solved: Path) -> None:
    """SGLang's map has rows for dense layers; rows behind the model's last layer are another model's."""
    files = ("--instance", solved / "instance.npz")
    out = solved / "out.json"
    options = ("--moe-layers", "1-3", "--model-layers", "5")
    assert (
        run("export", "sglang", *files, "--placement", solved / "placement.npz", *options, "--out", out)[0]
        == 0
    )
    status, _, errors = run("import", "sglang", out, *files, "--moe-layers", "1-3", "--out", solved / "b.npz")
    assert status == 2
    assert "layer 4: is behind the model's 4 layers (--model-layers may say otherwise; " in errors
    for more in (("--model-layers", "5"), ("--drop-layers", "4")):
        words = ("import", "sglang", out, *files, "--moe-layers", "1-3", *more, "--out", solved / "b.npz")
        assert run(*words)[0] == 0


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_placements_in_text_are_the_same_with_any_line_ends(solved: Path, ends: str) -> None:
    """JSON and YAML of engines, with a byte order mark, from any system."""
    files = ("--instance", solved / "instance.npz", "--moe-layers", "1-3")
    for form in ("sglang", "tensorrt-llm", "vllm-ascend"):
        out = solved / OUTS[form]
        assert run("export", form, *files, "--placement", solved / "placement.npz", "--out", out)[0] == 0
        text = out.read_text().replace(",", ",\n") if form != "tensorrt-llm" else out.read_text()
        out.write_bytes(b"\xef\xbb\xbf" + f"\n{text}\n".replace("\n", ends).encode())
        status, back, errors = run("import", form, out, *files, "--out", solved / "back.npz")
        assert status == 0, errors
        assert back["digest"] == load_placement(solved / "placement.npz").digest


def test_tensorrt_llms_options_with_the_balancer_inside_are_read(solved: Path) -> None:
    """The engine takes the balancer as a file, or within its own options."""
    files = ("--instance", solved / "instance.npz", "--moe-layers", "1-3")
    out = solved / "out.yaml"
    assert (
        run("export", "tensorrt-llm", *files, "--placement", solved / "placement.npz", "--out", out)[0] == 0
    )
    inside = {"moe_config": {"backend": "WIDEEP", "load_balancer": yaml.safe_load(out.read_text())}}
    out.write_text(yaml.safe_dump(inside))
    status, back, errors = run("import", "tensorrt-llm", out, *files, "--out", solved / "back.npz")
    assert status == 0, errors
    assert back["digest"] == load_placement(solved / "placement.npz").digest


def test_what_an_import_leaves_out_is_shown(tmp_path: Path) -> None:
    """Activations of shared experts, tokens without experts and layers: each is in the summary."""
    rows = np.zeros((50, 5, 3), np.uint8)
    rows[:, 1:] = [0, 1, EXPERTS]
    rows[7] = 0
    np.save(tmp_path / "a.npy", rows)
    options = ("--experts", EXPERTS, "--drop-layers", "4", "--moe-layers", "1-3")
    status, said, errors = run(
        "import", "vllm-routed-experts", tmp_path / "a.npy", *options, "--out", tmp_path / "o.npz"
    )
    assert status == 0, errors
    assert said["dropped_layers"] == [4]
    left_out = {"activations_beyond_experts": 49.0 * 3, "tokens_without_experts": 1}
    assert said["sources"]["all"] == {
        "kind": "tokens",
        "shape": [49, 3, 2],
        "activations": 49.0 * 3 * 2,
        "left_out": left_out,
    }
