"""A real Valkey Cluster on loopback: primaries that share the slots, and replicas, for tests to break."""

import asyncio
import contextlib
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from app.runtime.parent_death import ending_with_parent
from app.storage.client import open_client
from app.storage.embedded import find_server
from app.storage.slots import SLOTS
from tests.ports import free_port

NODE_TIMEOUT_MILLISECONDS = 1000
"""After this a server that is silent has failed, for the others."""

READY_SECONDS = 30.0


@dataclass
class Member:
    """One server of the cluster."""

    port: int
    bus_port: int
    process: subprocess.Popen[bytes]
    node_id: str = ""

    @property
    def url(self) -> str:
        """Of this server alone."""
        return f"redis://127.0.0.1:{self.port}"

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


class ValkeyCluster:
    def __init__(self, directory: Path, *, primaries: int, binary: Path | None = None) -> None:
        self._directory = directory
        self._binary = binary or find_server()
        self.members = [self._start() for _ in range(primaries)]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{member.port}" for member in self.members)
        return f"redis+cluster://{hosts}"

    async def join(self) -> None:
        """Share the slots among the servers and introduce them to each other."""
        shares = [SLOTS * index // len(self.members) for index in range(len(self.members) + 1)]
        for index, member in enumerate(self.members):
            await self._answer(member)
            await self.ask(member, "CLUSTER ADDSLOTSRANGE", shares[index], shares[index + 1] - 1)
            await self.ask(member, "CLUSTER SET-CONFIG-EPOCH", index + 1)
        for member in self.members[1:]:
            await self._introduce(member, self.members[0])
        await self.settled(self.members)

    async def replicate(self, primary: Member) -> Member:
        """Start a replica of `primary` and wait until it has its data."""
        replica = self._start()
        await self._answer(replica)
        await self._introduce(replica, primary)
        await until(lambda: self._knows(replica, primary))
        await self.ask(replica, "CLUSTER REPLICATE", primary.node_id)

        async def in_step() -> bool:
            info = await self.ask(replica, "INFO", "replication")
            return bool(info.get("role") == "slave" and info.get("master_link_status") == "up")

        await until(in_step)
        self.members.append(replica)
        for member in self.members:
            await until(lambda member=member: self._knows(member, replica))
        return replica

    async def settled(self, members: Sequence[Member]) -> None:
        """All of them see every slot served."""
        for member in members:

            async def well(member: Member = member) -> bool:
                info = await self.ask(member, "CLUSTER INFO")
                return bool(info["cluster_state"] == "ok" and int(info["cluster_slots_ok"]) == SLOTS)

            await until(well)

    async def owner(self, slot: int, *, but: Member | None = None) -> Member:
        """The server that has the slot, as a server other than `but` sees it."""
        asked = next(m for m in self.members if m is not but and m.process.poll() is None)
        for first, last, primary, *_ in await self.ask(asked, "CLUSTER SLOTS"):
            if first <= slot <= last:
                return next(member for member in self.members if member.port == primary[1])
        raise LookupError(f"slot {slot} has no server")

    async def migrate(self, slot: int, target: Member, *, pause_seconds: float = 0.0) -> int:
        """Move the slot key by key, as every Redis 7 does it; the number of keys moved."""
        source = await self.owner(slot)
        await self.ask(target, "CLUSTER SETSLOT", slot, "IMPORTING", source.node_id)
        await self.ask(source, "CLUSTER SETSLOT", slot, "MIGRATING", target.node_id)
        moved = 0
        while keys := await self.ask(source, "CLUSTER GETKEYSINSLOT", slot, 1):
            # REPLACE: a slow reply has the command sent again, after the target took the key.
            command = ("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "REPLACE", "KEYS", *keys)
            await self.ask(source, *command)
            moved += len(keys)
            await asyncio.sleep(pause_seconds)
        for member in (target, source, *(m for m in self.members if m not in (source, target))):
            with contextlib.suppress(RedisError):  # a replica need not be told
                await self.ask(member, "CLUSTER SETSLOT", slot, "NODE", target.node_id)
        return moved

    async def ask(self, member: Member, *command: Any) -> Any:
        async with open_client(member.url) as client:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        for member in self.members:
            member.kill()

    async def _answer(self, member: Member) -> None:
        async def answers() -> bool:
            try:
                member.node_id = (await self.ask(member, "CLUSTER MYID")).decode()
            except (RedisError, OSError):
                return False
            return True

        await until(answers)

    async def _introduce(self, member: Member, known: Member) -> None:
        await self.ask(member, "CLUSTER MEET", "127.0.0.1", known.port, known.bus_port)

    async def _knows(self, member: Member, other: Member) -> bool:
        nodes = await self.ask(member, "CLUSTER NODES")
        return any(known["node_id"] == other.node_id for known in nodes.values())

    def _start(self) -> Member:
        port, bus_port = free_port(), free_port()
        directory = self._directory / str(port)
        directory.mkdir()
        options = {
            "port": port,
            "cluster-port": bus_port,
            "bind": "127.0.0.1",
            "dir": directory,
            "cluster-enabled": "yes",
            "cluster-config-file": directory / "nodes.conf",
            "cluster-node-timeout": NODE_TIMEOUT_MILLISECONDS,
            "cluster-replica-validity-factor": 0,
            "cluster-require-full-coverage": "no",
            "repl-diskless-sync-delay": 0,
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                ending_with_parent([str(self._binary), *arguments], parent_death_signal=signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return Member(port, bus_port, process)


async def until(holds: Any, within_seconds: float = READY_SECONDS) -> None:
    """Wait until `await holds()` is true."""
    deadline = time.monotonic() + within_seconds
    while not await holds():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.02)
