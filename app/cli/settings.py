"""Settings from the environment and the command line, which wins; faults are told in one line each."""

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from app.cli.variables import warn_of_unknown_variables
from app.config import Settings
from moeplace_agent.cli.options import fail as fail
from moeplace_agent.logs import LogFormat


def _about(name: str) -> str:
    """Help of an option: the setting's own description and its variable."""
    return f"{Settings.model_fields[name].description} Variable: MOEPLACE_{name.upper()}."


RedisUrl = Annotated[str | None, typer.Option("--redis-url", metavar="URL", help=_about("redis_url"))]
DataDir = Annotated[str | None, typer.Option("--data-dir", metavar="DIR", help=_about("data_dir"))]
Host = Annotated[str | None, typer.Option("--host", help=_about("host"))]
Port = Annotated[int | None, typer.Option("--port", "-p", min=0, max=65535, help=_about("port"))]
ApiWorkers = Annotated[int | None, typer.Option("--workers", "-w", min=1, max=64, help=_about("api_workers"))]
AllowUnauthenticated = Annotated[
    bool | None, typer.Option("--allow-unauthenticated", help=_about("allow_unauthenticated"))
]
OperatorTokenFile = Annotated[
    Path | None, typer.Option("--operator-token-file", metavar="FILE", help=_about("operator_token_file"))
]
TlsCertificate = Annotated[
    Path | None, typer.Option("--tls-certificate", metavar="FILE", help=_about("tls_certificate"))
]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help=_about("tls_key"))]
TrustedProxies = Annotated[
    str | None, typer.Option("--trusted-proxies", metavar="ADDRESSES", help=_about("trusted_proxies"))
]
LogFormatOption = Annotated[LogFormat | None, typer.Option("--log-format", help=_about("log_format"))]
LogLevel = Annotated[str | None, typer.Option("--log-level", help=_about("log_level"))]


def settings_from(**options: Any) -> Settings:
    """Settings with the options that were given; ends the program with status 2 when a value is wrong."""
    warn_of_unknown_variables()
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        for fault in error.errors():
            if not fault["loc"]:  # of several settings together: the input is all of them, secrets too
                typer.echo(f"moeplace: {fault['msg'].removeprefix('Value error, ')}", err=True)
                continue
            typer.echo(f"moeplace: {fault['loc'][0]}: {fault['msg']}, got {fault['input']!r}", err=True)
        raise typer.Exit(2) from None
