"""systemd's units and the example configurations name commands, settings and files that exist."""

import asyncio
import configparser
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from app.clusters.schemas import ClusterSettings
from app.storage.client import check_server, open_client
from app.storage.embedded import find_server
from moeplace_agent.config import read_node_file
from tests.deploy.commands import in_examples, require_command, require_settings, variables_of
from tests.deploy.tools import DEPLOY, program, run
from tests.valkey_cluster import until

UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
EXAMPLES = DEPLOY / "examples"
PROGRAM = "/opt/moeplace/bin/moeplace"
AGENT = "/opt/moeplace/bin/moeplace-agent"
EXPOSURE = 2.0
"""Of 10, as systemd-analyze counts it; 2 is well sandboxed."""


class _Repeated(dict[str, object]):
    """systemd lets a key be repeated; configparser would refuse it."""

    def __setitem__(self, key: str, value: object) -> None:
        if isinstance(value, list) and key in self:
            value = [*self[key], *value]  # type: ignore[misc]
        super().__setitem__(key, value)


def section(unit: Path) -> dict[str, list[str]]:
    """[Service] of the unit: each key with all of its values."""
    parser = configparser.RawConfigParser(dict_type=_Repeated, strict=False, interpolation=None)  # type: ignore[arg-type]
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(unit)
    return {key: value.split("\n") for key, value in parser["Service"].items()}


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_takes_it(unit: Path, tmp_path: Path) -> None:
    """Verified as installed, with the program where this Python has it; every directive is known."""
    here = str(Path(sys.executable).parent / "moeplace")
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace(PROGRAM, here))
    done = subprocess.run(
        [program("systemd-analyze"), "verify", str(copy)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert unit.name not in done.stderr, done.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_it_is_sandboxed(unit: Path) -> None:
    """As far as systemd's own count goes."""
    said = run(program("systemd-analyze"), "security", "--offline=true", "--threshold=20", str(unit))
    assert float(said.strip().splitlines()[-1].split(": ")[1].split()[0]) <= EXPOSURE


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_commands_parse_and_settings_exist(unit: Path) -> None:
    """ExecStart and ExecStartPre, and what is set beside the file of settings."""
    service = section(unit)
    for command in (*service["ExecStart"], *service.get("ExecStartPre", [])):
        name, *arguments = shlex.split(command)
        assert name in {PROGRAM, AGENT}
        require_command([*(["agent"] if name == AGENT else []), *map(in_examples, arguments)])
    require_settings(entry.split("=")[0] for entry in service.get("Environment", []))


def test_settings_of_the_examples_are_settings() -> None:
    """By name, and with values that they take."""
    from app.config import Settings

    files = sorted(EXAMPLES.glob("*/service.env"))
    assert len(files) == 2
    for file in files:
        told = variables_of(file.read_text())
        require_settings(told)
        Settings(**{name.removeprefix("MOEPLACE_").lower(): value for name, value in told.items()})  # type: ignore[arg-type]


def test_the_example_of_a_node_is_right() -> None:
    """As `moeplace agent --check` finds, and its data is where the unit may write."""
    config = read_node_file(EXAMPLES / "site" / "node.yaml")
    (state,) = section(DEPLOY / "systemd" / "moeplace-agent.service")["StateDirectory"]
    assert str(config.data_dir) == f"/var/lib/{state}"


def test_the_example_of_a_cluster_is_right() -> None:
    """What is sent to PUT /v1/clusters/{cluster_id}."""
    settings = ClusterSettings.model_validate(json.loads((EXAMPLES / "site" / "cluster.json").read_text()))
    assert settings.origin is not None


def test_the_example_of_valkey_starts_one(tmp_path: Path) -> None:
    """The real server takes every line, and the service finds nothing to complain of."""
    socket = tmp_path / "s"
    overridden = {"port": "0", "unixsocket": str(socket), "dir": str(tmp_path), "cluster-port": "17999"}
    options = [part for name, value in overridden.items() for part in (f"--{name}", value)]
    server = subprocess.Popen(
        [str(find_server()), str(EXAMPLES / "region" / "valkey.conf"), *options, "--cluster-enabled", "no"],
        stdout=subprocess.DEVNULL,
    )
    try:

        async def ask() -> None:
            async with asyncio.timeout(20), open_client(f"unix://{socket}") as redis:
                await until(lambda: asyncio.sleep(0, socket.exists()))
                await check_server(redis)
                assert (await redis.info())["maxmemory_policy"] == "noeviction"

        asyncio.run(ask())
    finally:
        server.kill()
        server.wait()
