"""Which layers have experts, by the rules that configurations have for it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from moeplace_agent.architecture.section import LAYERS, Section

MAX_LAYERS = 256

_DENSE_KINDS = ("dense", "mlp")
KINDS = (
    "mlp_layer_types",
    "layers_block_type",
    "hybrid_override_pattern",
    "moe_layers_enum",
    "pyramid_num_routed",
)
"""The keys that say of each layer what it is."""


def layer_count(section: Section) -> int | None:
    """All layers of the model, those for multi-token prediction not counted; None where it is not said."""
    name = section.first(LAYERS)
    if name is not None:
        return section.number(name, high=MAX_LAYERS)
    for pattern in ("layers_block_type", "hybrid_override_pattern", "mlp_layer_types"):
        value = section.get(pattern)
        if isinstance(value, list | str):
            return len(value)
    return None


def sparse_layers(section: Section, count: int, ignored: Collection[str] = ()) -> list[int]:
    """The layers that have experts, of `count`: those that every rule of the configuration allows but the
    `ignored` ones. Raises `ConfigFault`."""
    chosen = set(range(count))
    for name, rule in RULES.items():
        if name not in ignored and section.get(name) is not None:
            chosen &= set(rule(section, name, count))
    return sorted(chosen)


def _from(section: Section, name: str, count: int) -> Sequence[int]:
    return range(section.number(name, low=0), count)


def _to(section: Section, name: str, count: int) -> Sequence[int]:
    last = section.number(name, low=-1)
    return range(count if last < 0 else min(last + 1, count))


def _last_of(section: Section, name: str, count: int) -> Sequence[int]:
    """The last of every so many layers."""
    step = section.number(name)
    return range(step - 1, count, step)


def _frequency(section: Section, name: str, count: int) -> Sequence[int]:
    """The first of every so many layers, or a one for each layer that has experts."""
    if isinstance(section.get(name), list):
        return [layer for layer, flag in enumerate(_of_each(section, name, count)) if flag]
    return range(0, count, section.number(name))


def _positive(section: Section, name: str, count: int) -> Sequence[int]:
    """How many experts each layer has; none where it is dense."""
    return [layer for layer, experts in enumerate(_of_each(section, name, count)) if experts > 0]


def _of_each(section: Section, name: str, count: int) -> Sequence[int]:
    numbers = section.numbers(name, low=-1)
    _long_enough(section, name, numbers, count)
    return numbers[:count]


def _long_enough(section: Section, name: str, entries: Sequence[object], count: int) -> None:
    """There may be more: for the layers of multi-token prediction."""
    if len(entries) < count:
        detail = f"has {len(entries)} entries, expected one for each of the {count} layers"
        raise section.fault(name, detail, "EXPECTED_LIST")


def _kinds(section: Section, name: str, count: int) -> Sequence[int]:
    kinds = section.get(name)
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        raise section.fault(name, "expected a list of words", "EXPECTED_LIST")
    _long_enough(section, name, kinds, count)
    return [layer for layer, kind in enumerate(kinds[:count]) if kind not in _DENSE_KINDS]


def _block_kinds(section: Section, name: str, count: int) -> Sequence[int]:
    """Nemotron's list names attention, Mamba and experts; other models' only kinds of attention."""
    sparse = _kinds(section, name, count)
    kinds = section.get(name)
    return [layer for layer in sparse if kinds[layer] == "moe"] if "moe" in kinds else range(count)


def _pattern(section: Section, name: str, count: int) -> Sequence[int]:
    """A letter for each layer: M is Mamba, * attention, - a dense network, E one with experts."""
    pattern = section.get(name)
    if not isinstance(pattern, str):
        raise section.fault(name, f"is {pattern!r:.60}, expected letters such as MEM*E", "EXPECTED_TEXT")
    _long_enough(section, name, pattern, count)
    return [layer for layer, letter in enumerate(pattern[:count]) if letter == "E"]


def _listed(section: Section, name: str, count: int) -> Sequence[int]:
    """The layers that have experts, in a list, or in a text with commas."""
    value = section.get(name)
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if not all(part.isdecimal() for part in parts):
            raise section.fault(name, f"is {value!r:.60}, expected layer numbers", "EXPECTED_LIST")
        numbers = [int(part) for part in parts]
    elif isinstance(value, list):
        numbers = section.numbers(name)
    else:
        raise section.fault(name, f"is {value!r:.60}, expected a list of layer numbers", "EXPECTED_LIST")
    return numbers


def _these(section: Section, name: str, count: int) -> Sequence[int]:
    layers = _listed(section, name, count)
    if not layers:
        return range(count)
    if max(layers) >= count or len(set(layers)) != len(layers):
        detail = f"expected different layers in 0..{count - 1}"
        raise section.fault(name, detail, "LAYER_OUT_OF_RANGE")
    return layers


def _enumerated(section: Section, name: str, count: int) -> Sequence[int]:
    """Step's list goes on into the layers of multi-token prediction."""
    return [layer for layer in _listed(section, name, count) if layer < count]


def _all_but(section: Section, name: str, count: int) -> Sequence[int]:
    if not isinstance(section.get(name), list):
        raise section.fault(name, "expected a list of layer numbers", "EXPECTED_LIST")
    return sorted(set(range(count)).difference(_listed(section, name, count)))


def _interleaved(section: Section, name: str, count: int) -> Sequence[int]:
    """Llama 4: the list `moe_layers` counts before the step."""
    return range(count) if section.get("moe_layers") else _last_of(section, name, count)


def _period(section: Section, name: str, count: int) -> Sequence[int]:
    period = section.number(name)
    offset = section.number("expert_layer_offset", low=0) if section.get("expert_layer_offset") else 0
    return range(offset, count, period) if offset < period else []


RULES: Mapping[str, Callable[[Section, str, int], Sequence[int]]] = {
    "decoder_sparse_step": _last_of,
    "dense_mlp_idx": _from,
    "expert_layer_period": _period,
    "first_k_dense_replace": _from,
    "hybrid_override_pattern": _pattern,
    "interleave_moe_layer_step": _interleaved,
    "layers_block_type": _block_kinds,
    "mlp_layer_types": _kinds,
    "mlp_only_layers": _all_but,
    "moe_layer_end_index": _to,
    "moe_layer_freq": _frequency,
    "moe_layer_frequency": _last_of,
    "moe_layer_interval": _last_of,
    "moe_layer_num_skipped": _from,
    "moe_layer_start_index": _from,
    "moe_layers": _these,
    "moe_layers_enum": _enumerated,
    "num_dense_layers": _from,
    "pyramid_num_routed": _positive,
}
"""The keys that say which layers have experts, each with what it means."""
