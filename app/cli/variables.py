"""Variables of the environment that look like settings of the service, and are not."""

from __future__ import annotations

import os
from collections.abc import Mapping

from app.config import Settings
from moeplace_agent.cli import variables
from moeplace_agent.config import CA_VARIABLE, TOKEN_VARIABLE


def known_variables() -> list[str]:
    settings = (variables.PREFIX + name.upper() for name in Settings.model_fields)
    return [*settings, TOKEN_VARIABLE, CA_VARIABLE]


def unknown_variables(environment: Mapping[str, str]) -> dict[str, str | None]:
    """Name -> the nearest known name, if one is near."""
    return variables.unknown_variables(environment, known_variables())


def warn_of_unknown_variables() -> None:
    """A line for each, once."""
    variables.warn_of(unknown_variables(os.environ))
