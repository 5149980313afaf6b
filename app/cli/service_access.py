"""A running service, as a command asks it: by the URL of a cluster or node."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import msgspec
import typer

from agent.client import AnswerNotUnderstood, ServiceClient, ServiceError
from agent.config import CA_VARIABLE, TOKEN_VARIABLE, ca_file_of_environment
from agent.retrying import RetryPolicy
from app.cli.solve import refuse

_RESOURCE = re.compile(
    r"(?P<base>https?://[^\s?#]+?)/v1/clusters/(?P<cluster>[^/\s?#]+)(?:/nodes/(?P<node>[^/\s?#]+))?/?"
)
_RETRY_SECONDS = 30.0
_Answer = TypeVar("_Answer")
_Shape = TypeVar("_Shape")


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
    it fails."""

    async def run() -> _Answer:
        async with ServiceClient(
            base_url,
            cluster_id,
            retry=RetryPolicy(timeout_seconds=_RETRY_SECONDS),
            token=token or os.environ.get(TOKEN_VARIABLE),
            ca_file=ca_file_of_environment(),
        ) as client:
            return await work(client)

    try:
        return asyncio.run(run())
    except OSError as error:
        typer.echo(f"{CA_VARIABLE}: {os.environ.get(CA_VARIABLE)}: {error}", err=True)
        raise typer.Exit(1) from None
    except ServiceError as error:
        typer.echo(f"{base_url}: {error}", err=True)
        raise typer.Exit(1) from None


async def get_model(client: ServiceClient, model_id: str) -> RegisteredModel:
    return converted(await client.get(f"/models/{quoted(model_id)}"), RegisteredModel)


def quoted(part: str) -> str:
    """An id as a part of a URL's path."""
    return quote(part, safe="")


def converted(answer: Any, shape: type[_Shape]) -> _Shape:
    """What the service answered, as far as it is of interest; other fields are ignored."""
    try:
        return msgspec.convert(answer, shape)
    except msgspec.ValidationError as error:
        raise AnswerNotUnderstood(str(error)) from None
