"""`python -m benchmarks.recorder`: what recording costs a forward pass on the CPU.

Models of real shapes with random weights (routing does not change what recording costs), float32, one
thread. The processor time spent in the hooks is measured inside the passes, where caches are as cold as the
model leaves them, and compared with the rest of the same passes. Needs torch and transformers, which
`make test-transformers` installs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from moeplace_agent.hooks.transformers import Attachment, moe_layers, phase_by_length
from moeplace_agent.telemetry import Phase, Recorder

WINDOW_SECONDS = 10.0
"""How often a window is cut, unless the service says otherwise."""

RESULTS = Path(__file__).resolve().parents[1] / "results"


@dataclass(frozen=True)
class Model:
    """`layers` of the model's MoE layers, all where it has no more."""

    name: str
    model_type: str
    layers: int
    settings: dict[str, int]


MODELS = (
    Model(
        "granite-3.0-1b-a400m, 4 of 24 layers",
        "granitemoe",
        4,
        {
            "hidden_size": 1024,
            "intermediate_size": 512,
            "num_local_experts": 32,
            "num_experts_per_tok": 8,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
        },
    ),
    Model(
        "OLMoE-1B-7B, 1 of 16 layers",
        "olmoe",
        1,
        {
            "hidden_size": 2048,
            "intermediate_size": 1024,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
        },
    ),
    Model(
        "tiny-moe, all 6 layers",
        "mixtral",
        6,
        {
            "hidden_size": 128,
            "intermediate_size": 192,
            "num_local_experts": 32,
            "num_experts_per_tok": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
        },
    ),
)

PASSES = (("decode", 1, 1), ("decode", 8, 1), ("prefill", 1, 128))


@dataclass(frozen=True)
class Row:
    """Seconds of one pass without recording (median) and of recording it; share: of the time of all."""

    model: str
    phase: str
    batch: int
    tokens: int
    pass_seconds: float
    recording_seconds: float
    share: float
    cut_seconds: float


class TimedAttachment(Attachment):
    """Adds up the seconds spent in the hooks, less what looking at the clock costs."""

    seconds = 0.0
    clock_seconds = 0.0

    def _add(self, began: float) -> None:
        self.seconds += time.thread_time() - began - self.clock_seconds

    def _begin(self, *given: Any) -> None:
        began = time.thread_time()
        super()._begin(*given)
        self._add(began)

    def _end(self, *given: Any) -> None:
        began = time.thread_time()
        super()._end(*given)
        self._add(began)

    def _hook(self, *given: Any) -> Callable[[Any, Any, Any], None]:
        record = super()._hook(*given)

        def timed(*given: Any) -> None:
            began = time.thread_time()
            record(*given)
            self._add(began)

        return timed


def clock_seconds() -> float:
    """Between two looks at the clock with nothing between them."""
    return float(np.median([-(time.thread_time() - time.thread_time()) for _ in range(10_000)]))


def measure(model: Model, seconds: float) -> list[Row]:
    """All kinds of pass of one model, each for about `seconds`."""
    torch.set_num_threads(1)  # all processor time is then that of this thread
    config = transformers.AutoConfig.for_model(
        model.model_type,
        num_hidden_layers=model.layers,
        vocab_size=4096,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **model.settings,
    )
    torch.manual_seed(0)
    running = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    return [_row(model, running, *kind, seconds) for kind in PASSES]


def _row(model: Model, running: Any, phase: str, batch: int, length: int, seconds: float) -> Row:
    recorder = Recorder(model.name, moe_layers(running), seed=0)
    attachment = TimedAttachment(running, recorder, phase_by_length, lambda name: True)
    attachment.clock_seconds = clock_seconds()
    passes: list[float] = []
    with torch.inference_mode(), attachment:
        running(input_ids=torch.randint(3, 4096, (batch, length)))  # allocates what is allocated once
        recorder.cut()
        attachment.seconds = 0.0
        while sum(passes) < seconds or len(passes) < 3:
            ids = torch.randint(3, 4096, (batch, length))
            began = time.thread_time()
            running(input_ids=ids)
            passes.append(time.thread_time() - began)
    assert attachment.failures == 0
    began = time.thread_time()
    recorder._examine()  # passes that wait to be looked at together
    recording = attachment.seconds + time.thread_time() - began
    assert recorder.tokens == len(passes) * batch * length
    fill = np.random.default_rng(0)
    shape = next(iter(recorder.layers.values()))
    keys = fill.random((2048, len(recorder.layers), shape.experts))
    for _ in range(4):
        recorder.record_tokens(np.argsort(keys, axis=2)[:, :, : shape.top_k], phase=Phase.DECODE)
    began = time.thread_time()
    recorder.cut()
    cut = time.thread_time() - began
    plain = sum(passes) - attachment.seconds
    return Row(
        model.name,
        phase,
        batch,
        batch * length,
        float(np.median(passes)) - recording / len(passes),
        recording / len(passes),
        recording / plain,
        cut,
    )


def _table(rows: list[Row]) -> str:
    lines = [
        f"`python -m benchmarks.recorder`: torch {torch.__version__}, transformers "
        f"{transformers.__version__}, {platform.machine()}. Processor time in one thread; where n threads "
        "run the model, the share of its time is up to n times as much. Recording is hooks on every router, "
        "counting, repetition filter and sampling. A window is cut every 10 s, in the agent's thread. "
        f"Load of the machine meanwhile: {os.getloadavg()[0]:.0f} on {os.cpu_count()} processors.",
        "",
        "| model | pass | tokens | pass, ms | recording, ms | share of pass | cutting, ms | share of 10 s |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.model} | {row.phase}, batch {row.batch} | {row.tokens} | {row.pass_seconds * 1e3:.2f} "
        f"| {row.recording_seconds * 1e3:.3f} | {row.share:.2%} | {row.cut_seconds * 1e3:.1f} "
        f"| {row.cut_seconds / WINDOW_SECONDS:.3%} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recorder", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each kind of pass (default 1)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of recorder.json and recorder.md")
    arguments = parser.parse_args()
    rows = [row for model in MODELS for row in measure(model, arguments.seconds)]
    table = _table(rows)
    print(table)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "recorder.md").write_text(table, encoding="utf-8")
    measured = {"cpus": os.cpu_count(), "rows": [asdict(row) for row in rows]}
    (arguments.out / "recorder.json").write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
