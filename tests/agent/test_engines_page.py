"""docs/engines.md does what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from moeplace_agent.holdings import ExpertKey, Holdings
from moeplace_agent.messages import LayerRoutes
from moeplace_agent.routing import LOCAL, RoutingTable
from tests.agent.assignments import PEER, assignment

PAGE = Path(__file__).resolve().parents[2] / "docs" / "engines.md"
BLOCK = re.compile(r"^```python( transformers)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(*, transformers: bool) -> list[str]:
    found = [
        text for extra, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if bool(extra) == transformers
    ]
    assert found
    return found


def run(text: str, names: dict[str, Any]) -> None:
    exec(compile(text, str(PAGE), "exec"), names)


def test_examples_run_in_order_and_print_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    """Every example runs as written after the ones before it; what it prints is what its comments say."""
    holdings = Holdings({"gpu": 10})
    for expert in (0, 5):
        holdings.reserve(ExpertKey("moe", 1, expert), 1, None)
        holdings.complete(ExpertKey("moe", 1, expert))
    given = assignment({}, PEER)
    routed = LayerRoutes("moe", 1, [3], [[0]])
    table = RoutingTable(type(given)(given.metadata, given.node_id, [], given.targets, [routed]))
    names: dict[str, Any] = {"table": table, "holdings": holdings}
    said: list[str] = []
    for text in blocks(transformers=False):
        run(text, names)
        said += re.findall(r"^print\(.*\)\s+# (.*)$", text, re.MULTILINE)
    printed = [
        " ".join(line.split()) for line in capsys.readouterr().out.replace("]\n [", "] [").splitlines()
    ]
    assert len(said) == 3
    assert printed == said
    assert names["routes"].where(layer=1, expert=3) == (PEER,)
    assert names["routes"].by_place(1, names["ids"][:, 0].reshape(-1)) == {LOCAL: [0], PEER: [3]}


def test_links_lead_somewhere() -> None:
    """Every relative link of the page exists."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", PAGE.read_text(encoding="utf-8")):
        assert (PAGE.parent / target).exists(), target
