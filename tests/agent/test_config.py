"""node.yaml: what it gives, and what is said of mistakes in it."""

from pathlib import Path

import pytest
import yaml

from moeplace_agent.config import NodeFileError, read_node_file, read_token

GOOD = """
node_id: edge-a
service: {url: "http://10.0.0.2:8080", cluster: prod, token_file: secret}
devices:
  - {device_id: gpu-0, memory: 20GiB}
  - {device_id: gpu-1, memory: 1000000}
data_dir: experts
experts: {host: 0.0.0.0, url: "http://10.0.0.4:9000", fetch_limit: 50MB}
engine: {calls_url: "http://10.0.0.4:8000"}
"""


def write(directory: Path, text: str) -> Path:
    path = directory / "node.yaml"
    path.write_text(text)
    return path


def test_a_file_becomes_a_registration(tmp_path: Path) -> None:
    """Units are bytes, paths are relative to the file, and peers call the engine but fetch from the agent."""
    file = read_node_file(write(tmp_path, GOOD))
    spec = file.node_config("http://127.0.0.1:9000").spec()
    assert file.data_dir == tmp_path / "experts"
    assert file.service.token_file == tmp_path / "secret"
    assert file.experts.fetch_limit == 50_000_000
    assert [d["memory_bytes"] for d in spec["devices"]] == [20 << 30, 1_000_000]
    assert (spec["base_url"], spec["experts_url"]) == ("http://10.0.0.4:8000", "http://10.0.0.4:9000")


def test_the_example_in_the_documentation_is_right(tmp_path: Path) -> None:
    """The node.yaml that docs/agents.md shows has every key, and is taken as it stands."""
    page = (Path(__file__).parents[2] / "docs" / "agents.md").read_text()
    example = page.split("```yaml\n")[1].split("```")[0]
    read_node_file(write(tmp_path, example))
    shown = yaml.safe_load(example)
    file = read_node_file(write(tmp_path, example))
    for name, section in file.model_dump().items():
        assert name in shown
        if isinstance(section, dict):
            assert set(shown[name]) == set(section), name


def test_labels_of_older_files_are_ignored(tmp_path: Path) -> None:
    """A node.yaml with labels, which earlier versions knew, is the same node as one without."""
    plain = read_node_file(write(tmp_path, GOOD))
    assert read_node_file(write(tmp_path, GOOD + "labels: {rack: r1}\n")) == plain


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("node_id: edge-a", "node_id: '-a'"),
        ("node_id: edge-a", "node_id: origin"),
        ("cluster: prod", "clutser: prod"),
        ("memory: 20GiB", "memory: lots"),
        ("device_id: gpu-1", "device_id: gpu-0"),
        ("data_dir: experts", ""),
        ('url: "http://10.0.0.4:9000", ', ""),
        ("fetch_limit: 50MB", "fetch_limit: -1"),
        ("fetch_limit: 50MB", "port: 70000"),
        ("node_id: edge-a", "node_id: [unclosed"),
        ("node_id: edge-a", "- a"),
    ],
)
def test_mistakes_are_told_by_key(change: str, words: str, tmp_path: Path) -> None:
    """Every fault is a line that begins with the file and names the key."""
    assert change in GOOD
    path = write(tmp_path, GOOD.replace(change, words))
    with pytest.raises(NodeFileError) as told:
        read_node_file(path)
    lines = str(told.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    key = words.split(":")[0].strip("- ") or change.split(":")[0]
    expected = {
        "url": "experts.url: is missing",
        "clutser": "service.clutser: there is no such key",
        "device_id": "gpu-0 is named twice",
        "data_dir": "data_dir: is missing",
        "memory": "devices.0.memory",
        "a": "is not YAML",
    }
    if words.startswith("node_id: ["):
        assert "is not YAML" in lines[0]
    else:
        assert any(expected.get(key, key) in line for line in lines), lines


def test_tokens_are_read_without_their_newline(tmp_path: Path) -> None:
    """As editors leave it; an empty or missing file is an error, not a service without a token."""
    (tmp_path / "token").write_text("s3cret\n")
    (tmp_path / "empty").write_text("\n")
    assert read_token(tmp_path / "token") == "s3cret"
    assert read_token(None) is None
    for name in ("empty", "absent"):
        with pytest.raises(NodeFileError, match=name):
            read_token(tmp_path / name)
