"""Checkpoints as public repositories have them: what the origin serves of each, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import safetensors

from moeplace_agent.checkpoint.checkpoint import Checkpoint, open_checkpoint
from moeplace_agent.checkpoint.shards import CheckpointError
from moeplace_agent.experts.content import ContentReader
from tests.agent.checkpoints import GATED, Shapes, experts_of, write_file, write_index, write_shapes

QWEN = {"model_type": "qwen3_moe", "num_hidden_layers": 1, "num_experts": 4, "num_experts_per_tok": 2}
MLP = "model.layers.{}.mlp."
FUSED = "model.layers.0.mlp.experts."
Expected = list[tuple[int, int, int, list[str]]]


def served(checkpoint: Checkpoint) -> Expected:
    """(layer, experts, bytes of the largest, names of the first's tensors)."""
    return [
        (layer, len(experts), checkpoint.expert_bytes(layer), sorted(t.name for t in experts[0].tensors))
        for layer, experts in checkpoint.layers.items()
    ]


def refusal(directory: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as refused:
        open_checkpoint(directory, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def body_of(checkpoint: Checkpoint, layer: int, expert: int) -> dict[str, bytes]:
    with ContentReader(checkpoint.layers[layer][expert].content) as reader:
        file = reader.read(0, checkpoint.layers[layer][expert].content.size)
    tensors = safetensors.deserialize(file)  # type: ignore[no-untyped-call]
    return {name: bytes(tensor["data"]) for name, tensor in tensors}


# --- fused experts
def _granite(*suffixes: str) -> Shapes:
    kinds = {
        "weight": ("F8_E4M3", (8, 8, 16)),
        "weight_scale": ("BF16", (8, 8, 1)),
        "bias": ("BF16", (8, 8)),
        "input_scale": ("F32", (1,)),
    }
    return {
        f"model.layers.0.block_sparse_moe.{name}.{suffix}": kinds[suffix]
        for name in ("input_linear", "output_linear")
        for suffix in suffixes
    }


@pytest.mark.parametrize(
    ("suffixes", "expected"),
    [
        (("weight", "weight_scale"), 288),
        (("weight", "bias"), 288),
        (("weight", "weight_scale", "input_scale"), 296),
    ],
)
def test_scales_of_fused_experts_are_not_lost(
    suffixes: tuple[str, ...], expected: int, tmp_path: Path
) -> None:
    """Scales and biases of a fused matrix go with each expert, and a scale for all goes with every one."""
    config = {"model_type": "granitemoe", "num_hidden_layers": 1, "num_local_experts": 8}
    directory = write_shapes(tmp_path, config | {"num_experts_per_tok": 2}, _granite(*suffixes))
    names = sorted(f"{name}.{suffix}" for name in ("input_linear", "output_linear") for suffix in suffixes)
    assert served(open_checkpoint(directory)) == [(0, 8, expected, names)]


FUSED_KINDS: dict[str, tuple[Shapes, list[str]]] = {
    "nemotron_h": (
        {
            "backbone.layers.0.mixer.experts.up_proj": ("BF16", (4, 8, 16)),
            "backbone.layers.0.mixer.experts.down_proj": ("BF16", (4, 16, 8)),
            "backbone.layers.0.mixer.gate.weight": ("BF16", (4, 16)),
            "backbone.layers.0.mixer.shared_experts.up_proj.weight": ("BF16", (8, 16)),
        },
        ["down_proj", "up_proj"],
    ),
    "inkling": (
        {
            "model.llm.layers.0.mlp.experts.w13_weight": ("U8", (4, 16, 8)),
            "model.llm.layers.0.mlp.experts.w13_weight_scale": ("U8", (4, 16, 1)),
            "model.llm.layers.0.mlp.experts.w13_weight_amax": ("F32", (4,)),
            "model.llm.layers.0.mlp.experts.w2_weight": ("U8", (4, 16, 4)),
            "model.llm.layers.0.mlp.experts.w2_weight_scale": ("U8", (4, 16, 1)),
            "model.llm.layers.0.mlp.gate.bias": ("F32", (4,)),
        },
        ["w13_weight", "w13_weight_amax", "w13_weight_scale", "w2_weight", "w2_weight_scale"],
    ),
    "step3p7": (
        {
            "model.layers.0.moe.gate_proj.weight": ("F8_E4M3", (4, 8, 16)),
            "model.layers.0.moe.gate_proj.weight_scale_inv": ("F32", (4, 1, 1)),
            "model.layers.0.moe.up_proj.weight": ("F8_E4M3", (4, 8, 16)),
            "model.layers.0.moe.up_proj.weight_scale_inv": ("F32", (4, 1, 1)),
            "model.layers.0.moe.down_proj.weight": ("F8_E4M3", (4, 16, 8)),
            "model.layers.0.moe.down_proj.weight_scale_inv": ("F32", (4, 1, 1)),
            "model.layers.0.moe.gate.weight": ("F32", (4, 16)),
            "model.layers.0.moe.router_bias": ("F32", (4,)),
            "model.layers.0.share_expert.gate_proj.weight": ("BF16", (8, 16)),
        },
        [f"{n}_proj.weight{s}" for n in ("down", "gate", "up") for s in ("", "_scale_inv")],
    ),
    "aria_text": (
        {
            "model.layers.0.mlp.experts.fc1.weight": ("BF16", (4, 16, 16)),
            "model.layers.0.mlp.experts.fc2.weight": ("BF16", (4, 8, 16)),
            "model.layers.0.mlp.router.weight": ("BF16", (4, 16)),
        },
        ["fc1.weight", "fc2.weight"],
    ),
    "dbrx": (
        {f"transformer.blocks.0.ffn.experts.mlp.{n}": ("BF16", (4 * 8, 16)) for n in ("v1", "w1", "w2")},
        ["mlp.v1", "mlp.w1", "mlp.w2"],
    ),
    "laguna": (
        experts_of(MLP, [0], 4, GATED) | {f"{FUSED}e_score_correction_bias": ("F32", (4,))},
        sorted(GATED),
    ),
    "gpt_oss": (
        {
            f"{FUSED}{matrix}.{expert}.{name}": ("BF16", (16, 16) if name == "weight" else (16,))
            for matrix in ("gate_up_projs", "down_projs")
            for expert in range(4)
            for name in ("weight", "bias")
        },
        [f"{matrix}.{name}" for matrix in ("down_projs", "gate_up_projs") for name in ("bias", "weight")],
    ),
    "llama4_text": (
        {
            "model.layers.0.feed_forward.experts.gate_up_proj": ("F8_E4M3", (4, 16, 16)),
            "model.layers.0.feed_forward.experts.gate_up_proj_weight_scale": ("F32", ()),
            "model.layers.0.feed_forward.experts.down_proj": ("F8_E4M3", (4, 8, 16)),
            "model.layers.0.feed_forward.experts.down_proj_input_scale": ("F32", (1,)),
        },
        ["down_proj", "down_proj_input_scale", "gate_up_proj", "gate_up_proj_weight_scale"],
    ),
    "switch_transformers": (
        {
            f"decoder.block.0.layer.2.mlp.experts.expert_{expert}.{name}.weight": ("BF16", (8, 8))
            for expert in range(4)
            for name in ("wi", "wo")
        },
        ["wi.weight", "wo.weight"],
    ),
}


@pytest.mark.parametrize("model_type", FUSED_KINDS)
def test_every_layout_is_served_whole(model_type: str, tmp_path: Path) -> None:
    """In each layout that transformers converts, all parts of an expert are found and nothing of the router,
    and the four experts together have exactly the bytes of the tensors they come from."""
    tensors, names = FUSED_KINDS[model_type]
    config = {"model_type": model_type, "num_hidden_layers": 1, "num_experts": 4, "num_experts_per_tok": 2}
    checkpoint = open_checkpoint(write_shapes(tmp_path, config, tensors))
    ((layer, count, _, found),) = served(checkpoint)
    assert (layer, count, found) == (0, 4, names)
    read = safetensors.deserialize((tmp_path / "model.safetensors").read_bytes())  # type: ignore[no-untyped-call]
    stored = {name: bytes(tensor["data"]) for name, tensor in read}
    for name in names:
        for source, whole in stored.items():
            if source.endswith((f".experts.{name}", f".moe.{name}")):
                parts = [body_of(checkpoint, 0, expert)[name] for expert in range(4)]
                assert b"".join(parts) == whole or parts == [whole] * 4


@pytest.mark.parametrize(
    ("tensor", "shape", "words"),
    [
        (f"{FUSED}gate_up_proj_zeros", (3, 16), "gate_up_proj_zeros [3, 16] is among the 4 experts"),
        ("model.layers.0.mlp.lookup", (4, 16), "lookup [4, 16] is beside the experts"),
        ("model.layers.0.mlp.other_experts.scale", (4,), "other_experts.scale [4] is beside"),
    ],
)
def test_a_tensor_beside_fused_experts_that_is_not_understood_is_named(
    tensor: str, shape: tuple[int, ...], words: str, tmp_path: Path
) -> None:
    """It is refused by its name: served without it, the experts would be wrong."""
    fused = {f"{FUSED}gate_up_proj": ("BF16", (4, 16, 16)), f"{FUSED}down_proj": ("BF16", (4, 16, 8))}
    assert words in refusal(write_shapes(tmp_path, QWEN, fused | {tensor: ("BF16", shape)}))


def test_a_tensor_among_separate_experts_that_is_not_understood_is_named(tmp_path: Path) -> None:
    """A scale for all experts, beside matrices of each, belongs to all of them and is refused by its name."""
    tensors = experts_of(MLP, [0], 4, GATED) | {f"{FUSED}weight_scale": ("F32", (4,))}
    assert "experts.weight_scale look like experts" in refusal(write_shapes(tmp_path, QWEN, tensors))


# --- what is no routed expert of a feed-forward network
JETMOE = {"model_type": "jetmoe", "num_hidden_layers": 1, "num_local_experts": 8, "num_experts_per_tok": 2}
_LINEAR = ("input_linear", "output_linear")
ATTENTION = {f"model.layers.0.self_attention.experts.{n}.weight": ("BF16", (8, 4, 16)) for n in _LINEAR}


def test_experts_of_attention_are_not_served_for_those_of_the_network(tmp_path: Path) -> None:
    """JetMoE has two mixtures a layer: the feed-forward one is served."""
    tensors: Shapes = {f"model.layers.0.mlp.{n}.weight": ("BF16", (8, 8, 16)) for n in _LINEAR} | ATTENTION
    router = {
        "model.layers.0.mlp.router.layer.weight": ("BF16", (8, 16)),
        "model.layers.0.mlp.bias": ("BF16", (16,)),
    }
    checkpoint = open_checkpoint(write_shapes(tmp_path, JETMOE, {**tensors, **router}))
    assert served(checkpoint) == [(0, 8, 512, ["input_linear.weight", "output_linear.weight"])]


def test_experts_of_attention_alone_are_refused(tmp_path: Path) -> None:
    """Where only attention has experts, nothing is served in their place."""
    words = refusal(write_shapes(tmp_path, JETMOE, ATTENTION))
    assert "experts of attention (model.layers.0.self_attention.experts" in words


def test_two_kinds_of_experts_in_a_layer_are_refused(tmp_path: Path) -> None:
    """They would be taken for one kind; both are named."""
    tensors = {
        f"model.layers.0.mlp.{kind}_moe.experts.{n}": ("BF16", (4, 8, 16))
        for kind in ("text", "vision")
        for n in ("gate_up_proj", "down_proj")
    }
    words = refusal(write_shapes(tmp_path, QWEN, tensors))
    assert "layer 0 has two kinds of experts, in 'mlp.text_moe' and in 'mlp.vision_moe'" in words


def test_layers_for_multi_token_prediction_are_left_out_and_said(tmp_path: Path) -> None:
    """Layers behind the model's and modules named mtp are not served, and the checkpoint says which."""
    tensors = (
        experts_of(MLP, [0, 1], 4, GATED)
        | experts_of("mtp.layers.{}.mlp.", [0], 4, GATED)
        | experts_of("model.mtp_layers.{}.mlp.", [0], 4, GATED)
    )
    checkpoint = open_checkpoint(write_shapes(tmp_path, QWEN, tensors))
    assert list(checkpoint.layers) == [0]
    assert checkpoint.left_out == ("model.layers.1", "mtp.layers.0", "model.mtp_layers.0")


def test_one_of_two_models_is_served_on_request(tmp_path: Path) -> None:
    """Qwen3-Omni has a thinker and a talker with experts: both are named, and --below takes one."""
    tensors = experts_of("thinker.model.layers.{}.mlp.", [0], 4, GATED) | experts_of(
        "talker.model.layers.{}.mlp.", [0], 2, GATED
    )
    directory = write_shapes(tmp_path, QWEN, tensors)
    assert "below 'talker.model.' and below 'thinker.model.': expected one" in refusal(directory)
    assert served(open_checkpoint(directory, below="thinker.")) == [(0, 4, 768, sorted(GATED))]


# --- which files are the model
def test_tensors_that_the_index_does_not_name_are_not_served(tmp_path: Path) -> None:
    """A reused shard holds scales of another quantization: the index names none of them."""
    tensors = experts_of(MLP, [0], 4, GATED)
    directory = write_shapes(tmp_path, QWEN, tensors, "model-00001-of-00002.safetensors")
    scales = experts_of(MLP, [0], 4, {"gate_proj.weight_scale_inv": ("F32", (1, 1))})
    write_file(directory / "model-00002-of-00002.safetensors", {"lm_head.weight": ("BF16", (4, 4))} | scales)
    weight_map = dict.fromkeys(tensors, "model-00001-of-00002.safetensors")
    write_index(directory, weight_map | {"lm_head.weight": "model-00002-of-00002.safetensors"})
    assert served(open_checkpoint(directory)) == [(0, 4, 768, sorted(GATED))]


def test_a_tensor_in_two_shards_is_taken_from_the_one_the_index_names(tmp_path: Path) -> None:
    """The other shard's bytes of the same name are not served."""
    tensors = experts_of(MLP, [0], 4, GATED)
    directory = write_shapes(tmp_path, QWEN, tensors, "a.safetensors")
    stale = experts_of(MLP, [0], 4, {"gate_proj.weight": ("F32", (8, 16))})
    write_file(directory / "b.safetensors", stale | {"lm_head.weight": ("BF16", (4, 4))})
    write_index(directory, dict.fromkeys(tensors, "a.safetensors") | {"lm_head.weight": "b.safetensors"})
    assert served(open_checkpoint(directory)) == [(0, 4, 768, sorted(GATED))]
    write_index(directory, dict.fromkeys(tensors, "b.safetensors"))
    words = refusal(directory)
    assert "is in b.safetensors, which does not have it" in words


@pytest.mark.parametrize("stray", ["adapter_model", "consolidated", "consolidated-00001-of-00002", "old"])
def test_a_stray_file_beside_the_model_is_not_served(stray: str, tmp_path: Path) -> None:
    """Without an index, model.safetensors is the checkpoint, as loaders take it."""
    directory = write_shapes(tmp_path, QWEN, experts_of(MLP, [0], 4, GATED))
    write_file(directory / f"{stray}.safetensors", experts_of("layers.{}.feed_forward.", [0], 4, GATED))
    assert served(open_checkpoint(directory)) == [(0, 4, 768, sorted(GATED))]


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["model-00001-of-00002"], "model-00002-of-00002.safetensors"),
        (["model-00002-of-000002"], "model-00001-of-000002.safetensors"),
        (["model.safetensors-00001-of-00003", "model.safetensors-00003-of-00003"], "-00002-of-00003"),
    ],
)
def test_a_missing_shard_is_refused_without_an_index(names: list[str], missing: str, tmp_path: Path) -> None:
    """The names of the others say how many there are: the model would lack layers without a word."""
    for number, name in enumerate(names):
        write_shapes(tmp_path, QWEN, experts_of(MLP, [number], 4, GATED), f"{name}.safetensors")
    words = refusal(tmp_path)
    assert missing in words
    assert "is missing" in words


