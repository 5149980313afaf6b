"""Charts where there is little or nothing to draw."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from tests.console.browser import Tab

pytestmark = pytest.mark.anyio

OpenTab = Callable[..., AbstractAsyncContextManager[Tab]]
ServeApi = Callable[..., str]

DRAW = """
async values => {
  const { Lines } = await import(new URL("console/charts/lines.js", document.baseURI));
  const { milliseconds } = await import(new URL("console/format.js", document.baseURI));
  const axis = [];
  const SERIES = [{ label: "a", ink: "--blue" }];
  const text = value => (axis.push(milliseconds(value)), axis.at(-1));
  const spec = { label: "Latency", x: { label: "layer", text: String }, y: { text }, series: SERIES };
  const lines = new Lines(spec, new AbortController().signal);
  document.querySelector("main").append(lines.element);
  lines.show([values.map((_, i) => i), values]);
  await new Promise(done => setTimeout(done, 300));
  return [lines.empty.hidden, lines.place.hidden, axis];
}
"""


async def test_a_chart_without_values_says_so(serve_api: ServeApi, open_tab: OpenTab) -> None:
    """Without any value there is a sentence in place of an axis whose numbers mean nothing."""
    async with open_tab(serve_api()) as tab:
        await tab.show()
        assert await tab.page.evaluate(DRAW, [None, None, None]) == [False, True, []]


async def test_an_axis_of_zeros_has_plain_numbers(serve_api: ServeApi, open_tab: OpenTab) -> None:
    """Where every value is 0, the axis has milliseconds with few digits: it once had 2.00e-7 ms."""
    async with open_tab(serve_api()) as tab:
        await tab.show()
        no_sentence, no_plot, axis = await tab.page.evaluate(DRAW, [0, 0])
        assert (no_sentence, no_plot) == (True, False)
        assert "0 ms" in axis
        assert all(len(label) <= len("0.000 ms") for label in axis), axis
