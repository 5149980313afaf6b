"""Where in a config.json the numbers of the language model are, and what configurations call them.

The one table of names: the origin, `huggingface_config` and `--model-config` all read through it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moeplace_agent.architecture.faults import ConfigFault

EXPERTS = (
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
    "moe_num_experts",
    "num_routed_experts",
    "num_moe_experts",
)
TOP_K = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_topk",
    "moe_k",
    "moe_top_k",
    "top_k_experts",
    "experts_per_token",
    "num_selected_experts",
    "num_activated_experts",
    "moe_router_topk",
)
LAYERS = ("num_layers", "num_hidden_layers", "n_layers", "n_layer")
"""LongCat has both of the first two: `num_hidden_layers` counts its attentions, two a layer."""
HIDDEN = (
    "moe_latent_size",
    "routed_expert_hidden_size",
    "moe_hidden_size",
    "hidden_size",
    "d_model",
    "n_embd",
)
"""The experts' own width first: Nemotron 3 and Kimi K3 project into a narrower space before them."""
INTERMEDIATE = (
    "moe_intermediate_size",
    "expert_ffn_hidden_size",
    "moe_ffn_hidden_size",
    "expert_intermediate_size",
)
DENSE_INTERMEDIATE = ("intermediate_size", "ffn_hidden_size")
"""The experts' only in families that have no name of their own for it."""

_OTHER_TOWERS = ("vision", "visual", "vit", "image", "video", "audio", "speech", "quantization", "code2wav")
_LESS_LIKELY = ("talker", "draft", "mtp", "decoder", "encoder")
MAX_DEPTH = 6


@dataclass(frozen=True)
class Section:
    """An object of the configuration together with those around it, innermost first."""

    chain: Sequence[tuple[str, Mapping[str, Any]]]

    def place(self, name: str) -> str:
        """Where `name` stands, or where it would."""
        for path, values in self.chain:
            if values.get(name) is not None:
                return path + name
        return self.chain[0][0] + name

    def get(self, name: str) -> Any:
        """The value of `name`, None where it is absent or null."""
        return next((values[name] for _, values in self.chain if values.get(name) is not None), None)

    def first(self, names: Sequence[str]) -> str | None:
        """The first of `names` that has a value. What stands further in counts before what stands around."""
        for _, values in self.chain:
            for name in names:
                if values.get(name) is not None:
                    return name
        return None

    def fault(self, name: str, detail: str, code: str) -> ConfigFault:
        return ConfigFault(self.place(name), detail, code)

    def number(self, name: str, *, low: int = 1, high: int = 1_000_000) -> int:
        """The whole number `name`. Raises `ConfigFault` where it is another thing or out of range."""
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            detail = f"is {value!r:.60}, expected a whole number in {low}..{high}"
            raise self.fault(name, detail, "EXPECTED_INTEGER")
        return value

    def numbers(self, name: str, *, low: int = 0, high: int = 1_000_000) -> list[int]:
        """The list of whole numbers `name`; one number stands for a list of it alone."""
        value = self.get(name)
        entries = value if isinstance(value, list) else [value]
        if not all(
            isinstance(entry, int) and not isinstance(entry, bool) and low <= entry <= high
            for entry in entries
        ):
            detail = f"is {value!r:.60}, expected whole numbers in {low}..{high}"
            raise self.fault(name, detail, "EXPECTED_INTEGERS")
        return entries

    @property
    def model_types(self) -> list[str]:
        """The model types named here and around, innermost first."""
        found = (values.get("model_type") for _, values in self.chain)
        return [value for value in found if isinstance(value, str)]


def find_section(config: Mapping[str, Any]) -> Section:
    """The section that counts experts, wherever it is nested; towers for pictures and sound are passed over.

    The innermost counts, since objects around it may repeat its numbers. Without any: the section of the
    text model, or the whole. Raises `ConfigFault` where two models with experts are described.
    """
    sections = list(_sections(config, "", ()))
    with_experts = [section for section in sections if _has(section, EXPERTS)]
    around = {id(values) for section in with_experts for _, values in section.chain[1:]}
    innermost = [section for section in with_experts if id(section.chain[0][1]) not in around]
    likely = [section for section in innermost if not _unlikely(section)]
    found = likely or innermost
    if len(found) > 1:
        places = " and ".join(section.chain[0][0].rstrip("/") or "the whole" for section in found)
        detail = f"experts are described in {places}, expected one model with experts"
        raise ConfigFault("", detail, "SEVERAL_MODELS")
    if found:
        return found[0]
    with_layers = [section for section in sections if _has(section, LAYERS) and not _unlikely(section)]
    return max(with_layers or sections[:1], key=lambda section: len(section.chain))


def _sections(
    values: Mapping[str, Any], path: str, around: tuple[tuple[str, Mapping[str, Any]], ...]
) -> Iterator[Section]:
    chain = ((path, values), *around)
    yield Section(chain)
    if len(chain) <= MAX_DEPTH:
        for name, value in values.items():
            if isinstance(value, dict) and not any(word in name for word in _OTHER_TOWERS):
                yield from _sections(value, f"{path}{name}/", chain)


def _has(section: Section, names: Sequence[str]) -> bool:
    own = section.chain[0][1]
    return any(own.get(name) not in (None, 0) for name in names)


def _unlikely(section: Section) -> bool:
    return any(word in section.chain[0][0] for word in _LESS_LIKELY)
