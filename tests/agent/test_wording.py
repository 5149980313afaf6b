"""Words agree with their number."""

import pytest

from moeplace_agent.wording import agreeing, counted


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 copies are"), (1, "1 copy is"), (2, "2 copies are"), (11, "11 copies are")]
)
def test_one_is_not_plural(count: int, words: str) -> None:
    """A reader never meets "1 copies are"."""
    assert f"{counted(count, 'copy', 'copies')} {agreeing(count, 'is', 'are')}" == words
    assert counted(count, "node") == f"{count} node{'' if count == 1 else 's'}"
