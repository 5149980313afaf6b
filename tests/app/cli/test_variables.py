"""Variables that are misspelt are named at the start."""

import os

import pytest

from app.cli.settings import settings_from
from app.cli.variables import unknown_variables


def test_a_misspelt_variable_is_named_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once: processes that are started from here do not inherit it."""
    monkeypatch.setenv("MOEPLACE_REDIS_URI", "redis://10.0.0.5")
    settings_from()
    said = (
        "moeplace: there is no variable MOEPLACE_REDIS_URI, it is ignored; did you mean MOEPLACE_REDIS_URL?\n"
    )
    assert capsys.readouterr().err == said
    assert "MOEPLACE_REDIS_URI" not in os.environ


def test_known_and_foreign_variables_are_not_named() -> None:
    """Settings in any case of letters, what clients and agents read, and what is not ours."""
    ours = ["MOEPLACE_PORT", "moeplace_host", "MOEPLACE_TOKEN", "MOEPLACE_CA_FILE"]
    of_kubernetes = ["MOEPLACE_SERVICE_HOST", "MOEPLACE_API_SERVICE_PORT_HTTP", "MOEPLACE_PORT_8080_TCP_ADDR"]
    environment = dict.fromkeys([*ours, *of_kubernetes, "PATH"], "")
    assert unknown_variables(environment) == {}


def test_a_variable_like_nothing_known_is_named_alone() -> None:
    """There is no guess where none is near."""
    assert unknown_variables({"MOEPLACE_QQQQ": "1", "MOEPLACE_WORKERS": "4"}) == {
        "MOEPLACE_QQQQ": None,
        "MOEPLACE_WORKERS": "MOEPLACE_API_WORKERS",
    }
