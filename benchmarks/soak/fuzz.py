"""Requests that nobody should send, to every operation of a whole service, and what it answers.

A 5xx is a failure, but for a 503 with `Retry-After`, which is back-pressure unless it is of a damaged record.
So are an error that a process of the service logs with a trace, and a process that ends. Each failing request
is kept.
"""

from __future__ import annotations

import http.client
import itertools
import json
import random
import re
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from app.cli.openapi import files
from benchmarks.soak.requests import LAYERS, MODEL, NODES, Names, Request, Requests
from tests.service import Service, start_service

SENDERS = 3
OPERATOR = "operator-" + "0" * 40
RENEWED_AFTER = 250
"""Requests of a sender in one cluster; then it makes another, for little may be left."""

TIMEOUT_SECONDS = 30.0
ENVIRONMENT = {
    "MOEPLACE_OPERATOR_TOKEN": OPERATOR,
    # Requests are to be answered by what they are about.
    "MOEPLACE_TOKEN_REQUESTS_PER_SECOND": "1000000",
    "MOEPLACE_WORKER_TICK_SECONDS": "0.5",
}


@dataclass(frozen=True)
class Outcome:
    """`by_token`: requests with a token of that kind. `refused`: 503 with `Retry-After`. `unanswered`:
    nothing came, or the connection was closed. `errors`: any other 5xx. `succeeded`: operations that
    answered 2xx."""

    requests: int
    seconds: float
    operations: int
    succeeded: int
    by_token: dict[str, int]
    statuses: dict[str, int]
    refused: int
    unanswered: int
    errors: int
    same_processes: bool
    failures: list[str]


@dataclass
class Found:
    """What one sender met."""

    statuses: Counter[int] = field(default_factory=Counter)
    by_token: Counter[str] = field(default_factory=Counter)
    succeeded: set[str] = field(default_factory=set)
    refused: int = 0
    unanswered: int = 0
    failures: list[tuple[Request, str]] = field(default_factory=list)


