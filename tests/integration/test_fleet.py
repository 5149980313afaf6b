"""`moeplace fleet` as a user runs it, and a fleet that loses a node: real processes, weights and bytes."""

import asyncio
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import psutil
import pytest

from lab.fleet.measurement import agreement
from lab.fleet.members import started_members
from lab.fleet.reference import answers_of_whole_model
from lab.fleet.scenario import scenario
from lab.fleet.traffic import arrivals
from tests.commands import RunningCommand


@pytest.fixture
def start(tmp_path: Path) -> Iterator[list[RunningCommand]]:
    started: list[RunningCommand] = []
    yield started
    for command in started:
        command.end()


@pytest.mark.timeout(420)
def test_a_short_run_compares_placements_and_checks_every_answer(
    tmp_path: Path, start: list[RunningCommand]
) -> None:
    """Two algorithms, two nodes that swap, small delays: exit status 0, every answer that of the whole model
    to the bit, also while experts moved; numbers and picture are written, and nothing is left."""
    numbers, drawn = tmp_path / "fleet.json", tmp_path / "fleet.svg"
    options = shlex.split(
        "--plain --nodes 3 --delay 10 --origin-delay 40 --bandwidth 20 --rate 0.8 "
        "--learn-seconds 6 --seconds 4 --swap-seconds 6 -a uniform -a certified"
    )
    options += ["--json", str(numbers), "--picture", str(drawn)]
    command = RunningCommand(tmp_path, "fleet", *options)
    start.append(command)
    command.wait_for("nodes hold nothing yet", seconds=150)
    assert len(command.running("lab.fleet.node")) == 3
    assert len(command.running("lab.fleet.origin")) == 1
    assert command.wait(240) == 0, command.text()
    found = msgspec.json.decode(numbers.read_bytes())
    same = found["agreement"]
    assert same[0] == same[1] == same[2] > 0, same
    assert f"All {same[0]} answers, also those given while experts moved, are bit for bit" in command.text()
    assert [row["algorithm"] for row in found["rows"]] == ["uniform", "certified"]
    uniform, certified = found["rows"]
    assert certified["predicted_seconds"] < uniform["predicted_seconds"]
    assert uniform["figures"][1] == certified["figures"][1] > 0
    assert found["time_line"]["staying"]["generations"] == 0
    assert re.search(r"Least latency: \w+, [\d.]+ ms per token; \w+ takes \d+% more", command.text())
    assert ElementTree.fromstring(drawn.read_text()).tag.endswith("svg")
    assert command.leftovers() == []


def test_a_wrong_option_is_refused_before_anything_starts(
    tmp_path: Path, start: list[RunningCommand]
) -> None:
    """Exit status 2, and the option and what was expected are named."""
    command = RunningCommand(tmp_path, "fleet", "-a", "best")
    start.append(command)
    assert command.wait(60) == 2
    assert "--algorithm: is 'best', expected one of uniform, local_popularity" in command.text()


@pytest.mark.anyio
@pytest.mark.timeout(300)
async def test_when_a_node_is_killed_the_others_go_on(tmp_path: Path) -> None:
    """SIGKILL in the middle of traffic, while experts still move: every request at the other nodes is
    answered, and with the tokens and logits of the whole model."""
    described = scenario(
        3,
        delay_seconds=0.01,
        origin_delay_seconds=0.03,
        bytes_per_second=2e7,
        requests_per_second=1.0,
        seed=4,
    )
    requests = arrivals(described.domains, seed=(4, 1), per_second=1.0, seconds=10)
    killed = described.nodes[0].node_id
    kept = [request for request in requests if request.node_id != killed]
    async with started_members(described, tmp_path) as members, asyncio.timeout(240):
        await members.configure(automatic=True)
        await members.play(requests)
        victim = members.nodes[killed]
        await victim.until(lambda: any(p.held > 20 and p.tokens > 0 for p in victim.pulses))
        psutil.Process(victim.lines.child.pid).send_signal(signal.SIGKILL)
        del members.nodes[killed]
        await members.answered(kept)
        finished, failures = members.finished(), members.failures()
    assert failures == {}
    assert set(finished) == {request.number for request in kept}
    expected = await answers_of_whole_model(tmp_path, kept)
    same = agreement(finished, expected)
    assert same == (len(kept), len(kept), len(kept), 0.0)
    assert sum(told.again for told in finished.values()) > 0
