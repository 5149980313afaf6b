"""The hooks record what models of every architecture named route, by layer, phase and token."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

WHY = "needs torch and transformers: make test-transformers"
torch = pytest.importorskip("torch", reason=WHY)
pytest.importorskip("transformers", reason=WHY)

from moeplace_agent.hooks.routers import find_routers  # noqa: E402
from moeplace_agent.hooks.transformers import attach, moe_layers  # noqa: E402
from moeplace_agent.telemetry import Activity, LayerShape, Phase, Recorder, Window  # noqa: E402
from moeplace_agent.telemetry.windows import NO_EXPERT  # noqa: E402
from tests.agent.hooks import choices  # noqa: E402
from tests.agent.hooks.tiny import EXPERTS, text, tiny  # noqa: E402
from tests.agent.test_engines_page import blocks, run  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("default"),  # what transformers warns of is not ours to mend
]

Choice = choices.Choice

ARCHITECTURES: dict[str, tuple[str, dict[str, Any], list[int], Choice]] = {
    "Mixtral": ("mixtral", {}, [0, 1, 2], choices.logits),
    "Qwen2-MoE": ("qwen2_moe", {"mlp_only_layers": [1]}, [0, 2], choices.logits),
    "Qwen3-MoE": ("qwen3_moe", {"decoder_sparse_step": 2}, [1], choices.logits),
    "OLMoE": ("olmoe", {}, [0, 1, 2], choices.logits),
    "DeepSeek-V2-Lite": ("deepseek_v2", {"topk_method": "greedy"}, [1, 2], choices.logits),
    "DeepSeek-V2": ("deepseek_v2", {"topk_method": "group_limited_greedy"}, [1, 2], choices.group_limited),
    "DeepSeek-V3": ("deepseek_v3", {}, [1, 2], choices.bias_corrected),
    "GPT-OSS": ("gpt_oss", {}, [0, 1, 2], choices.biased_logits),
    "Phi-MoE": ("phimoe", {}, [0, 1, 2], choices.logits),
    "Granite-MoE": ("granitemoe", {}, [0, 1, 2], choices.logits),
    "Llama-4": ("llama4_text", {"moe_layers": [0, 2]}, [0, 2], choices.logits),
    "GLM-4-MoE": ("glm4_moe", {}, [1, 2], choices.bias_corrected),
}
"""Model type, settings, the true numbers of the MoE layers, and how the router chooses."""

_HYBRID = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}

ALSO: dict[str, dict[str, Any]] = {
    "afmoe": {},
    "aria_text": {},
    "axk1": {},
    "bailing_hybrid": _HYBRID,
    "cohere2_moe": {},
    "deepseek_v32": {},
    "deepseek_v4": {},
    "dots1": {},
    "ernie4_5_moe": {},
    "exaone_moe": {},
    "flex_olmo": {},
    "gemma4_text": {"enable_moe_block": True, "top_k_experts": 2, "layer_types": ["full_attention"] * 3},
    "glm4_moe_lite": {},
    "glm_moe_dsa": {},
    "granitemoe_swa": {},
    "granitemoehybrid": {"mamba_n_heads": 8, "layer_types": ["attention", "mamba", "attention"]},
    "granitemoeshared": {},
    "hunyuan_v1_moe": {},
    "hy_v3": {},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4, "use_mamba_kernels": False},
    "kimi_linear": _HYBRID,
    "laguna": {},
    "lfm2_moe": {"layer_types": ["full_attention", "conv", "full_attention"]},
    "longcat_flash": {"num_layers": 2, "moe_topk": 2, "zero_expert_num": 4, "ffn_hidden_size": 16},
    "mellum": {},
    "minimax": {},
    "minimax_m2": {},
    "nemotron_h": {},
    "qwen3_5_moe_text": _HYBRID,
    "qwen3_next": _HYBRID,
    "solar_open": {},
}
"""Settings of other architectures whose routers are found; held to what their experts are called with."""


@contextmanager
def hidden_states(model: Any) -> Iterator[dict[int, list[Any]]]:
    """What reaches each router, by layer."""
    seen: dict[int, list[Any]] = {}
    hooks = [
        router.module.register_forward_pre_hook(
            lambda module, args, layer=router.layer: seen.setdefault(layer, []).append(
                args[0].detach().reshape(-1, args[0].shape[-1]).numpy().astype(np.float64)
            )
        )
        for router in find_routers(model).routers
    ]
    yield seen
    for hook in hooks:
        hook.remove()


def recorder_of(model: Any) -> Recorder:
    return Recorder("m", moe_layers(model), routes_per_layer=10_000, repeat_share=None)


def cut(recorder: Recorder) -> Window:
    window = recorder.cut()
    assert window is not None
    return window


def holds(activity: Activity, expected: dict[int, Any]) -> None:
    """`activity` has exactly the routes expected int[tokens, top_k] of each layer, and their counts."""
    assert [layer.layer for layer in activity.layers] == sorted(expected)
    for layer in activity.layers:
        rows = expected[layer.layer]
        assert activity.tokens == len(rows)
        rows = np.sort(np.where(rows < EXPERTS, rows, NO_EXPERT), axis=1)
        found = dict(zip(map(tuple, layer.routes.tolist()), layer.weights.tolist(), strict=True))
        assert found == Counter(tuple(row) for row in rows.tolist() if row[0] != NO_EXPERT)
        assert layer.counts.tolist() == np.bincount(rows[rows < EXPERTS], minlength=EXPERTS).tolist()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_recorded_is_what_the_hidden_states_say(name: str) -> None:
    """A padded batch as prompt and two decoded tokens: the ids recorded, by true layer and phase, are those
    that the weights choose for the hidden states, computed in float64 by the formula of the architecture."""
    model_type, settings, layers, choice = ARCHITECTURES[name]
    model = tiny(model_type, **settings)
    recorder = recorder_of(model)
    assert list(recorder.layers) == layers
    assert set(recorder.layers.values()) == {LayerShape(EXPERTS, 2)}
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[0, :3] = 0
    prompt = text(2, 7)
    with torch.no_grad(), hidden_states(model) as seen, attach(model, recorder) as attachment:
        cache = model(input_ids=prompt, attention_mask=mask[:, :7], use_cache=True).cache
        for step in (7, 8):
            model(input_ids=text(2, 1, step), attention_mask=mask[:, : step + 1], cache=cache)
    assert attachment.failures == recorder.rejected == 0
    window = cut(recorder)
    living = mask[:, :7].reshape(-1).numpy() == 1
    for phase, calls, keep in (
        (Phase.PREFILL, slice(0, 1), living),
        (Phase.DECODE, slice(1, 3), slice(None)),
    ):
        expected = {
            router.layer: choices.chosen(
                choice(router.module, np.concatenate(seen[router.layer][calls])[keep]), 2
            )
            for router in find_routers(model).routers
        }
        holds(window.phases[phase], expected)
    assert window.tokens == 11 + 4


@pytest.mark.parametrize("model_type", ALSO)
def test_recorded_is_what_the_experts_are_called_with(model_type: str) -> None:
    """In other architectures the ids recorded are those that the experts' module receives, but for
    LongCat's experts without weights."""
    model = tiny(model_type, **ALSO[model_type])
    recorder = recorder_of(model)
    called: dict[int, Any] = {}
    for router in find_routers(model).routers:
        block = model.get_submodule(router.name.rpartition(".")[0])
        block.experts.register_forward_pre_hook(
            lambda module, args, layer=router.layer: called.update({layer: args[1].numpy()})
        )
    with torch.no_grad(), attach(model, recorder) as attachment:
        model(input_ids=text(2, 7))
    assert attachment.failures == recorder.rejected == 0
    assert len(called) == len(recorder.layers) >= 1
    holds(cut(recorder).phases[Phase.PREFILL], called)