def test_a_layer_without_the_experts_that_the_configuration_gives_it_is_refused(tmp_path: Path) -> None:
    """config.json says that every layer has experts; the file of the second is not there."""
    config = QWEN | {"num_hidden_layers": 2, "mlp_only_layers": [], "decoder_sparse_step": 1}
    directory = write_shapes(tmp_path, config, experts_of(MLP, [0], 4, GATED), "part.safetensors")
    assert "layer 1 has no experts, config.json says that it has" in refusal(directory)


def test_shards_of_two_sets_are_not_mixed(tmp_path: Path) -> None:
    """Nothing says which of the two are the model."""
    for count in (1, 2):
        name = f"model-00001-of-{count:05}.safetensors"
        write_shapes(tmp_path, QWEN, experts_of(MLP, [0], 4, GATED), name)
    assert "of-00001 and model-...-of-00002" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("pytorch_model-00001-of-00002.bin", "has pytorch_model-00001-of-00002.bin and no *.safetensors"),
        ("adapter_model.safetensors", "adapter_model.safetensors, which is not a Hugging Face checkpoint"),
    ],
)
def test_a_directory_without_a_model_is_refused(file: str, words: str, tmp_path: Path) -> None:
    """What lies there instead is named."""
    write_shapes(tmp_path, QWEN, experts_of(MLP, [0], 4, GATED), file)
    assert words in refusal(tmp_path)


