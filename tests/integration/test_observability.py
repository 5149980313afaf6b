"""A real Prometheus scrapes a real service and its nodes: rules load, panels have data, a stall is told."""

import asyncio
import contextlib
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from app.cli.metrics import page
from moeplace_agent.config import node_file
from moeplace_agent.holdings import ExpertKey
from moeplace_agent.host import Node
from moeplace_agent.retrying import RetryPolicy
from moeplace_agent.telemetry import LayerShape, Recorder
from tests.agent.experts import expert_file, listener, shelf_server, url_of
from tests.deploy.tools import program
from tests.service import Service

pytestmark = pytest.mark.anyio

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
CLUSTER, STUCK = "edge", "stuck"
EXPERTS, BYTES = 6, 20_000
LAYERS = {0: LayerShape(EXPERTS, 2)}
FILES = [expert_file(ExpertKey("m", layer, e), BYTES) for layer in LAYERS for e in range(EXPERTS)]
RETRY = RetryPolicy(first_seconds=0.05, longest_seconds=0.5)
ENVIRONMENT = {
    "MOEPLACE_HEARTBEAT_INTERVAL_SECONDS": "0.3",
    "MOEPLACE_TELEMETRY_INTERVAL_SECONDS": "0.3",
    "MOEPLACE_WORKER_TICK_SECONDS": "0.2",
    "MOEPLACE_NODE_LEASE_SECONDS": "120",
}
SETTINGS = {
    "optimization_interval_seconds": 1.0,
    "time_limit_seconds": 1.0,
    "statistics_window_seconds": 4.0,
    "statistics_half_life_seconds": 1.0,
}
SECONDS = 120.0
"""For each thing that is waited for, on a busy machine."""

STALLED_SECONDS = 2
"""The alert of a stalled migration waits for minutes; here it begins after so many seconds."""

NEVER = {
    "moeplace_agent_assignment_failed",
    "moeplace_agent_windows_dropped_total",
    "moeplace_authentication_failures_total",
    "moeplace_authorization_failures_total",
    "moeplace_cluster_nodes_failed",
    "moeplace_cluster_nodes_flapping",
    "moeplace_cluster_paused",
    "moeplace_refused_total",
    "moeplace_solver_failures_total",
    "moeplace_telemetry_discarded_windows_total",
}
"""Metrics of what this run has none of: they are there, and 0."""

PASSING = {
    "moeplace_agent_sends_in_progress",
    "moeplace_agent_sends_refused_total",
    "moeplace_agent_sent_bytes_total",
    "moeplace_agent_windows_waiting",
    "moeplace_copies_avoided_total",
    "moeplace_lease_takeovers_total",
    "moeplace_node_transitions_total",
    "moeplace_placement_achieved_improvement_ratio",
    "moeplace_placement_mean_latency_seconds",
    "moeplace_placement_predicted_improvement_ratio",
    "moeplace_telemetry_fold_lag_seconds",
    "moeplace_telemetry_stream_bytes",
    "moeplace_worker_abandoned_ticks_total",
}
"""Metrics that may be 0 all the time, or not."""


class Prometheus:
    """One process with a copy of deploy/prometheus that looks once a second."""

    def __init__(self, directory: Path, service_url: str, agents: list[str]) -> None:
        shutil.copytree(DEPLOY / "prometheus", directory)
        configuration = yaml.safe_load((directory / "prometheus.yml").read_text())
        configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (service,) = [job for job in configuration["scrape_configs"] if job["job_name"] == "moeplace"]
        service["static_configs"] = [{"targets": [service_url.removeprefix("http://")]}]
        (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        targets = [{"targets": [url.removeprefix("http://") for url in agents]}]
        (directory / "targets" / "agents.yml").write_text(yaml.safe_dump(targets))
        self._hasten(directory / "rules" / "alerts.yml")
        with listener() as free:
            self.url = url_of(free)
        self.log = directory / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    program("prometheus"),
                    f"--config.file={directory / 'prometheus.yml'}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    f"--web.listen-address={self.url.removeprefix('http://')}",
                    "--enable-feature=exemplar-storage",
                    "--log.level=warn",
                ],
                stdout=log,
                stderr=log,
            )
        self.client = httpx.AsyncClient(base_url=f"{self.url}/api/v1/", trust_env=False)

    @staticmethod
    def _hasten(path: Path) -> None:
        rules = yaml.safe_load(path.read_text())
        (stalled,) = [
            rule
            for group in rules["groups"]
            for rule in group["rules"]
            if rule["alert"] == "MoeplaceMigrationStalled"
        ]
        assert stalled["expr"].count("> 120") == 1
        stalled["expr"] = stalled["expr"].replace("> 120", f"> {STALLED_SECONDS}")
        stalled["for"] = "1s"
        path.write_text(yaml.safe_dump(rules))

    async def get(self, path: str, **parameters: str) -> Any:
        answer = await self.client.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    async def query(self, expression: str) -> list[dict[str, Any]]:
        return list((await self.get("query", query=expression))["result"])

    async def close(self) -> None:
        await self.client.aclose()
        self.process.terminate()
        await asyncio.to_thread(self.process.wait, 20)