def test_zaya_skips_are_no_calls_of_expert_0() -> None:
    """Where Zaya's router skips the experts it returns id 0 without weight; that is recorded as no expert."""
    model = tiny("zaya", num_experts_per_tok=1)
    recorder = recorder_of(model)
    called: dict[int, Any] = {}
    for router in find_routers(model).routers:
        block = model.get_submodule(router.name.rpartition(".")[0])

        def take(module: Any, args: Any, layer: int = router.layer) -> None:
            ids, weights = args[1].numpy().copy(), args[2].numpy()
            ids[weights == 0] = EXPERTS
            called[layer] = ids

        block.experts.register_forward_pre_hook(take)
    with torch.no_grad(), attach(model, recorder) as attachment:
        model(input_ids=text(2, 7))
    assert attachment.failures == recorder.rejected == 0
    assert any((ids == EXPERTS).any() for ids in called.values())
    holds(cut(recorder).phases[Phase.PREFILL], called)


def test_doges_experts_are_those_whose_embeddings_are_looked_up() -> None:
    """Doge chooses pairs of keys; what is recorded are the rows of its experts' embeddings."""
    model = tiny("doge", is_moe=True, num_experts=16)
    recorder = recorder_of(model)
    looked_up: dict[int, Any] = {}
    for router in find_routers(model).routers:
        router.module.down_embed.register_forward_pre_hook(
            lambda module, args, layer=router.layer: looked_up.update({layer: args[0].numpy()})
        )
    with torch.no_grad(), attach(model, recorder) as attachment:
        model(input_ids=text(2, 7))
    assert attachment.failures == recorder.rejected == 0
    activity = cut(recorder).phases[Phase.PREFILL]
    assert {layer.layer: layer.counts.tolist() for layer in activity.layers} == {
        layer: np.bincount(ids.ravel(), minlength=16).tolist() for layer, ids in looked_up.items()
    }


