"""Variables of the environment that look like settings and are none."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping

import typer

from agent.config import CA_VARIABLE, TOKEN_VARIABLE
from app.config import Settings

_PREFIX = "MOEPLACE_"
_FOREIGN = re.compile(
    r"MOEPLACE_(TEST_|SIMULATION_|CONTRACT_|IMAGE$|TRACES$)"  # of our tests and builds
    r"|MOEPLACE_(.+_)?(SERVICE_(HOST|PORT)|PORT_\d+_)"  # what Kubernetes sets for a service of our name
)


def known_variables() -> list[str]:
    return [*(_PREFIX + name.upper() for name in Settings.model_fields), TOKEN_VARIABLE, CA_VARIABLE]


def unknown_variables(environment: Mapping[str, str]) -> dict[str, str | None]:
    """Name -> the nearest known name, if one is near."""
    known = [name.removeprefix(_PREFIX) for name in known_variables()]
    found: dict[str, str | None] = {}
    for name in sorted(environment):
        # Settings are read in any case of letters.
        spelt = name.upper()
        if not spelt.startswith(_PREFIX) or spelt.removeprefix(_PREFIX) in known or _FOREIGN.match(spelt):
            continue
        near = difflib.get_close_matches(spelt.removeprefix(_PREFIX), known, 1)
        found[name] = _PREFIX + near[0] if near else None
    return found


def warn_of_unknown_variables() -> None:
    """A line for each. They are taken out of the environment, so that processes started from here do not
    repeat it."""
    for name, near in unknown_variables(os.environ).items():
        meant = f"; did you mean {near}?" if near else ""
        typer.echo(f"moeplace: there is no variable {name}, it is ignored{meant}", err=True)
        del os.environ[name]