@pytest.mark.parametrize("name", ["..", "../model.safetensors", "/etc/passwd", "a/b.safetensors"])
def test_an_index_cannot_name_files_elsewhere(name: str, tmp_path: Path) -> None:
    """A checkpoint from the internet reads nothing outside its directory."""
    directory = write_shapes(tmp_path / "here", QWEN, experts_of(MLP, [0], 4, GATED))
    write_index(directory, {"x": name})
    assert "expected a file of the same directory" in refusal(directory)


# --- experts that differ
def _expert_5(**changes: Any) -> Shapes:
    tensors: dict[str, Any] = experts_of(
        MLP,
        [0],
        8,
        {
            f"{p}_proj.{name}": kind
            for p in ("gate", "up", "down")
            for name, kind in {
                "weight": ("U8", (8, 8)),
                "weight_scale": ("F8_E4M3", (8, 1)),
                "input_scale": ("F32", ()),
            }.items()
        },
    )
    for name, kind in changes.items():
        key = f"{FUSED}5.gate_proj.{name}"
        if kind is None:
            del tensors[key]
        else:
            tensors[key] = kind
    return tensors


@pytest.mark.parametrize(
    ("changes", "size", "of_5"),
    [
        ({"input_scale": None}, 228, 224),
        ({"weight": ("U8", (16, 8))}, 292, 292),
        ({"weight": ("BF16", (8, 16)), "weight_scale": None, "input_scale": None}, 408, 408),
    ],
)
def test_experts_of_unequal_tensors_count_with_the_largest(
    changes: dict[str, Any], size: int, of_5: int, tmp_path: Path
) -> None:
    """An expert without the scale of its inputs, with more bits, or not quantized is served as it is."""
    directory = write_shapes(tmp_path, QWEN | {"num_experts": 8}, _expert_5(**changes))
    checkpoint = open_checkpoint(directory)
    assert checkpoint.expert_bytes(0) == size
    assert [expert.data_bytes for expert in checkpoint.layers[0]] == [228] * 5 + [of_5] + [228] * 2


