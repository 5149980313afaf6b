"""`moeplace agent`."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from moeplace_agent.cli.options import LogFormatOption, LogLevelOption, begin, fail
from moeplace_agent.client import ServiceError
from moeplace_agent.config import NodeFile, NodeFileError, read_node_file
from moeplace_agent.experts.directory import DirectoryInUse
from moeplace_agent.host import Node
from moeplace_agent.logs import LogFormat
from moeplace_agent.serving.listening import ListeningError, is_loopback, open_listener, url_of
from moeplace_agent.wording import counted


def agent_command(
    config: Annotated[
        Path,
        typer.Option(
            "--config", "-c", metavar="FILE", help="Description of the node (node.yaml), see below."
        ),
    ],
    check: Annotated[bool, typer.Option("--check", help="Only check the file.")] = False,
    log_format: LogFormatOption = LogFormat.CONSOLE,
    log_level: LogLevelOption = "info",
) -> None:
    """Run a node: fetch, verify, keep and serve the experts that the service assigns to it.

    The file needs a node_id, the service's url, the devices with the memory that experts may use, and a
    directory for them:

        node_id: edge-a

        service: {url: "http://10.0.0.2:8080", cluster: default}

        devices: [{device_id: gpu-0, memory: 20GiB}]

        data_dir: /var/lib/moeplace/edge-a

    All other keys have defaults, which docs/agents.md explains. After a kill at any moment, the next start
    verifies the experts on disk and resumes unfinished downloads. SIGTERM or Ctrl-C ends the agent; its
    experts stay on disk.
    """
    begin(log_format, log_level, process="agent")
    service = ""
    try:
        file = read_node_file(config)
        service = file.service.url
        _refuse_open(file)
        if check:
            typer.echo(f"{config} is correct: node {file.node_id}, {len(file.devices)} device(s)")
            return
        asyncio.run(_run(file))
    except NodeFileError as error:
        raise fail(error, 2) from None
    except ServiceError as error:
        raise fail(f"{service}: {error}") from None
    except (ListeningError, DirectoryInUse) as error:
        raise fail(error) from None


def _refuse_open(file: NodeFile) -> None:
    if not is_loopback(file.local.host):
        raise ListeningError(
            f"local.host: is {file.local.host}, expected a loopback address: it is for this host only"
        )
    experts = file.experts
    if not is_loopback(experts.host) and experts.token_file is None and not experts.allow_unauthenticated:
        raise ListeningError(
            f"experts.host: {experts.host} can be reached from other machines, which could fetch the "
            "weights: give experts.token_file, or allow_unauthenticated: true if the network is trusted"
        )


async def _run(file: NodeFile) -> None:
    experts = open_listener(file.experts.host, file.experts.port, "experts.port")
    local = open_listener(file.local.host, file.local.port, "local.port")
    ending = asyncio.Event()

    def asked_to_end() -> None:
        if ending.is_set():  # asked twice: at once
            os._exit(1)
        ending.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked_to_end)
    node = Node(file, experts_url=url_of(experts), experts_listener=experts, local_listener=local)

    async def work() -> None:
        async with node:
            typer.echo(
                f"moeplace agent {file.node_id} serves {counted(len(node.holdings), 'expert')} "
                f"on {url_of(experts)}, local programs on {url_of(local)}"
            )
            await node.ended()

    working, asked = asyncio.create_task(work()), asyncio.create_task(ending.wait())
    await asyncio.wait([working, asked], return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if not working.done():
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    else:
        working.result()
