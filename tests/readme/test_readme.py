"""The README does what it says: its walk-through runs as written, and tables are those of the code."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.cli import COMMANDS
from app.config import Settings
from tests.service import Service

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
API, CONFIGURATION = ROOT / "docs" / "api.md", ROOT / "docs" / "configuration.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ANSWERS = "=== answers of block"


def _section(title: str) -> str:
    _, _, rest = README.read_text(encoding="utf-8").partition(f"\n## {title}\n")
    assert rest, f"README has no section {title!r}"
    return rest.partition("\n## ")[0]


def _documents(text: str) -> list[Any]:
    """The JSON documents in what curl printed one after another."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while (at := text.find("{", at)) >= 0:
        try:
            document, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            at += 1
        else:
            found.append(document)
    return found


def _shows(shown: Any, answer: Any) -> bool:
    """Whether `answer` has everything that `shown` has; the README leaves out what does not matter there."""
    if isinstance(shown, dict):
        return isinstance(answer, dict) and all(
            key in answer and _shows(value, answer[key]) for key, value in shown.items()
        )
    if isinstance(shown, list):
        return isinstance(answer, list) and len(shown) == len(answer) and all(map(_shows, shown, answer))
    return bool(shown == answer)


def _walk_through(service: Service, pause: float = 0.0) -> tuple[str, dict[int, Any], dict[int, Any]]:
    """All that the blocks printed, run in order with a pause (seconds) before each that comes after the first
    registration; the answers shown and those received, by the number of their block."""
    blocks = BLOCK.findall(_section("Five minutes with curl"))
    script, shown = ["set -euo pipefail"], {}
    for index, (language, text) in enumerate(blocks):
        if language == "sh":
            registered = "register()" in "\n".join(script)
            script += [f"sleep {pause if registered else 0}", text, f'echo; echo "{ANSWERS} {index}"']
        elif language == "json":
            shown[index - 1] = json.loads(text)
    run = subprocess.run(
        ["bash", "-c", "\n".join(script).replace("http://127.0.0.1:8080", service.base_url)],
        capture_output=True,
        text=True,
        timeout=90,
        env=dict(os.environ),
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    parts = re.split(rf"{ANSWERS} (\d+)\n", run.stdout)
    answers = {int(index): _documents(text) for text, index in zip(parts[::2], parts[1::2], strict=False)}
    return run.stdout, shown, answers


def test_walk_through_runs_as_written(serve: Callable[..., Service]) -> None:
    """Every block of the walk-through succeeds in order, and each answer shown is the last one received."""
    printed, shown, answers = _walk_through(serve())
    assert "/problems/" not in printed, printed
    assert len(shown) >= 5
    for index, fragment in shown.items():
        assert _shows(fragment, answers[index][-1]), f"README shows {fragment}, got {answers[index][-1]}"


def test_walk_through_bears_a_reader_who_pauses(serve: Callable[..., Service]) -> None:
    """With pauses between the blocks that are longer than the nodes' lease the nodes are lost each time, and
    the answers shown come all the same."""
    service = serve(env={"MOEPLACE_NODE_LEASE_SECONDS": "2.5"})
    printed, shown, answers = _walk_through(service, pause=2.7)
    assert "/problems/" not in printed, printed
    for index, fragment in shown.items():
        assert _shows(fragment, answers[index][-1]), f"README shows {fragment}, got {answers[index][-1]}"


def test_loops_of_the_walk_through_end(tmp_path: Path) -> None:
    """What does not come is given up with a message that says where the reason stands."""
    section = _section("Five minutes with curl")
    function = re.search(r"^wait_for\(\) \{\n.*?^\}\n", section, re.MULTILINE | re.DOTALL)
    assert function is not None
    assert not re.search(r"^\s*(until|while)\b", section, re.MULTILINE)
    script = f"LAB=lab\nsleep() {{ :; }}\n{function[0]}wait_for false\n"
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert run.returncode == 1
    assert "curl lab/placement/status" in run.stderr


def _configuration() -> str:
    rows = ["| variable | default | what |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        if name == "data_dir":
            default = "the user's data directory"
        elif field.default is None:
            default = "none"
        else:
            default = f"`{getattr(field.default, 'value', field.default)}`"
        rows.append(f"| `MOEPLACE_{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


def test_configuration_table_lists_every_setting() -> None:
    """The table is that of the settings, with their defaults; the message shows what it should be."""
    page = CONFIGURATION.read_text(encoding="utf-8")
    table = page.partition("<!-- configuration -->\n")[2].partition("\n<!--")[0]
    assert table == _configuration(), f"the table should be:\n{_configuration()}"


def test_commands_table_lists_every_command() -> None:
    """The table names each command of the program and no other."""
    named = set(re.findall(r"`moeplace (\w+)", _section("Commands")))
    assert named == {command.name for command in COMMANDS}


def test_api_table_names_every_route() -> None:
    """Every path of the contract is reached by a row of the API's table."""
    table = API.read_text(encoding="utf-8")
    contract = json.loads((ROOT / "openapi" / "openapi.json").read_text(encoding="utf-8"))
    base = "/v1/clusters/{cluster_id}"
    for path in contract["paths"]:
        resource = path.removeprefix(base)
        if path in ("/v1/clusters", base):
            continue
        first = "/" + resource.split("/")[1].split(":")[0]
        assert first in table, path


def test_gains_are_the_measured_ones() -> None:
    """The latencies on the first screen are those that `python -m benchmarks.fleet` has committed."""
    measured = json.loads((ROOT / "benchmarks" / "results" / "fleet.json").read_text(encoding="utf-8"))
    latency = {row["algorithm"]: row["figures"][2] for row in measured["report"]["rows"]}
    algorithms = ("certified", "local_popularity", "eplb", "uniform")
    table = README.read_text(encoding="utf-8").partition("| latency per token |\n")[2].partition("\n\n")[0]
    assert re.findall(r"(\d+) ms", table) == [f"{latency[name] * 1e3:.0f}" for name in algorithms]