def test_an_expert_that_lost_a_scale_is_refused_by_name(tmp_path: Path) -> None:
    """Its matrix is stored as the others' are, so that it cannot be read without the scale."""
    directory = write_shapes(tmp_path, QWEN | {"num_experts": 8}, _expert_5(weight_scale=None))
    assert "expert 5 of layer 0 has no gate_proj.weight_scale, which expert 0 has" in refusal(directory)


# --- config.json
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN"])
def test_a_configuration_as_python_writes_it_is_read(number: str, mark: str, tmp_path: Path) -> None:
    """Nemotron 3's config.json has a bare Infinity; a byte order mark stands before some."""
    config = (
        f'{mark}{{"model_type": "nemotron_h", "num_hidden_layers": 4, "n_routed_experts": 8, '
        f'"num_experts_per_tok": 2, "time_step_limit": [0.0, {number}]}}'
    )
    two = {"up_proj.weight": ("BF16", (8, 16)), "down_proj.weight": ("BF16", (16, 8))}
    directory = write_shapes(tmp_path, config, experts_of("backbone.layers.{}.mixer.", [1], 8, two))
    assert served(open_checkpoint(directory)) == [(1, 8, 512, sorted(two))]


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000, '{"a": \udcff}'])
def test_a_configuration_that_is_no_object_is_refused(text: str, tmp_path: Path) -> None:
    """With the file's name, and without a traceback."""
    directory = write_shapes(tmp_path, "{}", experts_of(MLP, [0], 4, GATED))
    (directory / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    assert "config.json: is" in refusal(directory)


NAMES: dict[str, tuple[dict[str, Any], str]] = {
    "hunyuan": ({"num_hidden_layers": 1, "num_experts": 4, "moe_topk": [2]}, MLP),
    "ernie": ({"num_hidden_layers": 1, "moe_num_experts": 4, "moe_k": 2}, MLP),
    "kimi-linear": ({"num_hidden_layers": 1, "num_experts": 4, "num_experts_per_token": 2}, MLP),
    "longcat": ({"num_layers": 1, "n_routed_experts": 4, "zero_expert_num": 4, "moe_topk": 2}, MLP),
    "gemma": (
        {"text_config": {"num_hidden_layers": 1, "num_experts": 4, "top_k_experts": 2}},
        "model.language_model.layers.{}.",
    ),
    "dbrx": (
        {"n_layers": 1, "ffn_config": {"moe_num_experts": 4, "moe_top_k": 2}},
        "transformer.blocks.{}.ffn.",
    ),
    "ocr": (
        {"language_config": {"num_hidden_layers": 1, "n_routed_experts": 4, "num_experts_per_tok": 2}},
        "language.model.layers.{}.mlp.",
    ),
    "internvl": (
        {"llm_config": {"num_hidden_layers": 1, "num_local_experts": 4, "num_experts_per_tok": 2}},
        "language_model.model.layers.{}.mlp.",
    ),
    "omni": (
        {
            "thinker_config": {
                "text_config": {"num_hidden_layers": 1, "num_experts": 4, "num_experts_per_tok": 2},
                "vision_config": {"num_hidden_layers": 9, "num_experts": 3},
            },
            "talker_config": {"text_config": {"num_hidden_layers": 5, "num_experts": 7}},
        },
        "thinker.model.layers.{}.mlp.",
    ),
}


@pytest.mark.parametrize("family", NAMES)
def test_numbers_are_found_under_every_name(family: str, tmp_path: Path) -> None:
    """Layers, experts and experts per token, however config.json calls them and wherever it nests them."""
    config, prefix = NAMES[family]
    checkpoint = open_checkpoint(
        write_shapes(tmp_path, {"model_type": "new"} | config, experts_of(prefix, [0], 4, GATED))
    )
    assert served(checkpoint) == [(0, 4, 768, sorted(GATED))]
    assert checkpoint.top_k == {0: 2}


def test_experts_and_top_k_may_differ_by_layer(tmp_path: Path) -> None:
    """Lists by layer, as pruned models and Hunyuan have them, are compared with each layer's tensors."""
    config = QWEN | {"num_hidden_layers": 2, "num_experts": [4, 2], "moe_topk": [3, 1]}
    del config["num_experts_per_tok"]
    tensors = experts_of(MLP, [0], 4, GATED) | experts_of(MLP, [1], 2, GATED)
    checkpoint = open_checkpoint(write_shapes(tmp_path, config, tensors))
    assert [(row[0], row[1]) for row in served(checkpoint)] == [(0, 4), (1, 2)]
    assert checkpoint.top_k == {0: 3, 1: 1}
    config["num_experts"] = [4, 4]
    assert "layer 1 has 2 experts, num_experts says 4" in refusal(write_shapes(tmp_path, config, tensors))


def test_options_give_what_the_configuration_does_not(tmp_path: Path) -> None:
    """Without experts per token or a number of layers, the refusal names the option that gives it."""
    directory = write_shapes(tmp_path, {"model_type": "new"}, experts_of(MLP, [0, 1], 4, GATED))
    assert "--layers gives the number of layers" in refusal(directory)
    assert "--top-k gives the experts per token" in refusal(directory, layers=1)
    assert "--top-k is 5 of 4 experts" in refusal(directory, layers=1, top_k=5)
    checkpoint = open_checkpoint(directory, layers=1, top_k=1)
    assert (list(checkpoint.layers), checkpoint.top_k) == ([0], {0: 1})


def test_a_count_under_a_second_name_does_no_harm(tmp_path: Path) -> None:
    """transformers 5 saves Qwen3-MoE with num_local_experts; both names may stand, and one must be right."""
    tensors = experts_of(MLP, [0], 4, GATED)
    renamed = {name: value for name, value in QWEN.items() if name != "num_experts"} | {
        "num_local_experts": 4
    }
    assert len(open_checkpoint(write_shapes(tmp_path, renamed, tensors)).layers[0]) == 4
    both = QWEN | {"num_local_experts": 128}
    assert len(open_checkpoint(write_shapes(tmp_path, both, tensors)).layers[0]) == 4
    neither = QWEN | {"num_experts": 3, "num_local_experts": 5}
    words = refusal(write_shapes(tmp_path, neither, tensors))
    assert "layer 0 has 4 experts, num_local_experts says 5 and num_experts says 3" in words


def test_bytes_of_nvfp4_come_from_the_tensors(tmp_path: Path) -> None:
    """ModelOpt says in hf_quant_config.json alone that experts are quantized: the size is that of the
    tensors, not 3.56 times as much."""
    kinds: Shapes = {
        f"{p}_proj.{name}": kind
        for p in ("gate", "up", "down")
        for name, kind in {
            "weight": ("U8", (32, 16)),
            "weight_scale": ("F8_E4M3", (32, 2)),
            "weight_scale_2": ("F32", ()),
            "input_scale": ("F32", ()),
        }.items()
    }
    directory = write_shapes(tmp_path, QWEN | {"torch_dtype": "bfloat16"}, experts_of(MLP, [0], 4, kinds))
    (directory / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "NVFP4"}}')
    assert open_checkpoint(directory).expert_bytes(0) == 3 * (32 * 16 + 32 * 2 + 8)
