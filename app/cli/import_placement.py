"""An engine's placement as a placement file."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from pathlib import Path

import numpy as np
import typer

from app.cli.interop_options import NEEDS_NUMBERS
from app.cli.solve import number, read_instance, refuse
from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.layers import LayerIndex, MoeLayers
from moeplace_agent.interop.registry import PlacementFormat
from solvers.cost.evaluate import total_cost
from solvers.feasible.violations import shortfalls
from solvers.io.files import save_placement
from solvers.placement import Placement
from solvers.result import SolveResult, SolveStatus


def import_placement(
    form: PlacementFormat,
    path: Path,
    instance: Path,
    known: MoeLayers | None,
    ranks_per_node: int,
    dropped: Collection[int],
    out: Path,
) -> None:
    """Reads the placement, evaluates it on the instance, writes the file and prints a summary. A placement
    that breaks a constraint is written too, and what it breaks is said: it is what there is."""
    problem = read_instance(instance)
    began = time.monotonic()
    moe = MoeLayers.of(range(problem.blocks)) if known is None else known
    if len(moe.numbers) != problem.blocks:
        refuse(
            f"MoE layers: are {moe}, {len(moe.numbers)} of them, expected {problem.blocks} as {instance} has"
        )
    if known is None and form.index is LayerIndex.MODEL:
        refuse(f"{form.name}: {NEEDS_NUMBERS}")
    try:
        held = form.read(path, problem.nodes, ranks_per_node)
        by_layer = held.holds(moe, problem.experts_per_block.tolist(), dropped)
    except InteropError as error:
        refuse(f"{path}: {error}")
    except OSError as error:
        refuse(f"{error.filename or path}: {error.strerror or error}")
    holds = np.concatenate(by_layer, axis=1).astype(np.uint8)
    objective = total_cost(problem, holds)
    placement = Placement(holds)
    broken = shortfalls(problem, holds)
    runtime = time.monotonic() - began
    result = SolveResult(placement, SolveStatus.FEASIBLE, form.name, objective, None, None, runtime)
    try:
        save_placement(out, result)
    except OSError as error:
        refuse(f"{out}: {error.strerror or error}")
    typer.echo(
        json.dumps(
            {
                "format": form.name,
                "layer_index": form.index.value,
                "moe_layers": str(moe),
                "dropped_layers": sorted(dropped),
                "replicas": int(holds.sum()),
                "objective": number(objective),
                "feasible": not broken,
                "shortfalls": list(broken),
                "digest": placement.digest,
                "out": str(out),
            },
            indent=2,
        )
    )
