"""Real routing, cut into the token streams of the nodes of a fleet."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("MOEPLACE_TRACES", str(ROOT.parent / "shared" / "data")))
TINY_MOE = ROOT / "lab" / "tiny_moe" / "traces.npz"


@dataclass(frozen=True, eq=False)
class Trace:
    """Requests of one model, similar ones next to each other: a node serves a run of them.

    requests: one int array [tokens, layers, K] each, the most probable expert first. counts: instead of
    them, where only calls per expert are known, one float array [layers, experts] per domain.
    """

    name: str
    layers: int
    experts: int
    requests: tuple[npt.NDArray[np.uint8], ...] = ()
    counts: tuple[npt.NDArray[np.float64], ...] = ()


def load_traces() -> tuple[list[Trace], list[str]]:
    """The traces at hand, and a line for each that is absent."""
    found: list[Trace] = []
    absent: list[str] = []
    readers = {
        TINY_MOE: _tiny_moe,
        SHARED / "gpt-oss-20b-fingerprint" / "dev_traces.npz": _gpt_oss,
        SHARED / "deepseek-v2-lite-esft" / "dev_traces.npz": _deepseek,
        SHARED / "flame-moe-290m" / "dev_traces.npz": _flame,
        SHARED / "qwen3-30b-a3b-mgsm" / "dev_counts.npz": _qwen,
        SHARED / "olmoe-mixtral-domains" / "dev_counts.npz": _olmoe,
    }
    for path, read in readers.items():
        if path.exists():
            found.append(read(path))
        else:
            absent.append(f"skipped, no traces at {path}")
    return found, absent


def _arrays(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    with np.load(path, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def _runs(ids: npt.NDArray[np.generic], lengths: npt.NDArray[np.generic]) -> list[npt.NDArray[np.uint8]]:
    edges = np.cumsum(lengths.astype(np.int64))[:-1]
    return np.split(ids.astype(np.uint8), edges)


def _tiny_moe(path: Path) -> Trace:
    arrays = _arrays(path)
    requests = [
        window
        for key in sorted(arrays)
        for window in _runs(arrays[key], np.full(len(arrays[key]) // 256, 256))
    ]
    return Trace("tiny-moe", 6, 32, tuple(requests))


def _gpt_oss(path: Path) -> Trace:
    arrays = _arrays(path)
    told = json.loads((path.parent / "dev_trace_meta.json").read_text())
    runs = _runs(arrays["ids"], arrays["lengths"])
    # a request in which the model repeats itself says nothing about routing
    kept = [i for i in range(len(runs)) if not told[i]["repetition"]]
    kept.sort(key=lambda i: (told[i]["dataset"], told[i]["category"], i))
    return Trace("gpt-oss-20b", 24, 32, tuple(runs[i] for i in kept))


def _deepseek(path: Path) -> Trace:
    arrays = _arrays(path)
    requests = [run for task in ("intent", "law") for run in _runs(arrays[task], arrays[f"{task}__seqlen"])]
    return Trace("deepseek-v2-lite", 26, 64, tuple(requests))


def _flame(path: Path) -> Trace:
    ids = _arrays(path)["encoder"]
    return Trace("flame-moe-290m", ids.shape[1], 64, tuple(_runs(ids, np.full(len(ids) // 32, 32))))


def _qwen(path: Path) -> Trace:
    counts = _arrays(path)
    return Trace(
        "qwen3-30b-a3b", 48, 128, counts=tuple(counts[key].astype(np.float64) for key in sorted(counts))
    )


def _olmoe(path: Path) -> Trace:
    counts = _arrays(path)
    domains = ("arxiv", "c4", "tulu")
    return Trace(
        "olmoe-1b-7b",
        3,
        64,
        counts=tuple(counts[f"olmoe|expert_counts|{domain}"].astype(np.float64) for domain in domains),
    )
