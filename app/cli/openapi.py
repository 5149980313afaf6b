"""`moeplace openapi`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

CONTRACT = "openapi.json"


def openapi_command(
    output: Annotated[
        Path | None,
        typer.Option(
            help="Write it and its examples to this folder instead of printing it.", file_okay=False
        ),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(help="Exit with status 1 if this folder is out of date.", file_okay=False),
    ] = None,
) -> None:
    """Print the OpenAPI description of the API as JSON. The same code always gives the same text."""
    expected = files()
    if check is not None:
        stale = _stale(check, expected)
        for name in stale:
            typer.echo(f"{check / name}: not what the code gives", err=True)
        if stale:
            typer.echo(f"run moeplace openapi --output {check}", err=True)
            raise typer.Exit(1)
    elif output is not None:
        for name in _stale(output, expected):
            path = output / name
            if name in expected:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(expected[name], encoding="utf-8")
            else:
                path.unlink()
    else:
        typer.echo(expected[CONTRACT], nl=False)


def files() -> dict[str, str]:
    """What the folder holds: the contract, and the example bodies in it by operation."""
    from app.config import Settings
    from app.main import create_app

    contract = create_app(Settings()).openapi()
    found = {CONTRACT: _text(contract)}
    for methods in contract["paths"].values():
        for operation in methods.values():
            for name, value in _examples(operation):
                found[f"examples/{operation['operationId']}.{name.replace(' ', '_')}.json"] = _text(value)
    return found


def _examples(operation: Mapping[str, Any]) -> list[tuple[str, Any]]:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    examples = [(name, example["value"]) for name, example in content.get("examples", {}).items()]
    if "example" in content:
        examples.append(("request", content["example"]))
    for status, response in operation["responses"].items():
        answered = response.get("content", {}).get("application/json", {})
        if "example" in answered:
            examples.append((f"answer_{status}", answered["example"]))
    return examples


def _stale(folder: Path, expected: Mapping[str, str]) -> list[str]:
    found = {str(path.relative_to(folder)): path.read_text("utf-8") for path in folder.rglob("*.json")}
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def _text(value: Any) -> str:
    import orjson

    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()
