"""The formats by name. A new one is a file of its own and a line here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from moeplace_agent.interop import (
    eplb_triple,
    eplb_weight,
    fastdeploy,
    ktransformers,
    megatron,
    moe_infinity,
    omni,
    sglang_csv,
    sglang_detail,
    sglang_location,
    sglang_models,
    sglang_stat,
    tensorrt_llm_placement,
    tensorrt_llm_stat,
    vllm_ascend,
    vllm_routed_experts,
)
from moeplace_agent.interop.layers import LayerIndex
from moeplace_agent.interop.observations import Observation
from moeplace_agent.interop.placements import FleetPlacement, HeldSets
from moeplace_agent.interop.sglang_models import Unread


@dataclass(frozen=True, slots=True)
class RecordingFormat:
    """What an engine recorded. `ranks`: whether the file says which rank saw what. `index`: how files number
    layers; with `either_index` some do otherwise, and the known MoE layers decide."""

    name: str
    summary: str
    index: LayerIndex
    read: Callable[[Path], Iterator[Observation]]
    ranks: bool = False
    either_index: bool = False

    @property
    def numbering(self) -> str:
        """`model`, `moe` or `either`."""
        return "either" if self.either_index else self.index.value


@dataclass(frozen=True, slots=True)
class PlacementFormat:
    """A placement as an engine reads it. `write` takes the path, the placement and the ranks per node, and
    says in a few words what it wrote and, as `engine`, how the engine is started with it; `read` takes the
    path, the nodes and the ranks per node. `index` is not a choice: the engine reads it so. Both raise
    `InteropError`.

    `drafts`: whether the engine reads rows for draft layers behind the model's. `unread`: why the engine does
    not read the file, or may not, for a model class; None where it does."""

    name: str
    summary: str
    suffix: str
    index: LayerIndex
    write: Callable[[Path, FleetPlacement, int], dict[str, object]]
    read: Callable[[Path, int, int], HeldSets]
    drafts: bool = True
    unread: Callable[[str | None], Unread | None] = lambda _: None


RECORDINGS: Mapping[str, RecordingFormat] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            RecordingFormat(
                "sglang-stat", "SGLang recorder, stat mode (.pt)", LayerIndex.MODEL, sglang_stat.read
            ),
            RecordingFormat(
                "sglang-detail",
                "SGLang recorder, per_pass or per_token mode (.pt per rank)",
                LayerIndex.MODEL,
                sglang_detail.read,
                ranks=True,
            ),
            RecordingFormat(
                "sglang-counts",
                "SGLang --init-expert-location with logical_count (.json)",
                LayerIndex.MODEL,
                sglang_location.read_counts,
            ),
            RecordingFormat(
                "sglang-csv",
                "SGLang recorder (.csv: layer_id,expert_id,count)",
                LayerIndex.MODEL,
                sglang_csv.read,
            ),
            RecordingFormat(
                "vllm-routed-experts",
                "vLLM --enable-return-routed-experts (.npy per request, or .npz)",
                LayerIndex.MODEL,
                vllm_routed_experts.read,
                either_index=True,
            ),
            RecordingFormat(
                "tensorrt-llm-stat",
                "TensorRT-LLM EXPERT_STATISTIC_PATH (directory)",
                LayerIndex.MODEL,
                tensorrt_llm_stat.read,
                ranks=True,
            ),
            RecordingFormat(
                "fastdeploy",
                "FastDeploy /get_per_expert_tokens_stats (.json)",
                LayerIndex.MODEL,
                fastdeploy.read,
                ranks=True,
            ),
            RecordingFormat(
                "megatron",
                "Megatron --moe-routing-trace-path (.jsonl per rank, or directory)",
                LayerIndex.MODEL,
                megatron.read,
                ranks=True,
            ),
            RecordingFormat(
                "moe-infinity",
                "MoE-Infinity trace (.npy)",
                LayerIndex.MODEL,
                moe_infinity.read,
                either_index=True,
            ),
            RecordingFormat(
                "eplb-weight",
                "EPLB weights (.npy, .csv or .pt)",
                LayerIndex.MOE,
                eplb_weight.read,
                either_index=True,
            ),
        )
    }
)

PLACEMENTS: Mapping[str, PlacementFormat] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            PlacementFormat(
                "eplb",
                "EPLB's physical_to_logical_map, logical_to_physical_map and expert_count",
                ".npz",
                LayerIndex.MOE,
                eplb_triple.write,
                eplb_triple.read_map,
            ),
            PlacementFormat(
                "sglang",
                "SGLang --init-expert-location",
                ".json",
                LayerIndex.MODEL,
                sglang_location.write,
                sglang_location.read_map,
                drafts=False,
                unread=sglang_models.unread,
            ),
            PlacementFormat(
                "tensorrt-llm",
                "TensorRT-LLM moe_config.load_balancer",
                ".yaml",
                LayerIndex.MODEL,
                tensorrt_llm_placement.write,
                tensorrt_llm_placement.read_map,
            ),
            PlacementFormat(
                "vllm-ascend",
                "vllm-ascend expert_map_path",
                ".json",
                LayerIndex.MOE,
                vllm_ascend.write,
                vllm_ascend.read_map,
            ),
            PlacementFormat(
                "omni", "OmniPlacement pattern", ".npy", LayerIndex.MOE, omni.write, omni.read_map
            ),
            PlacementFormat(
                "ktransformers",
                "KTransformers GPU experts, a .pt per node",
                "",
                LayerIndex.MODEL,
                ktransformers.write,
                ktransformers.read_map,
                drafts=False,
            ),
        )
    }
)
