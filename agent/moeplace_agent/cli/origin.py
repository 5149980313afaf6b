"""`moeplace origin`."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from moeplace_agent.checkpoint.checkpoint import Checkpoint, CheckpointExpert, open_checkpoint
from moeplace_agent.checkpoint.digests import expert_digests
from moeplace_agent.checkpoint.shards import CheckpointError
from moeplace_agent.cli.options import LogFormatOption, LogLevelOption, begin, fail
from moeplace_agent.client import ServiceClient, ServiceError, ServiceProblem, converted
from moeplace_agent.config import NodeFileError, ca_file_of_environment, read_token, token_of_environment
from moeplace_agent.experts.signing import Verifier
from moeplace_agent.holdings import is_id
from moeplace_agent.journal import Journal
from moeplace_agent.logs import LogFormat
from moeplace_agent.origin import CheckpointShelf, model_spec, origin_application
from moeplace_agent.serving.embedded import serving
from moeplace_agent.serving.listening import ListeningError, is_loopback, open_listener, url_of
from moeplace_agent.wording import counted

logger = logging.getLogger("moeplace_agent.origin")


def _rate(text: str) -> float:
    try:
        return float(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise typer.BadParameter(f"{text!r}: expected bytes, like 50MB or 1GiB") from None


def origin_command(
    checkpoint: Annotated[
        Path,
        typer.Option(
            "--checkpoint", metavar="DIR", help="Hugging Face checkpoint: config.json, *.safetensors."
        ),
    ],
    model_id: Annotated[
        str | None, typer.Option("--model-id", help="Name of the model. Default: the name of the directory.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", "-p", min=0, max=65535, help="0 chooses a free port.")
    ] = 9100,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="URL at which nodes reach it. Default: http://HOST:PORT."),
    ] = None,
    service: Annotated[
        str | None, typer.Option(metavar="URL", help="Register the model and its digests at this service.")
    ] = None,
    cluster: Annotated[str, typer.Option(help="Cluster to register it in.")] = "default",
    service_token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File with the token for the service. Default: MOEPLACE_TOKEN."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File with the secret that nodes need to fetch experts."),
    ] = None,
    allow_unauthenticated: Annotated[
        bool, typer.Option(help="Allow an address other than loopback without a secret.")
    ] = False,
    max_sends: Annotated[
        int, typer.Option(min=1, max=1024, help="Experts sent at once; further requests get 503.")
    ] = 4,
    send_limit: Annotated[
        float | None,
        typer.Option(
            metavar="BYTES", parser=_rate, help="Limit per second for all experts sent (50MB, 1GiB)."
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", min=1, max=64, help="Experts per token, if config.json does not say."),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(
            "--layers",
            min=1,
            max=256,
            help="Layers of the model, if config.json does not say. Experts of later layers are left out.",
        ),
    ] = None,
    below: Annotated[
        str | None,
        typer.Option(
            "--below",
            metavar="PREFIX",
            help="Serve only experts whose tensor names start with this (thinker.), if there are two models.",
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Only list the experts.")] = False,
    log_format: LogFormatOption = LogFormat.CONSOLE,
    log_level: LogLevelOption = "info",
) -> None:
    """Serve the experts of a checkpoint to nodes, one file per expert.

    Finds each expert by the names of its tensors, in all layouts that transformers reads and writes: one set
    of tensors per expert, or one tensor for all experts of a layer. Scales and biases go with their matrix.
    Tensors that cannot be assigned to an expert are refused by name. Weights are not copied or converted:
    each expert is cut out of the checkpoint's files while it is sent.

    The first start reads everything once to compute digests, which are kept beside the checkpoint.
    """
    begin(log_format, log_level, process="origin")
    try:
        name = model_id or checkpoint.resolve().name
        if not is_id(name):
            raise fail(f"--model-id: {name!r} is not an id, expected at most 63 of A-Z a-z 0-9 . _ -", 2)
        found = open_checkpoint(checkpoint, top_k=top_k, layers=layers, below=below)
        if show:
            _show(found)
            return
        if not is_loopback(host) and token_file is None and not allow_unauthenticated:
            raise ListeningError(
                f"host: {host} can be reached from other machines, which could fetch the weights: "
                "give --token-file, or --allow-unauthenticated if the network is trusted"
            )
        token = read_token(token_file)
        service_token = read_token(service_token_file) or token_of_environment()
        if service is not None:
            # The first start may hash for an hour: what is wrong with the service's address is said before.
            asyncio.run(_check_service(service, cluster, service_token))
        with _progress(found) as progress:
            digests = expert_digests(found, progress=progress)
        shelf = CheckpointShelf(name, found, digests)
        asyncio.run(
            _run(
                shelf,
                host=host,
                port=port,
                url=url,
                token=token,
                max_sends=max_sends,
                send_limit=send_limit,
                service=None if service is None else (service, cluster, service_token),
            )
        )
    except (CheckpointError, NodeFileError) as error:
        raise fail(error, 2) from None
    except ServiceError as error:
        raise fail(f"{service}: {error}") from None
    except ListeningError as error:
        raise fail(error) from None


class _Settings(msgspec.Struct):
    origin: dict[str, Any] | None


class _Cluster(msgspec.Struct):
    settings: _Settings


def _client(base_url: str, cluster_id: str, token: str | None) -> ServiceClient:
    def waiting(reason: str) -> None:
        typer.echo(f"moeplace: {base_url}: {reason}; trying again", err=True)

    return ServiceClient(
        base_url, cluster_id, token=token, ca_file=ca_file_of_environment(), waiting=waiting, examines=True
    )


async def _check_service(base_url: str, cluster_id: str, token: str | None) -> None:
    """Raises `ServiceError` for what waiting does not mend."""
    async with _client(base_url, cluster_id, token) as client:
        try:
            await client.get("")
        except ServiceProblem as problem:
            # Registering the model creates the cluster.
            if problem.status != 404 or problem.problem.type == "about:blank":
                raise


async def _run(
    shelf: CheckpointShelf,
    *,
    host: str,
    port: int,
    url: str | None,
    token: str | None,
    max_sends: int,
    send_limit: float | None,
    service: tuple[str, str, str | None] | None,
) -> None:
    listener = open_listener(host, port)
    reached = url or url_of(listener)
    ending = asyncio.Event()

    def asked_to_end() -> None:
        if ending.is_set():  # asked twice: at once
            os._exit(1)
        ending.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked_to_end)
    verifier = None if token is None else Verifier(token, (reached, url_of(listener)))
    journal = Journal(logger)
    application = origin_application(
        shelf, at_once=max_sends, bytes_per_second=send_limit, verifier=verifier, sent=journal.sent
    )
    async with serving(application, listener), AsyncExitStack() as stack:
        stack.callback(journal.end)
        if service is not None:
            base_url, cluster_id, service_token = service
            async with _client(base_url, cluster_id, service_token) as client:
                await client.put(f"/models/{shelf.model_id}", model_spec(shelf, reached))
                cluster = converted(await client.get(""), _Cluster)
                if cluster.settings.origin is None:
                    typer.echo(
                        f"moeplace: cluster {cluster_id} has no origin, so no plan fetches from this one: "
                        f'give its settings "origin": {{"base_url": "{reached}", "latency_seconds": ..., '
                        f'"egress_bytes_per_second": ...}} (PUT {base_url}/v1/clusters/{cluster_id})',
                        err=True,
                    )
        checkpoint = shelf.checkpoint
        typer.echo(
            f"moeplace origin serves {counted(len(checkpoint.experts), 'expert')} of {shelf.model_id} "
            f"on {reached}"
        )
        await ending.wait()


@contextmanager
def _progress(checkpoint: Checkpoint) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    total = sum(expert.content.size for expert in checkpoint.experts)
    columns = (TextColumn("hashing experts"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("hash", total=total)
        yield lambda count: progress.advance(task, count)


def _show(checkpoint: Checkpoint) -> None:
    chosen = sorted(set(checkpoint.top_k.values()))
    top = f"top {chosen[0]}" if len(chosen) == 1 else f"top {chosen[0]} to {chosen[-1]}"
    table = Table(title=f"{checkpoint.directory} ({checkpoint.model_type}, {top})")
    for column in ("layers", "experts", "bytes of one", "tensors of one"):
        table.add_column(column)
    alike: dict[tuple[str, int, str], list[int]] = {}
    for layer, experts in checkpoint.layers.items():
        for row in _kinds(experts):
            alike.setdefault(row, []).append(layer)
    for (count, size, tensors), layers in alike.items():
        table.add_row(_ranges(layers), count, f"{size:,}", tensors)
    console = Console()
    console.print(table, markup=False)
    if any(len({expert.data_bytes for expert in experts}) > 1 for experts in checkpoint.layers.values()):
        console.print("A layer whose experts differ is registered with the size of its largest.")
    if checkpoint.left_out:
        names = ", ".join(checkpoint.left_out)
        console.print(f"Not served, since it is for multi-token prediction: {names}.", markup=False)


def _kinds(experts: tuple[CheckpointExpert, ...]) -> list[tuple[str, int, str]]:
    """The experts of a layer by what their tensors are: how many, or which; bytes of one; tensors of one."""
    kinds: dict[tuple[int, str], list[int]] = {}
    for expert in experts:
        tensors = "\n".join(f"{t.name} {t.dtype} {list(t.shape)}" for t in expert.tensors)
        kinds.setdefault((expert.data_bytes, tensors), []).append(expert.expert)
    if len(kinds) == 1:
        ((size, tensors),) = kinds
        return [(str(len(experts)), size, tensors)]
    return [
        (f"{len(numbers)} of {len(experts)}: {_ranges(numbers)}", size, tensors)
        for (size, tensors), numbers in kinds.items()
    ]


def _ranges(layers: list[int]) -> str:
    """3, 4, 5, 9 as 3-5, 9."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
