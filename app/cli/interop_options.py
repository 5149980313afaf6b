"""Options that `import` and `export` share: the formats, and the model's MoE layers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from app.cli.preset_classes import preset_class
from app.cli.solve import refuse
from app.models.presets import PRESETS
from moeplace_agent.architecture.architecture import Configuration
from moeplace_agent.architecture.document import read_document
from moeplace_agent.architecture.faults import ConfigFault
from moeplace_agent.interop.faults import InteropError
from moeplace_agent.interop.layers import MoeLayers, read_numbers
from moeplace_agent.interop.registry import PLACEMENTS, RECORDINGS

NEEDS_NUMBERS = "numbers layers as the model does, expected --moe-layers, --model-config or --preset"

MoeLayersOption = Annotated[
    str | None,
    typer.Option("--moe-layers", help="Numbers of the model's MoE layers, from 0: 1-26, or 1,3,5-7."),
]
ModelLayersOption = Annotated[
    int | None,
    typer.Option(
        "--model-layers", min=1, help="Number of layers of the model. Default: up to its last MoE layer."
    ),
]
ModelConfigOption = Annotated[
    Path | None,
    typer.Option("--model-config", help="The model's Hugging Face config.json, instead of --moe-layers."),
]
PresetOption = Annotated[
    str | None, typer.Option("--preset", help="A known architecture, in place of --moe-layers.")
]
DropLayersOption = Annotated[
    str | None,
    typer.Option(
        "--drop-layers",
        metavar="LAYERS",
        help="Leave these layers out, such as draft (multi-token prediction) layers behind the model's: 61. "
        "Numbers as the format has them.",
    ),
]
DraftLayersOption = Annotated[
    str | None,
    typer.Option(
        "--draft-layers",
        metavar="LAYERS",
        help="Draft (multi-token prediction) layers behind the model's that the engine runs, too: 61. Their "
        "experts are dealt evenly.",
    ),
]
ModelOption = Annotated[str | None, typer.Option("--model", help="Id of the model in the service.")]
TokenOption = Annotated[
    str | None, typer.Option("--token", help="Bearer token for the service. Variable: MOEPLACE_TOKEN.")
]
RanksPerNodeOption = Annotated[
    int, typer.Option("--ranks-per-node", min=1, max=1024, help="Ranks (devices) of the engine per node.")
]


def _show_formats(asked: bool) -> None:
    if not asked:
        return
    table = Table("format", "file", "layers", "direction", title="Formats", title_justify="left")
    for recording in RECORDINGS.values():
        table.add_row(recording.name, recording.summary, recording.numbering, "import")
    for placement in PLACEMENTS.values():
        what = f"{placement.summary} ({placement.suffix or 'directory'})"
        table.add_row(placement.name, what, placement.index.value, "import, export")
    Console().print(table)
    raise typer.Exit


FormatsOption = Annotated[
    bool,
    typer.Option("--formats", callback=_show_formats, is_eager=True, help="List the formats and exit."),
]


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What the options say of the model: its MoE layers, and where they name an architecture the experts of
    a layer and the class that engines run it by."""

    moe: MoeLayers
    experts: int | None = None
    model_class: str | None = None


def layer_numbers(option: str, text: str | None) -> frozenset[int]:
    """The numbers that an option gives, none where it is absent; ends the process where they are wrong."""
    try:
        return frozenset() if text is None else frozenset(read_numbers(text))
    except InteropError as error:
        refuse(f"{option}: {error}")


def known_model(
    moe_layers: str | None, model_layers: int | None, model_config: Path | None, preset: str | None
) -> KnownModel | None:
    """What the options say of the model, None where they say nothing; ends the process where they are
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
            return KnownModel(MoeLayers.of(read_numbers(moe_layers), model_layers))
        if preset is not None:
            if preset not in PRESETS:
                refuse(f"--preset: is {preset!r:.60}, expected one of {', '.join(PRESETS)}")
            chosen = PRESETS[preset]
            moe = MoeLayers.of(chosen.layers, model_layers)
            return KnownModel(moe, chosen.experts, preset_class(preset))
    except InteropError as error:
        refuse(f"{given[0]}: {error}")
    assert model_config is not None
    return _of_config(model_config, model_layers)


def _of_config(path: Path, model_layers: int | None) -> KnownModel:
    try:
        config = read_document(path)
        configuration = Configuration(config)
        moe = MoeLayers.of(configuration.moe_layers(), model_layers or configuration.layer_count())
        sizes = {size for given in configuration.expert_counts().values() for size in given}
        classes = config.get("architectures")
        model_class = classes[0] if isinstance(classes, list) and classes else None
        return KnownModel(moe, sizes.pop() if len(sizes) == 1 else None, model_class)
    except (InteropError, ConfigFault) as error:
        refuse(f"{path}: {error}")
    except OSError as error:
        refuse(f"{path}: {error.strerror or error}")