def run(requests: int, seed: int, out: Path, say: Callable[[str], None]) -> Outcome:
    """Failing requests are written to `out`/soak-failures."""
    contract = json.loads(files()["openapi.json"])
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="moeplace-soak-") as folder:
        service = start_service(env=ENVIRONMENT, data_dir=Path(folder) / "data")
        try:
            pids = _pids(service)
            senders = [
                Sender(service.base_url, contract, f"{seed} {index}", (requests + index) // SENDERS, index)
                for index in range(SENDERS)
            ]
            threads = [threading.Thread(target=sender.run, daemon=True) for sender in senders]
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(10.0)
                    sent = sum(sum(sender.found.statuses.values()) for sender in senders)
                    bad = sum(len(sender.found.failures) for sender in senders)
                    say(
                        f"{sent} requests answered in {time.monotonic() - begun:.0f} s, {bad} of them wrongly"
                    )
            same = _pids(service) == pids
            service.terminate()
            logs = service.logs()
        finally:
            service.kill_all()
    found = [sender.found for sender in senders]
    statuses = sum((each.statuses for each in found), Counter[int]())
    failures = [failure for each in found for failure in each.failures]
    words = [f"{request.method} {request.target[:200]}: {answer[:200]}" for request, answer in failures]
    words += [sender.broken for sender in senders if sender.broken]
    words += [f"logged: {line}" for line in _traces(logs)]
    if not same:
        words.append("a process of the service ended")
    if words:
        _keep(out / "soak-failures", failures, logs)
    return Outcome(
        requests=sum(statuses.values()) + sum(each.unanswered for each in found),
        seconds=time.monotonic() - begun,
        operations=len(senders[0].requests.operations),
        succeeded=len(set().union(*(each.succeeded for each in found))),
        by_token=dict(sum((each.by_token for each in found), Counter[str]())),
        statuses={str(status): number for status, number in sorted(statuses.items())},
        refused=sum(each.refused for each in found),
        unanswered=sum(each.unanswered for each in found),
        errors=len(failures),
        same_processes=same,
        failures=words,
    )


def _pids(service: Service) -> list[int]:
    return [service.child(name).pid for name in ("api", "worker", "server")]


def _traces(logs: str) -> list[str]:
    """Each kind of line that carries a trace, with how often it was logged."""
    kinds: Counter[str] = Counter()
    lines = logs.splitlines()
    for index, line in enumerate(lines):
        if "Traceback (most recent call last)" in line:
            kinds[re.sub(r"[0-9a-f]{8,}|[0-9.:TZ-]{10,}", "", lines[max(0, index - 1)])[:200]] += 1
    return [f"{number} x {kind}" for kind, number in kinds.most_common(20)]


def _keep(folder: Path, failures: list[tuple[Request, str]], logs: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "service.log").write_text(logs)
    for number, (request, answer) in enumerate(failures[:200]):
        values = {**asdict(request), "body": None if request.body is None else request.body.hex()}
        (folder / f"{number}.json").write_text(json.dumps({"request": values, "answer": answer}, indent=1))


class Sender:
    """Sends one request after another over one connection."""

    def __init__(self, base_url: str, contract: dict[str, Any], seed: str, count: int, number: int) -> None:
        self.found = Found()
        self.broken = ""
        self.requests = Requests(contract, random.Random(seed))
        self._base_url = base_url
        self._count = count
        self._number = number
        self._node_token = ""
        self._connection = http.client.HTTPConnection(
            base_url.removeprefix("http://"), timeout=TIMEOUT_SECONDS
        )

    def run(self) -> None:
        try:
            for epoch in itertools.count():
                if epoch * RENEWED_AFTER >= self._count:
                    return
                names = self._renew(epoch)
                for _ in range(min(RENEWED_AFTER, self._count - epoch * RENEWED_AFTER)):
                    self._send(self.requests.draw(names), names)
        except Exception as error:  # noqa: BLE001 - of whatever kind, the run has failed
            self.broken = f"a sender ended: {type(error).__name__}: {error}"

    def _renew(self, epoch: int) -> Names:
        """A cluster with a model, nodes, placements, and a node's token; the one before is deleted."""
        names = Names(f"fuzz-{self._number}-{epoch}")
        base = f"/v1/clusters/{names.cluster_id}"
        blocks = [
            {"layer": layer, "experts": experts, "expert_bytes": 1000, "top_k": 2}
            for layer, experts in LAYERS.items()
        ]
        headers = {"Authorization": f"Bearer {OPERATOR}"}
        with httpx.Client(base_url=self._base_url, headers=headers, timeout=TIMEOUT_SECONDS) as client:
            client.delete(f"/v1/clusters/fuzz-{self._number}-{epoch - 1}")
            client.put(base, json={"origin": {}, "min_replicas": 0, "automatic": False}).raise_for_status()
            client.put(f"{base}/models/{MODEL}", json={"blocks": blocks}).raise_for_status()
            for node_id in NODES:
                device = {"device_id": "gpu0", "memory_bytes": 100_000}
                spec = {"instance_uid": f"{node_id}-1", "devices": [device]}
                client.put(f"{base}/nodes/{node_id}", json=spec).raise_for_status()
            etag: str | None = None
            for experts in ([0, 1], [2]):
                held = [{"model_id": MODEL, "layer": 0, "experts": experts}]
                placement = {"holds": [{"node_id": NODES[0], "holds": held}]}
                condition = {"If-None-Match": "*"} if etag is None else {"If-Match": etag}
                answer = client.put(f"{base}/placement", json=placement, headers=condition)
                etag = answer.raise_for_status().headers["ETag"]
            for path, body in (
                ("/optimizations", {"validate_only": True}),
                ("/migration_plans", {"from_generation": 1, "to_generation": 2}),
            ):
                answer = client.post(base + path, json=body)
                names.learn(None, answer.content)
            issued = client.post(
                f"{base}/tokens", json={"role": "NODE", "node_id": NODES[0]}
            ).raise_for_status()
            self._node_token = next(
                value for key, value in issued.json().items() if key in ("token", "secret")
            )
        return names

    def _send(self, request: Request, names: Names) -> None:
        tokens = {"operator": OPERATOR, "node": self._node_token}
        headers = {"User-Agent": "soak", **request.headers}
        if request.token in tokens:
            headers["Authorization"] = f"Bearer {tokens[request.token]}"
        self.found.by_token[request.token] += 1
        try:
            self._connection.request(request.method, request.target, request.body, headers)
            answer = self._connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            self.found.unanswered += 1
            if isinstance(error, TimeoutError):
                self.found.failures.append((request, f"no answer within {TIMEOUT_SECONDS:g} s"))
            return
        self.found.statuses[answer.status] += 1
        # A record that a request left damaged is a failure, though it is answered with 503.
        if answer.status == 503 and answer.getheader("Retry-After") and b"damaged-record" not in body:
            self.found.refused += 1
        elif answer.status >= 500:
            self.found.failures.append((request, f"{answer.status} {body.decode(errors='replace')}"))
        elif answer.status < 300:
            self.found.succeeded.add(request.operation)
            names.learn(answer.getheader("ETag"), body)
