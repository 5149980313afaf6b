"""Variables of the environment that look like settings of this program, and are not."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Mapping

import typer

PREFIX = "MOEPLACE_"
_FOREIGN = re.compile(
    r"MOEPLACE_(TEST_|SIMULATION_|CONTRACT_|IMAGE$|TRACES$)"  # of our tests and builds
    r"|MOEPLACE_(.+_)?(SERVICE_(HOST|PORT)|PORT_\d+_)"  # what Kubernetes sets for a service of our name
)


def unknown_variables(environment: Mapping[str, str], known: Collection[str]) -> dict[str, str | None]:
    """Name -> the nearest known name, if one is near. known: names with their prefix."""
    known = [name.removeprefix(PREFIX) for name in known]
    found: dict[str, str | None] = {}
    for name in sorted(environment):
        # Settings are read in any case of letters.
        spelt = name.upper()
        if not spelt.startswith(PREFIX) or spelt.removeprefix(PREFIX) in known or _FOREIGN.match(spelt):
            continue
        near = difflib.get_close_matches(spelt.removeprefix(PREFIX), known, 1)
        found[name] = PREFIX + near[0] if near else None
    return found


def warn_of(unknown: Mapping[str, str | None]) -> None:
    """A line for each. They are taken out of the environment, so that processes started from here do not
    repeat it."""
    for name, near in unknown.items():
        meant = f"; did you mean {near}?" if near else ""
        typer.echo(f"moeplace: there is no variable {name}, it is ignored{meant}", err=True)
        del os.environ[name]
