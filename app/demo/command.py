"""`moeplace demo`"""

from __future__ import annotations

import asyncio
import signal
from typing import Annotated

import typer
from rich.console import Console

from app.box.failures import BoxFailed
from app.demo.run import run_demo


def demo_command(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the service and the nodes running after the summary.")
    ] = False,
    seconds: Annotated[
        float,
        typer.Option(
            min=30,
            max=3600,
            help="How long the demo takes, start and end included; at least half a minute after the start.",
        ),
    ] = 75.0,
    seed: Annotated[int, typer.Option(min=0, help="Order in which recorded requests are replayed.")] = 0,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the service; 0 takes a free one.")] = 0,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a live screen.")] = False,
) -> None:
    """Watch the service place the experts of a small model on four nodes.

    Each node is a process that replays recorded routing of one text domain over HTTP. Halfway two nodes swap
    their domains. The summary compares the placement that was served with three others on the same tokens.
    """
    console = Console()
    try:
        status = asyncio.run(
            _until_signalled(console, keep=keep, seconds=seconds, seed=seed, port=port, plain=plain)
        )
    except BoxFailed as failure:
        Console(stderr=True).print(f"The demo failed: {failure}", markup=False, soft_wrap=True)
        status = 1
    raise typer.Exit(status)


async def _until_signalled(
    console: Console, *, keep: bool, seconds: float, seed: int, port: int, plain: bool
) -> int:
    """Run the demo; the first SIGINT or SIGTERM ends it in order, later ones change nothing."""
    running = asyncio.ensure_future(
        run_demo(console, keep=keep, seconds=seconds, seed=seed, port=port, plain=plain)
    )
    received: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        if not received:
            received.append(number)
            running.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
    try:
        outcome = await running
    except asyncio.CancelledError:
        if not received:
            raise
        console.print("Ended on request; nothing is left behind.")
        return 0 if keep else 128 + received[0]
    converged = None not in (outcome.first_convergence_seconds, outcome.second_convergence_seconds)
    return 0 if converged else 1
