"""`moeplace export`: a placement in the file format of an engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from app.cli.export_service import placement_of_service
from app.cli.interop_options import (
    NEEDS_NUMBERS,
    DraftLayersOption,
    DropLayersOption,
    FormatsOption,
    ModelConfigOption,
    ModelLayersOption,
    ModelOption,
    MoeLayersOption,
    PresetOption,
    RanksPerNodeOption,
    TokenOption,
    known_model,
    layer_numbers,
)
from app.cli.service_access import cluster_of
from app.cli.solve import read_instance, refuse
from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.layers import LayerIndex, MoeLayers
from moeplace_agent.interop.placements import FleetPlacement
from moeplace_agent.interop.registry import PLACEMENTS, PlacementFormat
from solvers.cost.evaluate import checked_holds
from solvers.io.files import load_placement
from solvers.problem import ProblemError


def export_command(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help=f"One of: {', '.join(PLACEMENTS)}.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, or directory for ktransformers.")],
    placement: Annotated[Path | None, typer.Option("--placement", help="Placement file (.npz).")] = None,
    instance: Annotated[
        Path | None, typer.Option("--instance", help="Instance file of the placement (.npz).")
    ] = None,
    service: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="URL", help="Take the placement from a running service: .../v1/clusters/C."
        ),
    ] = None,
    generation: Annotated[
        int | None,
        typer.Option("--generation", min=1, help="With --from: this generation instead of the one in force."),
    ] = None,
    model: ModelOption = None,
    token: TokenOption = None,
    moe_layers: MoeLayersOption = None,
    model_layers: ModelLayersOption = None,
    model_config: ModelConfigOption = None,
    preset: PresetOption = None,
    drop_layers: DropLayersOption = None,
    draft_layers: DraftLayersOption = None,
    ranks_per_node: RanksPerNodeOption = 1,
    _formats: FormatsOption = False,
) -> None:
    """Write a placement for an engine, and print the options that the engine needs as JSON.

    Nodes keep their order. Node n has the engine's ranks from n * ranks-per-node on, and its experts are
    distributed over them in turn. A placement that the format cannot express is refused and never changed:
    most formats need equally many experts of every layer on every node (moeplace solve --equal-slots), and
    each expert on some node. Formats that number layers like the model need --moe-layers, --model-config or
    --preset. The options for the engine are also printed on stderr.

    Exit status: 0; 1 if the service refused; 2 for a malformed file, a wrong option or a placement that the
    format cannot express.
    """
    if form not in PLACEMENTS:
        refuse(f"FORMAT: is {form!r:.60}, expected one of {', '.join(PLACEMENTS)}")
    target = PLACEMENTS[form]
    if out.suffix != target.suffix:
        refuse(f"--out: is {str(out)!r:.100}, expected a name that ends in {target.suffix or 'no suffix'}")
    model_known = known_model(moe_layers, model_layers, model_config, preset)
    warning = _warning(target, None if model_known is None else model_known.model_class)
    dropped, drafts = (
        layer_numbers("--drop-layers", drop_layers),
        layer_numbers("--draft-layers", draft_layers),
    )
    if drafts and not target.drafts:
        refuse(f"--draft-layers: {form} has no rows for draft layers, its engine deals their experts itself")
    known = None if model_known is None else _with_dropped(model_known.moe, dropped)
    if service is not None:
        if placement is not None or instance is not None:
            refuse("--from: expected without --placement and --instance")
        base, cluster, _ = cluster_of("--from", service)
        exported = placement_of_service(base, cluster, token, model, generation, known)
    else:
        if placement is None or instance is None:
            refuse(f"{'--placement' if placement is None else '--instance'}: absent, expected, or --from")
        if known is None and target.index is LayerIndex.MODEL:
            refuse(f"{form}: {NEEDS_NUMBERS}")
        exported = _placement_of_files(placement, instance, known)
    if model_known is not None and model_known.experts is not None:
        _check_experts(exported, model_known.experts)
    try:
        exported = exported.without(dropped).with_drafts(drafts)
        written = target.write(out, exported, ranks_per_node)
    except InteropError as error:
        refuse(f"{form}: {error}")
    except OSError as error:
        refuse(f"{error.filename or out}: {error.strerror or error}")
    typer.echo(
        json.dumps(
            {
                "format": form,
                "layer_index": target.index.value,
                "moe_layers": str(exported.moe),
                "model_layers": exported.moe.model_layers,
                "nodes": list(exported.nodes),
                "ranks_per_node": ranks_per_node,
                "dropped_layers": sorted(dropped),
                "draft_layers": sorted(drafts),
                **written,
                "warning": warning,
                "out": str(out),
            },
            indent=2,
        )
    )
    for words in (written.get("engine"), warning):
        if words is not None:
            typer.echo(words, err=True)


def _warning(target: PlacementFormat, model_class: str | None) -> str | None:
    """What is to be said where the engine may not read the file; ends the process where it does not."""
    unread = target.unread(model_class)
    if unread is None:
        return None
    if unread.certain:
        refuse(f"{target.name}: {unread.words}")
    return f"{target.name}: {unread.words}"


def _check_experts(exported: FleetPlacement, experts: int) -> None:
    """Ends the process where the placement is not of the model that the options name: engines do not look."""
    for layer, held in zip(exported.moe.numbers, exported.holds, strict=True):
        if held.shape[1] != experts:
            refuse(f"layer {layer}: has {held.shape[1]} experts in the placement, but {experts} in the model")


def _with_dropped(moe: MoeLayers, dropped: frozenset[int]) -> MoeLayers:
    """The MoE layers that the placement has: the model's, and those that are left out of the file."""
    numbers = sorted(dropped.union(moe.numbers))
    return MoeLayers.of(numbers, max(moe.model_layers, numbers[-1] + 1))


def _placement_of_files(path: Path, instance: Path, known: MoeLayers | None) -> FleetPlacement:
    problem = read_instance(instance)
    try:
        holds = checked_holds(problem, load_placement(path).holds)
        blocks = zip(problem.block_offset[:-1].tolist(), problem.block_offset[1:].tolist(), strict=True)
        return FleetPlacement(
            nodes=tuple(str(n) for n in range(problem.nodes)),
            moe=MoeLayers.of(range(problem.blocks)) if known is None else known,
            holds=tuple(holds[:, begin:end] == 1 for begin, end in blocks),
        )
    except (ProblemError, InteropError) as error:
        refuse(f"{path}: {error}")
    except OSError as error:
        refuse(f"{path}: {error.strerror or error}")
