"""`moeplace agent` and `moeplace origin`: what they refuse, and what they show."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.agent.checkpoints import LAYOUTS, write_checkpoint

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
        ("experts: {host: 192.0.2.1}", 1, "experts.host: 192.0.2.1 can be reached by others"),
        ("experts: {host: 192.0.2.1, allow_unauthenticated: true}", 0, "is right"),
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
    from agent.experts.directory import ExpertDirectory

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
        (["--host", "192.0.2.1"], 1, "host: 192.0.2.1 can be reached by others"),
        (["--model-id", "my model"], 2, "--model-id: 'my model' is no id"),
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
