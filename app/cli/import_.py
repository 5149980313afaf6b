"""`moeplace import`: what an engine recorded, or the placement it runs with, out of its own files."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from app.cli.import_placement import import_placement
from app.cli.import_windows import post_windows
from app.cli.interop_options import (
    DropLayersOption,
    FormatsOption,
    KnownModel,
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
from app.cli.solve import refuse
from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.layers import LayerIndex, MoeLayers, read_numbers
from moeplace_agent.interop.observations import Activations
from moeplace_agent.interop.registry import PLACEMENTS, RECORDINGS, RecordingFormat
from moeplace_agent.interop.sources import (
    DEFAULT_SOURCE,
    InputFile,
    accumulate,
    layer_index_of,
    moe_layers_of,
    recordings,
    source_name,
)
from moeplace_agent.interop.windows import MAX_WINDOW_SECONDS
from solvers.io.traces import write_recordings


def import_command(
    form: Annotated[
        str, typer.Argument(metavar="FORMAT", help=f"One of: {', '.join((*RECORDINGS, *PLACEMENTS))}.")
    ],
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="PATH, or SOURCE=PATH to name its node or domain."),
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write (.npz).")] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="URL",
            help="Post to a running service instead: .../v1/clusters/C/nodes/N; or .../v1/clusters/C, where "
            "the sources are its nodes.",
        ),
    ] = None,
    rank: Annotated[
        list[str] | None,
        typer.Option(
            "--rank", metavar="RANKS=SOURCE", help="Assign ranks to a source: 0-3=east. May be repeated."
        ),
    ] = None,
    layer_index: Annotated[
        LayerIndex | None,
        typer.Option(
            "--layer-index",
            help="How the files number layers: model, the number in the model; moe, the place among its MoE "
            "layers. Only where a format's files can do either.",
        ),
    ] = None,
    first_layer: Annotated[
        int, typer.Option("--first-layer", min=0, help="Number of the first layer in the files.")
    ] = 0,
    moe_layers: MoeLayersOption = None,
    model_layers: ModelLayersOption = None,
    model_config: ModelConfigOption = None,
    preset: PresetOption = None,
    drop_layers: DropLayersOption = None,
    experts: Annotated[
        int | None,
        typer.Option(
            "--experts",
            min=1,
            help="Experts of a layer: ids from this on are left out, such as those of shared experts that "
            "the engine fused into the routed ones.",
        ),
    ] = None,
    counts: Annotated[
        bool, typer.Option("--counts", help="Import only counts, even if the files have single tokens.")
    ] = False,
    model: ModelOption = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", help="With --to: duration of the recording in seconds.")
    ] = None,
    token: TokenOption = None,
    instance: Annotated[
        Path | None, typer.Option("--instance", help="For a placement: its instance file (.npz).")
    ] = None,
    ranks_per_node: RanksPerNodeOption = 1,
    _formats: FormatsOption = False,
) -> None:
    """Import activation statistics for `moeplace instance` or a running service, or an engine's placement.

    Statistics: files are added up by source. Each source becomes an array of the recording ('all' if no
    source is named), of tokens if the format has them, otherwise of counts. With --to, each node gets one
    window of telemetry. A placement: with --instance it becomes a placement file and is evaluated on the
    instance, with ranks and nodes in the same order.

    Exit status: 0; 1 if the service refused; 2 for a malformed file or a wrong option.
    """
    dropped = layer_numbers("--drop-layers", drop_layers)
    known = known_model(moe_layers, model_layers, model_config, preset)
    known_moe = None if known is None else known.moe
    if form in PLACEMENTS:
        of_recordings = (to, layer_index, experts, rank or None, counts or None, first_layer or None)
        if any(option is not None for option in of_recordings) or len(files) != 1:
            refuse(f"{form}: is a placement, expected one FILE with --instance and --out")
        if instance is None or out is None:
            refuse(f"{form}: is a placement, expected --instance and --out")
        import_placement(PLACEMENTS[form], Path(files[0]), instance, known_moe, ranks_per_node, dropped, out)
        return
    if form not in RECORDINGS:
        refuse(f"FORMAT: is {form!r:.60}, expected one of {', '.join((*RECORDINGS, *PLACEMENTS))}")
    if (out is None) == (to is None):
        refuse("--out: expected either --out or --to")
    if instance is not None:
        refuse(f"--instance: {form} is a recording, expected --out or --to")
    chosen = RECORDINGS[form]
    try:
        sources = _sources_of_ranks(rank or [])
        found = accumulate(
            chosen,
            [InputFile.of(text) for text in files],
            sources,
            only_counts=counts,
            first_layer=first_layer,
            dropped_layers=dropped,
            experts=experts,
            known_experts=None if known is None else known.experts,
        )
        if to is not None:
            _post(to, found, chosen, layer_index, model, seconds, token)
            return
        index = layer_index or layer_index_of(chosen, found, known_moe)
        moe = moe_layers_of(found, index, known_moe)
        arrays = recordings(found, index, moe)
    except InteropError as error:
        refuse(str(error))
    except OSError as error:
        refuse(f"{error.filename or files[0]}: {error.strerror or error}")
    assert out is not None
    try:
        write_recordings(out, arrays)
    except OSError as error:
        refuse(f"{out}: {error.strerror or error}")
    typer.echo(json.dumps(_summary(chosen, index, moe, known, found, arrays, dropped, out), indent=2))


def _sources_of_ranks(options: list[str]) -> dict[int, str]:
    found: dict[int, str] = {}
    for text in options:
        ranks, separator, source = text.partition("=")
        if not separator:
            raise InteropError(f"--rank: is {text!r:.60}, expected RANKS=SOURCE such as 0-3=east")
        for number in read_numbers(ranks):
            if found.setdefault(number, source_name(source)) != source:
                raise InteropError(f"--rank: rank {number} is of {found[number]} and of {source}")
    return found


def _post(
    to: str,
    found: Mapping[str, Activations],
    form: RecordingFormat,
    index: LayerIndex | None,
    model: str | None,
    seconds: float | None,
    token: str | None,
) -> None:
    if model is None or seconds is None:
        refuse(f"{'--model' if model is None else '--seconds'}: absent, expected with --to")
    if not 0 < seconds <= MAX_WINDOW_SECONDS:
        refuse(f"--seconds: is {seconds:g}, expected more than 0 and at most {MAX_WINDOW_SECONDS:g}")
    base, cluster, node = cluster_of("--to", to)
    if node is not None:
        if len(found) > 1:
            refuse(f"--to: names one node, expected one source and not {', '.join(found)}")
        found = {node: next(iter(found.values()))}
    elif DEFAULT_SOURCE in found:
        refuse("--to: names no node, expected .../nodes/NODE, or files as NODE=PATH, or --rank RANKS=NODE")
    end_at = datetime.now(UTC) - timedelta(seconds=1)
    posted = post_windows(base, cluster, token, model, found, form, index, seconds, end_at)
    for name, said in posted.items():
        said["left_out"] = _left_out(found[name])
    typer.echo(json.dumps({"cluster": cluster, "model": model, "nodes": posted}, indent=2))


def _left_out(source: Activations) -> dict[str, float]:
    return {
        "activations_beyond_experts": source.beyond_experts,
        "tokens_without_experts": source.unused_rows,
    }


def _summary(
    form: RecordingFormat,
    index: LayerIndex,
    moe: MoeLayers,
    known: KnownModel | None,
    found: Mapping[str, Activations],
    arrays: Mapping[str, npt.NDArray[np.integer]],
    dropped: Collection[int],
    out: Path,
) -> dict[str, Any]:
    return {
        "format": form.name,
        "layer_index": index.value,
        "moe_layers": str(moe),
        "moe_layers_from": "options" if known is not None else "the layers with activations",
        "dropped_layers": sorted(dropped),
        "sources": {
            name: {
                "kind": "tokens" if array.ndim == 3 else "counts",
                "shape": list(array.shape),
                "activations": float(sum(counts.sum() for counts in found[name].counts.values())),
                "left_out": _left_out(found[name]),
            }
            for name, array in arrays.items()
        },
        "scaled_weights": not all(source.whole for source in found.values()),
        "out": str(out),
    }
