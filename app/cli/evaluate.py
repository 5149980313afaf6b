"""`moeplace evaluate`: what a placement costs on an instance, and whether it is feasible."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from app.cli.solve import EXIT_INFEASIBLE, number, read_instance, refuse, unserved
from solvers.cost.evaluate import evaluate, migration_cost, total_cost
from solvers.feasible.violations import shortfalls
from solvers.io.files import load_placement
from solvers.problem import Coupling, ProblemError


def evaluate_command(
    instance: Annotated[Path, typer.Argument(help="Instance file (.npz).")],
    placement: Annotated[Path, typer.Argument(help="Placement file (.npz).")],
    coupling: Annotated[
        Coupling | None, typer.Option("--coupling", help="Use this coupling instead of the instance's.")
    ] = None,
) -> None:
    """Evaluate a placement on an instance and print JSON.

    `mean_latency_seconds` is the mean over routes (one token in one block). Exit status: 0 if the
    placement is feasible, 1 if it breaks a constraint (named under `shortfalls`), 2 for a malformed file or a
    placement of another shape.
    """
    problem = read_instance(instance, coupling)
    try:
        held = load_placement(placement)
        broken = shortfalls(problem, held.holds)
    except ProblemError as error:
        refuse(f"{placement}: {error}")
    except OSError as error:
        refuse(f"{placement}: {error.strerror or error}")
    rate = float(problem.route_rate.sum())
    latency = evaluate(problem, held.holds)
    used = held.used_bytes(problem)
    replicas = held.holds.sum(axis=0, dtype=np.int64)
    typer.echo(
        json.dumps(
            {
                "objective": number(total_cost(problem, held.holds)),
                "latency_seconds_per_second": number(latency),
                "mean_latency_seconds": number(latency / rate) if rate > 0 else 0.0,
                "coupling": str(problem.coupling),
                "migration_seconds": migration_cost(problem, held.holds),
                "feasible": not broken,
                "shortfalls": list(broken),
                "used_bytes": used.tolist(),
                "capacity_bytes": problem.capacity_bytes.tolist(),
                "memory_ratio": float(used.sum()) / max(1, int(problem.capacity_bytes.sum())),
                "replicas_least": int(replicas.min()) if len(replicas) else 0,
                "digest": held.digest,
                "remark": unserved(problem, held.holds),
            },
            indent=2,
        )
    )
    if broken:
        raise typer.Exit(EXIT_INFEASIBLE)