@contextlib.asynccontextmanager
async def fleet(root: Path, service: Service, swap: asyncio.Event) -> AsyncIterator[list[str]]:
    """Three agents whose tokens favour different experts, and after `swap` the others; where each serves its
    metrics."""
    locals_: list[str] = []
    async with contextlib.AsyncExitStack() as stack:
        for index in range(3):
            recorder = Recorder("m", LAYERS, seed=index)
            values = {
                "node_id": f"n{index}",
                "service": {"url": service.base_url, "cluster": CLUSTER},
                "devices": [{"device_id": "gpu-0", "memory": (4 + index) * BYTES}],
                "data_dir": f"n{index}",
                "latency": {"probe_interval_seconds": 0.5},
            }
            experts, local = listener(), listener()
            locals_.append(url_of(local))
            node = Node(
                node_file(values, base=root),
                experts_url=url_of(experts),
                experts_listener=experts,
                local_listener=local,
                recorders=[recorder],
                retry=RETRY,
                use_environment=False,
            )
            await stack.enter_async_context(node)
            feeding = asyncio.create_task(_feed(recorder, np.random.default_rng(index), swap))
            stack.callback(feeding.cancel)
        yield locals_


async def _feed(recorder: Recorder, random: np.random.Generator, swap: asyncio.Event) -> None:
    before, after = np.split(random.permutation(EXPERTS), 2)
    while True:
        favourites = after if swap.is_set() else before
        pairs = favourites[np.argsort(random.random((100, len(favourites))), axis=1)[:, :2]]
        recorder.add_tokens(len(pairs))
        for layer in LAYERS:
            recorder.record(layer, pairs)
        await asyncio.sleep(0.1)


async def clusters(service: Service, origin_url: str) -> None:
    """One cluster for the fleet; and one whose only node says once that it is there, and does nothing."""
    blocks = [
        {
            "layer": layer,
            "experts": EXPERTS,
            "expert_bytes": BYTES,
            "top_k": 2,
            "expert_digests": [file.digest for file in FILES if file.key.layer == layer],
        }
        for layer in LAYERS
    ]
    origin = {"base_url": origin_url, "latency_seconds": 0.05}
    async with httpx.AsyncClient(base_url=f"{service.base_url}/v1/clusters/", trust_env=False) as client:
        for cluster_id in (CLUSTER, STUCK):
            for path, body in (
                ("", {**SETTINGS, "origin": origin}),
                ("/models/m", {"blocks": blocks, "origin_url": origin_url}),
            ):
                answer = await client.put(f"{cluster_id}{path}", json=body)
                assert answer.status_code in (200, 201), answer.text
        spec = {"instance_uid": "i", "devices": [{"device_id": "g", "memory_bytes": 100 * BYTES}]}
        answer = await client.put(f"{STUCK}/nodes/idle", json=spec)
        assert answer.status_code == 201, answer.text
        status = {"instance_uid": "i", "sequence_number": 1, "holds": []}
        answer = await client.put(f"{STUCK}/nodes/idle/status", json=status)
        assert answer.status_code == 200, answer.text


async def until(met: Callable[[], Any], what: str, more: Callable[[], str] = str) -> None:
    try:
        async with asyncio.timeout(SECONDS):
            while True:
                if await met():
                    return
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise AssertionError(f"{what} did not come within {SECONDS:g} s{more()}") from None


