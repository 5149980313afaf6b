"""`python -m benchmarks.console`: how long the console takes to show another layer of a large fleet.

A real service; 60 nodes and the shape of DeepSeek-V3 (58 MoE layers of 256 experts) registered over HTTP, a
window of telemetry from each node, and an operator's placement. Then a headless Chromium goes from layer to
layer with the key `]`, as fast as pictures come, and back with `[`. Written to benchmarks/results/console.md.
"""

from __future__ import annotations

import asyncio
import json
import platform
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from httpx import AsyncClient
from playwright.async_api import Page

from lab.harness.children import started_service
from tests.console.browser import opened_tab, started_browser

NODES = 60
PRESET = "deepseek-v3"
CLUSTER = "region"
CAPACITY = 0.06
"""Of the model's experts that each node can hold."""

STEPS = 24
ANALYSIS_SECONDS = 120
RESULTS = Path(__file__).resolve().parents[1] / "results"


async def prepare(api: AsyncClient) -> None:
    """Register, tell traffic and place; until the analysis knows of both."""
    await _put(api, "", {"origin": {}, "min_replicas": 0, "automatic": False})
    model = await _put(api, "/models/m", {"preset": PRESET})
    blocks = model["blocks"]
    memory = int(CAPACITY * sum(block["experts"] * block["expert_bytes"] for block in blocks))
    generator = np.random.default_rng(0)
    popularity = generator.gamma(0.4, 1.0, (NODES, len(blocks), 256))
    now = datetime.now(UTC)
    holds = []
    for row in range(NODES):
        node_id = f"edge-{row:02d}"
        device = {"device_id": "gpu0", "memory_bytes": memory}
        await _put(api, f"/nodes/{node_id}", {"instance_uid": "1", "devices": [device]})
        counts = generator.poisson(100 * popularity[row]).astype("<u4")
        window = {
            "model_id": "m",
            "instance_uid": "1",
            "sequence_number": 1,
            "window": {"start_at": _text(now - timedelta(seconds=10)), "end_at": _text(now)},
            "tokens": 1000,
            "layers": [
                {"layer": block["layer"], "counts": counts[index].tobytes()}
                for index, block in enumerate(blocks)
            ],
            "routes": [],
        }
        response = await api.post(
            f"/nodes/{node_id}/telemetry",
            content=msgspec.msgpack.encode(window),
            headers={"Content-Type": "application/msgpack"},
        )
        assert response.is_success, response.text
        each = int(CAPACITY * 256)
        best = np.argsort(-popularity[row], axis=1)[:, :each]
        held = [
            {"model_id": "m", "layer": block["layer"], "experts": sorted(best[index].tolist())}
            for index, block in enumerate(blocks)
        ]
        holds.append({"node_id": node_id, "holds": held})
        # It holds that already: what planning tens of thousands of copies takes is measured elsewhere.
        await _put(
            api, f"/nodes/{node_id}/status", {"instance_uid": "1", "sequence_number": 1, "holds": held}
        )
    response = await api.put("/placement", json={"holds": holds}, headers={"If-None-Match": "*"})
    assert response.is_success, response.text
    begun = time.monotonic()
    print(f"{NODES} nodes are registered and hold {PRESET}; waiting for the analysis", flush=True)
    while time.monotonic() - begun < ANALYSIS_SECONDS:
        overview = await api.get("/analysis/overview")
        if overview.status_code == 200:
            found = overview.json()
            if found["generation"] == 1 and found["telemetry_until"] is not None:
                return
        await asyncio.sleep(1)
    raise SystemExit("the analysis did not come in time")


async def measure(page: Page) -> dict[str, list[float]]:
    """Milliseconds of each step: from the key to the picture, and of that, arranging and drawing."""
    await _until_shown(page, 1)
    await page.wait_for_timeout(1500)
    await page.evaluate("performance.clearMeasures()")
    for step in range(2 * STEPS):
        await page.keyboard.press("]" if step < STEPS else "[")
        await _until_shown(page, step + 1)
    found: dict[str, list[float]] = {}
    for name in ("layer switch", "layer drawing"):
        entries = "performance.getEntriesByName(name).map(entry => entry.duration)"
        found[name] = await page.evaluate(f"name => {entries}", name)
    return found


async def _until_shown(page: Page, layers: int) -> None:
    # Asked from outside: the page's policy lets nothing be evaluated within it.
    while await page.evaluate("performance.getEntriesByName('layer switch').length") < layers:
        await page.wait_for_timeout(10)


async def run(directory: Path) -> dict[str, Any]:
    settings = {"MOEPLACE_LOG_LEVEL": "warning", "MOEPLACE_NODE_LEASE_SECONDS": "3600"}
    async with started_service(directory, 0, settings) as service:
        base = f"{service.base_url}/v1/clusters/{CLUSTER}"
        async with AsyncClient(base_url=base, timeout=120) as api:
            await prepare(api)
            layer = await api.get("/analysis/layers/m/10", headers={"Accept-Encoding": "gzip"})
            sizes = {
                "told": len(layer.content),
                "sent": int(layer.headers["content-length"]),
            }
        async with (
            started_browser() as browser,
            opened_tab(browser, service.base_url, width=1440, height=1000) as tab,
        ):
            await tab.show(f"#/{CLUSTER}/placement")
            times = await measure(tab.page)
            return {"sizes": sizes, "milliseconds": times, "complaints": tab.complaints}


async def _put(api: AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = await api.put(f"{api.base_url}".rstrip("/") + path, json=body)
    assert response.is_success, response.text
    found: dict[str, Any] = response.json()
    return found


def _text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def report(found: dict[str, Any]) -> str:
    lines = [
        "# The console on 60 nodes, 58 layers, 256 experts",
        "",
        "`python -m benchmarks.console`: what it does is at the head of `benchmarks/console/__main__.py`.",
        f"{platform.machine()}, {platform.system()}, headless Chromium without a graphics card.",
        "",
        "| from the key to the picture | median | 90 % | slowest |",
        "|---|---|---|---|",
    ]
    for name, words in (("layer switch", "another layer"), ("layer drawing", "of it, arranging and drawing")):
        times = np.asarray(found["milliseconds"][name])
        figures = np.median(times), np.quantile(times, 0.9), times.max()
        lines.append(f"| {words} | " + " | ".join(f"{figure:.0f} ms" for figure in figures) + " |")
    sizes = found["sizes"]
    lines += [
        "",
        f"A layer is {sizes['told'] / 1000:.0f} kB, sent as {sizes['sent'] / 1000:.0f} kB of gzip.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        found = asyncio.run(run(Path(directory)))
    assert found["complaints"] == []
    text = report(found)
    print(text)
    (RESULTS / "console.md").write_text(text)
    (RESULTS / "console.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
