"""Experts found in checkpoints of every layout, and cut out of them as files."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import safetensors
from httpx import ASGITransport, AsyncClient

from app.models.huggingface import read_config
from moeplace_agent.checkpoint.checkpoint import open_checkpoint
from moeplace_agent.checkpoint.digests import FILE, expert_digests
from moeplace_agent.checkpoint.shards import CheckpointError
from moeplace_agent.experts.content import ContentReader
from moeplace_agent.journal import Journal
from moeplace_agent.origin import CheckpointShelf, origin_application
from tests.agent.checkpoints import EXPERTS, LAYOUTS, Made, Tensors, base, olmoe, write_checkpoint


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_expert_is_cut_out_bit_for_bit(layout: str, shards: int, tmp_path: Path) -> None:
    """The file served for each expert is read by the safetensors library, and has exactly the expert's
    tensors with the bytes they have in the checkpoint, wherever the shards cut it."""
    made = LAYOUTS[layout]
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, made, shards=shards))
    found = {}
    for expert in checkpoint.experts:
        with ContentReader(expert.content) as reader:
            file = reader.read(0, expert.content.size)
        assert len(file) == expert.content.size
        tensors = safetensors.deserialize(file)  # type: ignore[no-untyped-call]
        for name, tensor in tensors:
            found[expert.layer, expert.expert, name] = bytes(tensor["data"])
        assert expert.data_bytes == sum(len(tensor["data"]) for _, tensor in tensors)
    assert found == made.tensors.entries


@pytest.mark.parametrize("layout", LAYOUTS)
def test_origin_and_configuration_agree(layout: str, tmp_path: Path) -> None:
    """Layers, experts, bytes and top-k are those that the service reads from the same config.json."""
    made = LAYOUTS[layout]
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, made))
    _, blocks = read_config(made.config)
    assert [
        (layer, len(experts), experts[0].data_bytes, checkpoint.top_k[layer])
        for layer, experts in checkpoint.layers.items()
    ] == [(b.layer, b.experts, b.expert_bytes, b.top_k) for b in blocks]


def test_tensors_are_aligned_for_their_types(tmp_path: Path) -> None:
    """Scales in float32 come before weights in float8, so that no value lies across its natural boundary."""
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, LAYOUTS["deepseek_v3"]))
    dtypes = [tensor.dtype for tensor in checkpoint.layers[1][0].tensors]
    assert dtypes == ["F32"] * 3 + ["F8_E4M3"] * 3
    head = checkpoint.layers[1][0].content.pieces[0].data
    assert head is not None
    assert len(head) % 8 == 0


def test_digests_are_kept_beside_and_follow_the_files(tmp_path: Path) -> None:
    """Computed once: the second time comes from the file beside the checkpoint, which does not count once a
    weight file has changed."""
    write_checkpoint(tmp_path, LAYOUTS["olmoe"])
    checkpoint = open_checkpoint(tmp_path)
    first = expert_digests(checkpoint)
    assert first == {(e.layer, e.expert): e.content.sha256() for e in checkpoint.experts}
    assert len(set(first.values())) == len(first)
    kept = json.loads((tmp_path / FILE).read_text())
    kept["digests"] = dict.fromkeys(kept["digests"], "0" * 64)
    (tmp_path / FILE).write_text(json.dumps(kept))
    assert set(expert_digests(checkpoint).values()) == {"0" * 64}
    weights = tmp_path / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert set(expert_digests(open_checkpoint(tmp_path)).values()).isdisjoint({"0" * 64})


def test_digests_go_elsewhere_where_the_checkpoint_may_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only checkpoint is served all the same, and its digests are kept in the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    directory = write_checkpoint(tmp_path / "checkpoint", LAYOUTS["olmoe"])
    # A folder in its place keeps the file from being written even for root.
    (directory / FILE).mkdir()
    expert_digests(open_checkpoint(directory))
    assert list((tmp_path / "cache").rglob("*.json"))


def _without(made: Made, *names: str) -> Made:
    tensors = Tensors(written={k: v for k, v in made.tensors.written.items() if k not in names})
    return Made(made.config, tensors, made.moe_layers)


def _config(**changes: Any) -> Made:
    made = olmoe()
    return Made({**made.config, **changes}, made.tensors, made.moe_layers)


def _shaped(name: str, *shape: int) -> Made:
    made = olmoe()
    made.tensors.add(name, *shape)
    return made


def _unknown() -> Made:
    tensors = Tensors()
    tensors.add("transformer.blocks.0.ffn.networks.w1", EXPERTS * 8, 8)
    return Made(base("new"), tensors, ())


def _rows_of_all() -> Made:
    tensors = Tensors()
    tensors.add("transformer.blocks.0.ffn.experts.mlp.w1", EXPERTS * 8, 8)
    return Made(base("dbrx"), tensors, ())


_PROJECTIONS = ("gate", "up", "down")
_GATE = "model.layers.1.mlp.experts.{}.gate_proj.weight"


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (_unknown(), "no tensor is named like an expert"),
        (_rows_of_all(), "experts.mlp.w1 [32, 8] has no axis that counts the experts"),
        (_config(num_experts=5), "layer 0 has 4 experts, num_experts says 5"),
        (_config(num_hidden_layers="many"), "num_hidden_layers: is 'many', expected a whole number"),
        (_config(num_experts_per_tok=9), "num_experts_per_tok is 9 of 4 experts"),
        (
            _without(
                olmoe(), *(f"model.layers.1.mlp.experts.2.{n}_proj.weight" for n in ("gate", "up", "down"))
            ),
            "layer 1 has expert 3 and no expert 2",
        ),
        (_without(olmoe(), _GATE.format(3)), "expert 3 of layer 1 has no gate_proj.*, which expert 0 has"),
        (_shaped("model.layers.0.mlp.experts.gate_up_proj", 4, 8, 8), "expected one way of naming"),
        (
            _shaped("talker.layers.0.mlp.experts.0.w", 4),
            "experts are found below 'model.' and below 'talker.'",
        ),
    ],
)
def test_what_is_not_understood_is_refused_in_words(made: Made, words: str, tmp_path: Path) -> None:
    """An unknown or inconsistent layout is never guessed at: the error names the tensor or the number."""
    with pytest.raises(CheckpointError) as refused:
        open_checkpoint(write_checkpoint(tmp_path, made))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_incomplete_download_is_refused(tmp_path: Path) -> None:
    """A shard that is missing or cut short is named."""
    write_checkpoint(tmp_path, LAYOUTS["olmoe"], shards=3)
    shard = tmp_path / "model-00002-of-00003.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    with pytest.raises(CheckpointError, match=r"00002-of-00003.*is the download complete"):
        open_checkpoint(tmp_path)
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"00002-of-00003.*is missing"):
        open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        open_checkpoint(tmp_path / "nowhere")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../../secret"}}')
    with pytest.raises(CheckpointError, match="expected a file of the same directory"):
        open_checkpoint(tmp_path)


@pytest.mark.anyio
async def test_an_origin_logs_what_it_sends(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A line names the expert and who fetched it."""
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, LAYOUTS["deepseek_v3"]))
    shelf = CheckpointShelf("m", checkpoint, expert_digests(checkpoint))
    expert = checkpoint.experts[0]
    application = origin_application(shelf, sent=Journal(logging.getLogger("origin")).sent)
    path = f"/v1/experts/m/{expert.layer}/{expert.expert}"
    with caplog.at_level(logging.INFO):
        async with AsyncClient(transport=ASGITransport(application), base_url="http://origin") as client:
            assert (await client.get(path)).status_code == 200
    assert any(
        line.startswith(f"sent m/{expert.layer}/{expert.expert}: ") and line.endswith(", to 127.0.0.1")
        for line in caplog.messages
    )
