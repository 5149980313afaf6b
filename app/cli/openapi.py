"""`moeplace openapi`."""

from pathlib import Path
from typing import Annotated

import typer


def openapi_command(
    output: Annotated[
        Path | None, typer.Option(help="Write it to this file instead of printing it.", dir_okay=False)
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="Exit with 1 if this file is not as it should be.", dir_okay=False)
    ] = None,
) -> None:
    """Give the API's contract as OpenAPI, JSON: always the same for the same code."""
    contract = contract_text()
    if check is not None:
        try:
            found = check.read_text(encoding="utf-8")
        except OSError as error:
            typer.echo(f"{check}: cannot be read: {error.strerror}", err=True)
            raise typer.Exit(1) from None
        if found != contract:
            typer.echo(f"{check}: differs from the code, run moeplace openapi --output {check}", err=True)
            raise typer.Exit(1)
        return
    if output is not None:
        output.write_text(contract, encoding="utf-8")
    else:
        typer.echo(contract, nl=False)


def contract_text() -> str:
    import orjson

    from app.config import Settings
    from app.main import create_app

    contract = create_app(Settings()).openapi()
    return orjson.dumps(contract, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()
