"""A running service, as a command asks it: by the URL of a cluster or node."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import msgspec
import typer

from app.cli.solve import refuse
from app.cli.variables import warn_of_unknown_variables
from app.observability.logs import quiet_libraries
from moeplace_agent.client import ServiceClient, ServiceError, ServiceProblem, converted
from moeplace_agent.config import TOKEN_VARIABLE, NodeFileError, ca_file_of_environment, token_of_environment
from moeplace_agent.retrying import RetryPolicy

_RESOURCE = re.compile(
    r"(?P<base>https?://[^\s?#]+?)/v1/clusters/(?P<cluster>[^/\s?#]+)(?:/nodes/(?P<node>[^/\s?#]+))?/?"
)
_RETRY_SECONDS = 15.0
_Answer = TypeVar("_Answer")


class RegisteredBlock(msgspec.Struct, frozen=True):
    layer: int
    experts: int
    top_k: int


class RegisteredModel(msgspec.Struct, frozen=True):
    """A model as far as files of other systems are concerned."""

    blocks: list[RegisteredBlock]


def cluster_of(option: str, url: str) -> tuple[str, str, str | None]:
    """Base URL, cluster and, where it names one, node of a resource's URL."""
    found = _RESOURCE.fullmatch(url)
    if found is None:
        refuse(f"{option}: is {url!r:.100}, expected http://host:port/v1/clusters/CLUSTER[/nodes/NODE]")
    node = found["node"]
    return found["base"], unquote(found["cluster"]), None if node is None else unquote(node)


def ask_service(
    base_url: str,
    cluster_id: str,
    token: str | None,
    work: Callable[[ServiceClient], Coroutine[Any, Any, _Answer]],
) -> _Answer:
    """Runs `work` with a client of the cluster; ends the process with status 1 and the service's words where
    it fails. What may pass is waited for, and that is said; what cannot pass fails at once."""

    def waiting(reason: str) -> None:
        typer.echo(f"{base_url}: {reason}; trying again for up to {_RETRY_SECONDS:.0f} s", err=True)

    async def run() -> _Answer:
        async with ServiceClient(
            base_url,
            cluster_id,
            retry=RetryPolicy(timeout_seconds=_RETRY_SECONDS),
            token=token or token_of_environment(),
            ca_file=ca_file_of_environment(),
            waiting=waiting,
            examines=True,
        ) as client:
            return await work(client)

    quiet_libraries()
    warn_of_unknown_variables()
    try:
        return asyncio.run(run())
    except NodeFileError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    except ServiceError as error:
        typer.echo(f"{base_url}: {error}{_remedy(error)}", err=True)
        raise typer.Exit(1) from None


def _remedy(error: ServiceError) -> str:
    """What a person can do where the service's words are for programs."""
    status = error.status if isinstance(error, ServiceProblem) else None
    if status == 401:
        return f". Put a token into {TOKEN_VARIABLE}, or give it by --token"
    if status == 403:
        return f". Use a token of another role in {TOKEN_VARIABLE}, or by --token"
    return ""


async def get_model(client: ServiceClient, model_id: str) -> RegisteredModel:
    return converted(await client.get(f"/models/{quoted(model_id)}"), RegisteredModel)


def quoted(part: str) -> str:
    """An id as a part of a URL's path."""
    return quote(part, safe="")
