"""`moeplace demo`"""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.console import Console

from lab.demo.replay import replay
from lab.demo.run import run_demo
from lab.harness.failures import RunFailed
from lab.harness.signals import until_signalled


def demo_command(
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the service and the nodes running after the summary.")
    ] = False,
    seconds: Annotated[
        float,
        typer.Option(
            min=30,
            max=3600,
            help="Duration of the demo including start and end; at least half a minute after the start.",
        ),
    ] = 75.0,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the order in which recorded requests are replayed.")
    ] = 0,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the service; 0 takes a free one.")] = 0,
    plain: Annotated[bool, typer.Option("--plain", help="Print lines instead of a live screen.")] = False,
    service: Annotated[
        str | None,
        typer.Option(
            "--service",
            metavar="URL",
            help="Only start the nodes, on a service that runs already, and replay until ended. Where it "
            "asks for tokens it is sent MOEPLACE_TOKEN, an operator's.",
        ),
    ] = None,
) -> None:
    """Watch the service place the experts of a small model on four nodes.

    Each node is a process that replays recorded routing of one text domain over HTTP. Halfway through, two
    nodes swap their domains. The summary compares the placement of the service with three others on the same
    tokens.
    """
    console = Console()
    try:
        if service is not None:
            _, status = asyncio.run(until_signalled(console, replay(console, service, seed=seed)))
            raise typer.Exit(0 if status else 1)
        outcome, status = asyncio.run(
            until_signalled(
                console, run_demo(console, keep=keep, seconds=seconds, seed=seed, port=port, plain=plain)
            )
        )
    except RunFailed as failure:
        Console(stderr=True).print(f"The demo failed: {failure}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    if outcome is None:
        raise typer.Exit(0 if keep else status)
    converged = None not in (outcome.first_convergence_seconds, outcome.second_convergence_seconds)
    raise typer.Exit(0 if converged else 1)
