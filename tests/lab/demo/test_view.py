"""What the demo prints."""

import io
import time

import pytest
from rich.console import Console

from lab.demo.ledger import Figures, Ledger
from lab.demo.scenario import NODES
from lab.demo.story import Episode, Outcome
from lab.demo.summary import print_summary
from lab.demo.view import PlainView, nodes_table, shown
from lab.harness.words import print_words, service_words, sparkline
from tests.lab.demo.tellings import seen, told


def console(*, terminal: bool = False) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=120, force_terminal=terminal), out


def ledger() -> Ledger:
    filled = Ledger()
    for node in NODES:
        filled.add_slice(told(node.node_id, 1.0, domain=node.domain, latency_seconds=2.56, local=1536))
    filled.add_observation(seen(2.0, 4, converged_at=1.5))
    return filled


def test_live_view_shows_every_node_and_the_service() -> None:
    """Domain, experts, local-hit ratio, latency and generation of each node; generation, gap and moves."""
    screen, out = console(terminal=True)
    with shown(screen, ledger(), plain=False, begun=time.monotonic()) as view:
        view.say("something happened")
    text = out.getvalue()
    for node in NODES:
        assert node.node_id in text
        assert node.domain in text
    for words in ("10/104", "50%", "10.00 ms", "generation 4", "gap 6.0%", "3/5 moves", "something happened"):
        assert words in text


def test_without_a_terminal_lines_are_printed() -> None:
    """A pipe gets plain lines, without control sequences."""
    page, out = console()
    with shown(page, ledger(), plain=False, begun=time.monotonic()) as view:
        view.say("hello [not markup]")
    assert isinstance(view, PlainView)
    assert out.getvalue().strip().endswith("s  hello [not markup]")
    assert "\x1b" not in out.getvalue()


def test_nodes_that_have_told_nothing_are_starting() -> None:
    """The table has a row for every node from the beginning."""
    page, out = console()
    page.print(nodes_table(Ledger()))
    assert out.getvalue().count("starting") == len(NODES)
    assert service_words(None) == "no placement yet"


def test_sparkline_spans_nothing_to_twice_the_median() -> None:
    """A value of the median is half as high as can be; far higher ones are cut."""
    assert sparkline([8.0, 4.0, 0.0]) == "█▅▁"
    assert sparkline([180.0, 16.0, 16.0, 24.0, 16.0]) == "█▅▅▇▅"
    assert sparkline([]) == ""


def test_words_are_not_broken_on_a_narrow_terminal() -> None:
    """Lines of a terminal end between words; a pipe gets them whole."""
    line = "the fleet converged 9.5 s after the nodes' start; 288 moves, 28.3 MB in 288 copies"
    out = io.StringIO()
    print_words(Console(file=out, width=20, force_terminal=True), line)
    lines = out.getvalue().splitlines()
    assert len(lines) > 3
    assert " ".join(part.strip() for part in lines) == line
    out = io.StringIO()
    print_words(Console(file=out, width=20), line)
    assert out.getvalue() == f"{line}\n"


@pytest.mark.parametrize("reacted", [True, False])
def test_summary_has_a_row_for_every_placement(reacted: bool) -> None:
    """Served and baselines in three episodes, both convergences, moves, bytes and what is simulated."""
    figures = Figures(1000, 5.0, 0.015, 0.8)
    baselines = {"uniform": 0.03, "local_popularity": 0.0165, "eplb": 0.02}
    episode = Episode(figures, baselines, 2)
    page, out = console()
    print_summary(
        page,
        Outcome(
            before=episode,
            swapped=None if reacted else episode,
            after=episode,
            first_convergence_seconds=9.5,
            second_convergence_seconds=None,
            first_moves=288,
            second_moves=80,
            first_bytes=288 * 98_304,
            second_bytes=40 * 98_304,
            gap_ratio=0.061,
            windows_dropped=0,
        ),
    )
    text = out.getvalue()
    for words in (
        "served (measured)",
        "15.00",
        "30.00 (+100%)",
        "16.50 (+10%)",
        "eplb",
        "converged 9.5 s after the nodes' start; 288 moves, 28.3 MB in 288 copies",
        "had not converged when its time was over; 80 moves, 3.9 MB in 40 copies",
        "6.1%",
        "hold no weights",
    ):
        assert words in text
