"""How a run is told and drawn."""

import io
from xml.etree import ElementTree

from rich.console import Console

from lab.fleet.picture import picture
from lab.fleet.summary import print_summary, sentences
from tests.lab.fleet.tellings import report


def test_the_summary_names_the_best_and_how_good_predictions_were() -> None:
    """On a narrow terminal every figure of the table is there whole."""
    out = io.StringIO()
    print_summary(Console(file=out, width=80), report())
    text = out.getvalue()
    for figure in ("uniform", "200.0 ms", "190.0 ms", "170.0 ms", "certified", "100.0 ms", "40%", "4,000"):
        assert figure in text
    assert "Least latency: certified, 100.0 ms per token; uniform takes 100% more." in text
    words = " ".join(sentences(report()))
    assert "Predicted order, best first: certified, uniform; the same as the measured one." in words
    assert "off by at most 11% (uniform)" in words
    assert "Without migration: 100 ms per token before, 200 ms from 20 s on." in words
    assert "All 40 answers, also those given while experts moved, are bit for bit" in words


def test_answers_that_differ_are_told() -> None:
    """Nothing is said of all answers when one differs."""
    words = " ".join(sentences(report(same_bits=39)))
    assert "Of 40 answers 40 have the tokens of the whole model in one process, 39 the same logits" in words
    assert "All 40" not in words


def test_the_picture_is_a_drawing_with_every_placement_and_both_lines() -> None:
    """Valid SVG, nothing drawn outside of it, a bar and a mark per placement, a line per episode."""
    root = ElementTree.fromstring(picture(report()))
    space = "{http://www.w3.org/2000/svg}"
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    words = [element.text or "" for element in root.iter(f"{space}text")]
    assert {"uniform", "certified", "edge-b and edge-c swap"} <= set(words)
    assert len(list(root.iter(f"{space}polyline"))) == 2
    for rectangle in root.iter(f"{space}rect"):
        if "x" in rectangle.attrib:
            assert float(rectangle.attrib["x"]) >= 0
            assert float(rectangle.attrib["x"]) + float(rectangle.attrib["width"]) <= width
            assert float(rectangle.attrib["y"]) + float(rectangle.attrib["height"]) <= height
    for line in root.iter(f"{space}polyline"):
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= height