def panels() -> list[tuple[str, str]]:
    """Every query of every panel, and where it stands; variables as Grafana fills them in."""
    return [
        (
            f"{path.stem}: {panel['title']} {target['refId']}",
            target["expr"].replace("$cluster", ".*").replace("$__rate_interval", "10s"),
        )
        for path in DASHBOARDS
        for panel in json.loads(path.read_text())["panels"]
        for target in panel.get("targets", [])
    ]


@pytest.mark.timeout(400)
async def test_what_operators_see(serve: Callable[..., Service], tmp_path: Path) -> None:
    """While a fleet is placed, moves and is placed anew, Prometheus takes every rule as it is deployed, and
    has at least one series for every query of every panel; every metric of the page was set, and was other
    than 0 unless the run had none of what it counts. Of all alerts exactly that of the one migration that
    makes no progress fires. Exemplars name traces."""
    service = serve(env=ENVIRONMENT)
    async with shelf_server(*FILES) as origin_url:
        await clusters(service, origin_url)
        swap = asyncio.Event()
        async with fleet(tmp_path / "nodes", service, swap) as agents:
            prometheus = Prometheus(tmp_path / "prometheus", service.base_url, agents)
            try:
                await _seen(prometheus, swap)
            except BaseException:
                print(prometheus.log.read_text(), service.logs())
                raise
            finally:
                await prometheus.close()


async def _seen(prometheus: Prometheus, swap: asyncio.Event) -> None:
    async def answers() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return (await prometheus.client.get("status/buildinfo")).status_code == 200
        return False

    async def converged() -> bool:
        condition = f'moeplace_cluster_condition{{cluster="{CLUSTER}",condition="Converged"}}'
        return bool(await prometheus.query(f"{condition} == 1"))

    async def all_drawn() -> bool:
        waiting[:] = [panel for panel in waiting if not await prometheus.query(panel[1])]
        return not waiting

    async def stall_told() -> bool:
        return bool(await _firing(prometheus))

    await until(answers, "Prometheus")
    rules = [rule for group in (await prometheus.get("rules"))["groups"] for rule in group["rules"]]
    expected = [
        rule
        for path in (DEPLOY / "prometheus" / "rules").glob("*.yml")
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]
    assert len(rules) == len(expected)
    await until(converged, "convergence")
    swap.set()
    waiting = panels()
    await until(all_drawn, "data for every panel", lambda: f", still none: {waiting}")
    await until(stall_told, "the alert of the stalled migration")
    assert await _firing(prometheus) == [("MoeplaceMigrationStalled", STUCK)]
    rules = [rule for group in (await prometheus.get("rules"))["groups"] for rule in group["rules"]]
    assert {(rule["health"], rule.get("lastError", "")) for rule in rules} == {("ok", "")}
    await _all_set(prometheus)
    exemplars = await prometheus.get(
        "query_exemplars",
        query="moeplace_http_request_duration_seconds_bucket",
        start="0",
        end="4000000000",
    )
    traces = [e["labels"]["trace_id"] for entry in exemplars for e in entry["exemplars"]]
    assert traces
    assert all(len(trace) == 32 for trace in traces)


async def _firing(prometheus: Prometheus) -> list[tuple[str, str]]:
    alerts = (await prometheus.get("alerts"))["alerts"]
    return [
        (alert["labels"]["alertname"], alert["labels"].get("cluster", ""))
        for alert in alerts
        if alert["state"] == "firing"
    ]


async def _all_set(prometheus: Prometheus) -> None:
    """Every metric of docs/metrics.md is there, and has been something else than 0 where it could."""
    absent, still = [], []
    for line in page().splitlines():
        if not line.startswith("| `moeplace_"):
            continue
        name, kind = (part.strip(" `") for part in line.split("|")[1:3])
        series = f"{name}_count" if kind == "histogram" else name
        if not await prometheus.query(f"last_over_time({series}[5m])"):
            absent.append(name)
        elif name not in PASSING:
            moved = await prometheus.query(
                f"max_over_time({series}[5m]) != 0 or min_over_time({series}[5m]) != 0"
            )
            if bool(moved) == (name in NEVER):
                still.append(name)
    assert (absent, still) == ([], [])
