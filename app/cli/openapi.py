"""`moeplace openapi`."""

import json

import typer


def openapi_command() -> None:
    """Print the API's contract as OpenAPI, JSON."""
    from app.config import Settings
    from app.main import create_app

    typer.echo(json.dumps(create_app(Settings()).openapi(), indent=2, sort_keys=True))
