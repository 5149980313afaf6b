"""`moeplace fleet`"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from lab.fleet.picture import picture
from lab.fleet.run import ALGORITHMS, Course
from lab.fleet.running import run_fleet
from lab.fleet.scenario import scenario
from lab.fleet.summary import print_summary
from lab.harness.failures import RunFailed
from lab.harness.signals import until_signalled


def fleet_command(
    nodes: Annotated[int, typer.Option(min=2, max=16, help="Number of node processes.")] = 4,
    algorithm: Annotated[
        list[str] | None,
        typer.Option("--algorithm", "-a", help=f"May be repeated. Default: all of {', '.join(ALGORITHMS)}."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=4, max=600, help="Seconds of requests for each placement.")
    ] = Course.measuring_seconds,
    learn_seconds: Annotated[
        float,
        typer.Option(min=4, max=600, help="Seconds of requests before, to learn from."),
    ] = Course.learning_seconds,
    swap_seconds: Annotated[
        float,
        typer.Option(
            min=0, max=600, help="Seconds of the part in which two nodes swap domains; 0 leaves it out."
        ),
    ] = Course.time_line_seconds,
    rate: Annotated[
        float, typer.Option(min=0.01, max=20, help="Requests per second at each node (Poisson arrivals).")
    ] = 0.6,
    delay: Annotated[
        float, typer.Option(min=0, max=1000, help="Imposed round trip between neighbouring nodes in ms.")
    ] = 40.0,
    origin_delay: Annotated[
        float, typer.Option(min=0, max=5000, help="Imposed round trip to the origin in ms.")
    ] = 160.0,
    bandwidth: Annotated[
        float, typer.Option(min=0.1, max=1000, help="Imposed bandwidth of each link, each way, in MB/s.")
    ] = 1.5,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the requests, which are the same for every placement.")
    ] = 0,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the service; 0 takes a free one.")] = 0,
    picture_file: Annotated[
        Path | None, typer.Option("--picture", help="Draw the results to this file (.svg).")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all measurements to this file (.json).")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Print lines instead of a live screen.")] = False,
) -> None:
    """Serve a real Mixture-of-Experts model from several processes, and measure each placement.

    Each node is a process with tiny-moe's attention and routers, and as many of its 192 experts as fit its
    memory. It continues text of its own domain. It computes the experts that it holds. For others it sends
    the hidden states to the node that the service's routing table names, or to the origin. Links between
    nodes are slow on purpose; everything else is real.

    First the service learns from traffic. Then the same requests are served with the placement of each
    algorithm. Then two nodes swap their domains, once with an unchanged placement and once with the service
    following. Finally every answer is compared with that of the whole model in one process.
    """
    names = tuple(dict.fromkeys(algorithm or ALGORITHMS))
    for name in names:
        if name not in ALGORITHMS:
            _refuse(f"--algorithm: is {name!r:.60}, expected one of {', '.join(ALGORITHMS)}")
    for option, file, suffix in (("--picture", picture_file, ".svg"), ("--json", json_file, ".json")):
        if file is not None and file.suffix != suffix:
            _refuse(f"{option}: is {str(file)!r:.60}, expected a name that ends in {suffix}")
        if file is not None and not file.absolute().parent.is_dir():
            _refuse(f"{option}: {file.parent} is not a directory")
    console = Console()
    described = scenario(
        nodes,
        delay_seconds=delay / 1e3,
        origin_delay_seconds=origin_delay / 1e3,
        bytes_per_second=bandwidth * 1e6,
        requests_per_second=rate,
        seed=seed,
    )
    course = Course(names, learn_seconds, seconds, swap_seconds)
    try:
        report, status = asyncio.run(
            until_signalled(console, run_fleet(console, described, course, port=port, plain=plain))
        )
    except RunFailed as failure:
        Console(stderr=True).print(f"The fleet failed: {failure}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    if report is None:
        raise typer.Exit(status)
    print_summary(console, report)
    if picture_file is not None:
        picture_file.write_text(picture(report), encoding="utf-8")
        console.print(f"Picture: {picture_file}", highlight=False, soft_wrap=True)
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
        console.print(f"Numbers: {json_file}", highlight=False, soft_wrap=True)
    same = report.agreement
    raise typer.Exit(0 if same.same_tokens == same.requests and not report.failed_requests else 1)


def _refuse(words: str) -> None:
    typer.echo(words, err=True)
    raise typer.Exit(2)