def test_ended_sequences_of_a_batch_are_left_out() -> None:
    """`generate` goes on feeding padding to sequences that have ended; what is recorded are living tokens."""
    model = tiny("mixtral")
    recorder = recorder_of(model)
    prompt = text(4, 6)
    given = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 8, "do_sample": False}
    with torch.no_grad():
        answer = model.generate(prompt, **given)[:, 6:]
        model.generation_config.eos_token_id = int(answer[0, 2])  # so that the first ends early
        with attach(model, recorder) as attachment:
            answer = model.generate(prompt, **given)[:, 6:].numpy()
    assert (answer[0] == 0).sum() >= 4
    assert (answer[1] != 0).all()
    assert attachment.failures == recorder.rejected == 0
    window = cut(recorder)
    # The last token of each sequence is not run through the model any more.
    longest = answer.shape[1]
    fed = answer[:, : longest - 1]
    assert window.phases[Phase.DECODE].tokens == (fed != 0).sum()


def test_detached_hooks_record_nothing() -> None:
    """After `detach` the model runs as before, and twice detached is once."""
    model = tiny("olmoe")
    recorder = recorder_of(model)
    with torch.no_grad():
        with attach(model, recorder) as attachment:
            recorded = model(input_ids=text(1, 5)).logits
        attachment.detach()
        plain = model(input_ids=text(1, 5)).logits
    assert torch.equal(recorded, plain)
    assert cut(recorder).tokens == 5


def test_threads_do_not_mix_their_passes() -> None:
    """Passes that run at the same time are each recorded whole."""
    model = tiny("qwen3_moe")
    recorder = recorder_of(model)
    begin = threading.Barrier(4)

    def run(seed: int) -> None:
        begin.wait()
        with torch.no_grad():
            for length in range(2, 12):
                model(input_ids=text(1, length, seed))

    with attach(model, recorder) as attachment:
        threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert attachment.failures == recorder.rejected == 0
    window = cut(recorder)
    assert window.tokens == 4 * sum(range(2, 12))
    assert all(layer.counts.sum() == 2 * window.tokens for layer in window.layers)


def test_the_model_goes_on_where_recording_fails(caplog: pytest.LogCaptureFixture) -> None:
    """A router that chooses another number of experts than it said, or returns something else, costs the
    telemetry and a line in the log."""
    model = tiny("mixtral")
    recorder = recorder_of(model)
    router = find_routers(model).routers[1].module
    with torch.no_grad(), attach(model, recorder) as attachment:
        router.top_k = 3  # the model changes under the hooks
        for _ in range(3):
            model(input_ids=text(1, 5))
        assert recorder.cut() is None
        assert (recorder.rejected, attachment.failures) == (3, 0)
        router.register_forward_hook(lambda module, args, output: output[:2], prepend=True)
        with pytest.raises(ValueError, match="not enough values to unpack"):
            model(input_ids=text(1, 5))
    assert attachment.failures == 1
    assert "layer 1: ids have shape (5, 3), expected (5, 2)" in caplog.text
    assert "model.layers.1.mlp.gate: MixtralTopKRouter returned no ids, expected them third" in caplog.text
    assert len(caplog.records) == 2


def test_other_models_are_refused_in_words() -> None:
    """No routers, a recorder for other layers, and layers with two routers are named."""
    model = tiny("mixtral")
    with pytest.raises(ValueError, match="Linear: has no router known here"):
        attach(torch.nn.Linear(2, 2), recorder_of(model))
    with pytest.raises(ValueError, match="recorder: is for layers"):
        attach(model, Recorder("m", {0: LayerShape(8, 2)}))
    both = torch.nn.ModuleDict({"one": tiny("mixtral"), "two": tiny("olmoe")})
    with pytest.raises(ValueError, match=r"one\.model\.layers and two\.model\.layers, expected one"):
        moe_layers(both)
    assert list(moe_layers(both, lambda name: name.startswith("two."))) == [0, 1, 2]
    layer = both["one"].model.layers[1].mlp
    layer.second = layer.gate.__class__(both["one"].config)
    with pytest.raises(ValueError, match=r"layer 1: has the routers .*mlp\.gate and .*mlp\.second"):
        moe_layers(both["one"])


def test_the_example_of_the_page_runs() -> None:
    """docs/engines.md, on a real model: the prompt is prefill, what is generated decoding."""
    names: dict[str, Any] = {"Recorder": Recorder, "model": tiny("mixtral"), "prompt": text(1, 5)}
    names["model"].generation_config.eos_token_id = None
    for block in blocks(transformers=True):
        run(block, names)
    window = cut(names["recorder"])
    assert {phase: activity.tokens for phase, activity in window.phases.items()} == {
        Phase.PREFILL: 5,
        Phase.DECODE: 7,
    }
