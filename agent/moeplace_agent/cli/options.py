"""What the commands have in common: the options of their logs, and one line for what ends them."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from moeplace_agent import logs
from moeplace_agent.cli.variables import PREFIX, unknown_variables, warn_of
from moeplace_agent.config import CA_VARIABLE, TOKEN_VARIABLE
from moeplace_agent.logs import LogFormat

_FORMAT_VARIABLE = f"{PREFIX}LOG_FORMAT"
_LEVEL_VARIABLE = f"{PREFIX}LOG_LEVEL"

LogFormatOption = Annotated[
    LogFormat, typer.Option("--log-format", envvar=_FORMAT_VARIABLE, help=LogFormat.__doc__)
]
LogLevelOption = Annotated[
    str, typer.Option("--log-level", envvar=_LEVEL_VARIABLE, help="debug, info, warning or error.")
]


def begin(log_format: LogFormat, log_level: str, *, process: str) -> None:
    """Sends logs to stderr, and names variables that look like a misspelt one of those read here. Others may
    belong to a service on the same host. Ends the program with status 1 where the level is not known."""
    known = (_FORMAT_VARIABLE, _LEVEL_VARIABLE, TOKEN_VARIABLE, CA_VARIABLE)
    warn_of({name: near for name, near in unknown_variables(os.environ, known).items() if near})
    try:
        logs.configure(log_format, log_level, process=process)
    except logs.LogLevelError as error:
        raise fail(error) from None


def fail(message: object, status: int = 1) -> typer.Exit:
    """Tell the operator in one line why this ends; raise what it returns."""
    typer.echo(f"moeplace: {message}", err=True)
    return typer.Exit(status)
