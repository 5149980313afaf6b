"""Options that `import` and `export` share: the formats, and the model's MoE layers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from agent.architecture.architecture import Configuration
from agent.architecture.document import read_document
from agent.architecture.faults import ConfigFault
from agent.interop.faults import InteropError
from agent.interop.layers import MoeLayers, read_numbers
from agent.interop.registry import PLACEMENTS, RECORDINGS
from app.cli.solve import refuse
from app.models.presets import PRESETS

NEEDS_NUMBERS = "numbers layers as the model does, expected --moe-layers, --model-config or --preset"

MoeLayersOption = Annotated[
    str | None,
    typer.Option("--moe-layers", help="Numbers of the model's MoE layers, from 0: 1-26, or 1,3,5-7."),
]
ModelLayersOption = Annotated[
    int | None,
    typer.Option("--model-layers", min=1, help="All layers of the model; else up to its last MoE layer."),
]
ModelConfigOption = Annotated[
    Path | None,
    typer.Option("--model-config", help="The model's Hugging Face config.json, instead of --moe-layers."),
]
PresetOption = Annotated[
    str | None, typer.Option("--preset", help="A known architecture, instead of --moe-layers.")
]
ModelOption = Annotated[str | None, typer.Option("--model", help="Id of the model in the service.")]
TokenOption = Annotated[
    str | None, typer.Option("--token", help="Bearer token for the service. Variable: MOEPLACE_TOKEN.")
]
RanksPerNodeOption = Annotated[
    int, typer.Option("--ranks-per-node", min=1, max=1024, help="Ranks (devices) of the engine on a node.")
]


def _show_formats(asked: bool) -> None:
    if not asked:
        return
    table = Table("format", "file", "layers", "direction", title="Formats", title_justify="left")
    for recording in RECORDINGS.values():
        table.add_row(recording.name, recording.summary, recording.index.value, "import")
    for placement in PLACEMENTS.values():
        what = f"{placement.summary} ({placement.suffix or 'directory'})"
        table.add_row(placement.name, what, placement.index.value, "import, export")
    Console().print(table)
    raise typer.Exit


FormatsOption = Annotated[
    bool,
    typer.Option("--formats", callback=_show_formats, is_eager=True, help="List the formats and end."),
]


def known_moe_layers(
    moe_layers: str | None, model_layers: int | None, model_config: Path | None, preset: str | None
) -> MoeLayers | None:
    """The MoE layers that the options give, None where they give none; ends the process where they are
    wrong."""
    given = [
        name
        for name, value in (
            ("--moe-layers", moe_layers),
            ("--model-config", model_config),
            ("--preset", preset),
        )
        if value is not None
    ]
    if len(given) > 1:
        refuse(f"{given[1]}: expected only one of --moe-layers, --model-config and --preset")
    if not given:
        if model_layers is not None:
            refuse("--model-layers: expected --moe-layers with it")
        return None
    try:
        if moe_layers is not None:
            return MoeLayers.of(read_numbers(moe_layers), model_layers)
        if preset is not None:
            if preset not in PRESETS:
                refuse(f"--preset: is {preset!r:.60}, expected one of {', '.join(PRESETS)}")
            return MoeLayers.of(PRESETS[preset].layers, model_layers)
    except InteropError as error:
        refuse(f"{given[0]}: {error}")
    assert model_config is not None
    return _of_config(model_config, model_layers)


def _of_config(path: Path, model_layers: int | None) -> MoeLayers:
    try:
        configuration = Configuration(read_document(path))
        count = model_layers or configuration.layer_count()
        return MoeLayers.of(configuration.moe_layers(), count)
    except (InteropError, ConfigFault) as error:
        refuse(f"{path}: {error}")
    except OSError as error:
        refuse(f"{path}: {error.strerror or error}")
