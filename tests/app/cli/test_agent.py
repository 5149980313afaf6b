"""`moeplace agent` and `moeplace origin`: what they refuse, and what they show."""

import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import safetensors

from tests.agent.checkpoints import GATED, LAYOUTS, experts_of, write_checkpoint, write_shapes
from tests.service import Service

NODE = """
node_id: edge-a
service: {url: "http://127.0.0.1:1"}
devices: [{device_id: gpu-0, memory: 1MiB}]
data_dir: data
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        ("", 0, "node edge-a, 1 device"),
        ("expert: {}", 2, "expert: there is no such key"),
        ("experts: {host: 192.0.2.1}", 1, "experts.host: 192.0.2.1 can be reached from other machines"),
        ("experts: {host: 192.0.2.1, allow_unauthenticated: true}", 0, "is correct"),
        ("local: {host: 192.0.2.1}", 1, "local.host: is 192.0.2.1, expected a loopback address"),
    ],
)
def test_a_node_file_is_checked(more: str, status: int, words: str, tmp_path: Path) -> None:
    """Right or wrong is said in a line; weights are not offered to others by accident."""
    path = tmp_path / "node.yaml"
    path.write_text(NODE + more)
    done = run("agent", "--config", str(path), "--check")
    assert done.returncode == status, done.stderr
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_an_agent_whose_directory_is_in_use_ends_in_words(tmp_path: Path) -> None:
    """The second on the same data_dir is told so before it says anything to the service."""
    from moeplace_agent.experts.directory import ExpertDirectory

    path = tmp_path / "node.yaml"
    path.write_text(NODE + "experts: {port: 0}\nlocal: {port: 0}\n")
    directory = ExpertDirectory(tmp_path / "data")
    done = run("agent", "--config", str(path))
    directory.close()
    assert done.returncode == 1
    assert "another agent keeps its experts there" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_origin_shows_what_it_found(tmp_path: Path) -> None:
    """Layers, experts, bytes and tensors of a checkpoint, without serving it."""
    write_checkpoint(tmp_path, LAYOUTS["deepseek_v3"])
    done = run("origin", "--checkpoint", str(tmp_path), "--show")
    assert done.returncode == 0, done.stderr
    shown = re.sub(r"\s+", " ", done.stdout)
    assert "deepseek_v3, top 2" in shown
    assert "1-2 │ 4 │" in shown
    assert "gate_proj.weight_scale_inv F32 [1, 1]" in shown


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--host", "192.0.2.1"], 1, "host: 192.0.2.1 can be reached from other machines"),
        (["--model-id", "my model"], 2, "--model-id: 'my model' is not an id"),
        (["--send-limit", "fast"], 2, "expected bytes, like 50MB"),
        (["--token-file", "/nowhere"], 2, "/nowhere"),
    ],
)
def test_an_origin_refuses_in_words(options: list[str], status: int, words: str, tmp_path: Path) -> None:
    """One line for an operator, whatever is wrong."""
    write_checkpoint(tmp_path, LAYOUTS["olmoe"])
    done = run("origin", "--checkpoint", str(tmp_path), "--port", "0", *options)
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_directory_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    """The reason is in the one line that is printed."""
    done = run("origin", "--checkpoint", str(tmp_path))
    assert done.returncode == 2
    words = "has no config.json, expected a Hugging Face checkpoint"
    assert done.stderr.strip() == f"moeplace: {tmp_path}: {words}"


def test_an_origin_registers_unequal_experts_at_a_new_service(
    serve: Callable[..., Service], tmp_path: Path
) -> None:
    """At a service without any cluster the model is registered, its layer with the size of the largest
    expert, and the smallest expert is fetched with the bytes that it has in the checkpoint."""
    tensors: dict[str, Any] = dict(experts_of("model.layers.{}.mlp.", [0], 4, GATED))
    tensors["model.layers.0.mlp.experts.3.up_proj.weight"] = ("BF16", (4, 16))
    config = {"model_type": "new", "num_layers": 1, "num_experts": 4, "moe_topk": [2]}
    checkpoint = write_shapes(tmp_path / "new-model", config, tensors)
    service = serve()
    arguments = ["origin", "--checkpoint", str(checkpoint), "--port", "0", "--service", service.base_url]
    origin = subprocess.Popen(
        [sys.executable, "-m", "app", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert origin.stdout is not None
        assert origin.stderr is not None
        said = re.search(r"serves 4 experts of new-model on (\S+)", origin.stdout.readline())
        assert said is not None, origin.stderr.read()
        model = (
            httpx.get(f"{service.base_url}/v1/clusters/default/models/new-model").raise_for_status().json()
        )
        file = httpx.get(f"{said[1]}/v1/experts/new-model/0/3").raise_for_status().content
    finally:
        origin.terminate()
        origin.communicate(timeout=30)
    (block,) = model["blocks"]
    assert (block["expert_bytes"], block["top_k"]) == (768, 2)
    stored = _tensors((checkpoint / "model.safetensors").read_bytes())
    fetched = _tensors(file)
    assert fetched == {name: stored[f"model.layers.0.mlp.experts.3.{name}"] for name in GATED}
    assert block["expert_digests"][3] == hashlib.sha256(file).hexdigest()


def _tensors(file: bytes) -> dict[str, bytes]:
    read = safetensors.deserialize(file)  # type: ignore[no-untyped-call]
    return {name: bytes(tensor["data"]) for name, tensor in read}
