"""The programs `moeplace-agent` and `moeplace-origin`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from moeplace_agent.cli.terminal import show_everywhere


def agent() -> None:
    """`moeplace-agent`: run one node."""
    from moeplace_agent.cli.agent import agent_command

    _run("moeplace-agent", agent_command)


def origin() -> None:
    """`moeplace-origin`: serve the experts of a checkpoint."""
    from moeplace_agent.cli.origin import origin_command

    _run("moeplace-origin", origin_command)


def _run(name: str, command: Callable[..., Any]) -> None:
    show_everywhere()
    application = typer.Typer(
        name=name,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    application.command(name)(command)
    application(prog_name=name)
