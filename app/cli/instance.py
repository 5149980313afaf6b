"""`moeplace instance`: recorded routing and a fleet in, an instance file out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from app.cli.fleet import problem_of, read_fleet
from app.cli.solve import refuse
from solvers.io.files import save_problem
from solvers.io.traces import read_recordings
from solvers.problem import ProblemError


def instance_command(
    trace: Annotated[Path, typer.Argument(help="Recorded routing (.npz).")],
    fleet: Annotated[
        Path, typer.Argument(help="Description of the nodes, their memory, latencies and domains (YAML).")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Instance file to write (.npz).")],
) -> None:
    """Make an instance file from recorded routing and a description of the fleet, and summarise it as JSON.

    The recording has one array of integers per domain: tokens x layers x K, the experts that each token
    activated, or layers x experts, how often each expert was activated. The fleet file says which node serves
    which domain:

    expert_bytes: 98304 (or one per layer), experts (per layer; else the highest seen), top_k (with counts),
    coupling, min_replicas, latency_seconds: {local: 0.001, remote: 0.004} or a matrix,
    origin_latency_seconds (absent: no origin), horizon_seconds, and nodes: a list of {name, capacity: 0.4 (of
    all experts' bytes) or capacity_bytes or device_bytes: [...], domains: {python: 120, c: 30} (tokens per
    second; python@0:0.5 is the first half of the tokens), ingress_bytes_per_second,
    egress_bytes_per_second}.

    Exit status: 0, or 2 for a malformed file (one line on stderr).
    """
    recordings, described = None, None
    try:
        recordings = read_recordings(trace)
        described = read_fleet(fleet)
        problem = problem_of(described, recordings)
        save_problem(out, problem)
    except ProblemError as error:
        refuse(f"{trace if recordings is None else fleet}: {error}")
    except OSError as error:
        at = trace if recordings is None else fleet if described is None else out
        refuse(f"{at}: {error.strerror or error}")
    typer.echo(
        json.dumps(
            {
                "nodes": problem.nodes,
                "blocks": problem.blocks,
                "experts": problem.experts,
                "routes": problem.routes,
                "routes_per_second": float(problem.route_rate.sum()),
                "memory_ratio": float(problem.capacity_bytes.sum() / max(1, problem.column_bytes.sum())),
                "coupling": str(problem.coupling),
                "out": str(out),
            },
            indent=2,
        )
    )
