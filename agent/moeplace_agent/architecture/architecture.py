"""The layers with experts that a config.json describes, and the bytes of one expert of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moeplace_agent.architecture.families import FAMILIES, Family
from moeplace_agent.architecture.faults import ConfigFault
from moeplace_agent.architecture.layers import KINDS, layer_count, sparse_layers
from moeplace_agent.architecture.quantization import MatrixBytes, mxfp4, plain, read_quantization
from moeplace_agent.architecture.section import EXPERTS, HIDDEN, TOP_K, Section, find_section

OTHERWISE = (
    "moeplace origin --service registers any model whose experts lie in a checkpoint, and blocks describe "
    "any model by layer, experts, expert_bytes and top_k"
)

_DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "half": 2, "float32": 4, "float": 4}
_BIASES = ("mlp_bias", "use_mlp_bias", "add_bias_linear", "moe_bias")
_BFLOAT16 = 2
MAX_EXPERTS = 4096


@dataclass(frozen=True, slots=True)
class MoeLayer:
    """One layer with experts, each of which has `expert_bytes`."""

    layer: int
    experts: int
    top_k: int
    expert_bytes: int


def expert_bytes(hidden: int, intermediate: int, matrices: int, stored: MatrixBytes, bias_width: int) -> int:
    """Of a feed-forward network between `hidden` and `intermediate` values: `matrices` - 1 matrices lead into
    it and one out of it. `bias_width`: bytes of a bias's value, 0 where there are no biases."""
    into = matrices - 1
    biases = bias_width * (into * intermediate + hidden)
    return into * stored(intermediate, hidden) + stored(hidden, intermediate) + biases


class Configuration:
    """A config.json whose numbers are read as they are asked for; each may raise `ConfigFault`."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        section = find_section(config)
        self._family: Family | None = None
        self.model_type = next(iter(section.model_types), "")
        for name in section.model_types:
            if name in FAMILIES:
                self.model_type, self._family = name, FAMILIES[name]
                break
        self._assumed: Mapping[str, Any] = {}
        if self._family is not None and not _says_kinds(section):
            defaults = self._family.defaults
            self._assumed = {name: value for name, value in defaults.items() if section.get(name) is None}
        # What is assumed stands furthest out: everything given counts before it.
        self._section = Section([*section.chain, ("", self._assumed)])

    # --- numbers
    def layer_count(self) -> int | None:
        """All layers of the model without those for multi-token prediction; None where it is not given."""
        return layer_count(self._section)

    def expert_counts(self) -> Mapping[str, list[int]]:
        """Every key that counts experts: its number, or one for each layer."""
        names = [name for name in (*EXPERTS, "pyramid_num_routed") if self._section.get(name) is not None]
        return {name: self._section.numbers(name, low=-1, high=MAX_EXPERTS) for name in names}

    def kinds(self) -> int:
        """How many kinds of experts a layer has, numbered one after another: ERNIE-4.5-VL has some for text
        and some for pictures, each with an inner width."""
        widths = self._section.get("moe_intermediate_size")
        count = self.layer_count() or 0
        return len(widths) if isinstance(widths, list) and 1 < len(widths) < count else 1

    def zero_experts(self) -> int:
        """Experts that give back what they get: LongCat counts them behind the others. They hold nothing,
        but transformers saves some of their matrices."""
        name = "zero_expert_num"
        return 0 if self._section.get(name) is None else self._section.number(name, low=0, high=MAX_EXPERTS)

    def top_k(self) -> tuple[str, list[int]] | None:
        """The key and its number, or one for each layer; None where it is not given."""
        name = self._section.first(TOP_K)
        return None if name is None else (name, self._section.numbers(name, low=1, high=MAX_EXPERTS))

    def given_layers(self) -> list[int] | None:
        """The layers with experts where the configuration itself leaves no doubt; else None."""
        count = self.layer_count()
        if self._family is None or count is None or self._assumed or self._missing_rule() is not None:
            return None
        return sparse_layers(self._section, count, self._family.ignored)

    # --- the whole
    def moe_layers(self) -> list[int]:
        """The layers with experts. What is not given is assumed as transformers does."""
        if self._family is None:
            raise self._unknown()
        if self._family.switch is not None and self._section.get(self._family.switch) is not True:
            raise self._section.fault(
                self._family.switch, "is not true: there are no experts", "NO_MOE_LAYER"
            )
        missing = self._missing_rule()
        if missing is not None:
            raise ConfigFault(
                "", f"expected {missing}: which layers have experts is not said", "NO_MOE_LAYER"
            )
        count = self.layer_count()
        if count is None:
            raise self._section.fault("num_hidden_layers", "is missing", "EXPECTED_INTEGER")
        layers = sparse_layers(self._section, count, self._family.ignored)
        if not layers:
            assumed = "".join(
                f"; {name} is not given, {value} is assumed" for name, value in self._assumed.items()
            )
            raise ConfigFault("", f"describes no MoE layer among {count}{assumed}", "NO_MOE_LAYER")
        return layers

    def architecture(self, quantization: Mapping[str, Any] | None = None) -> list[MoeLayer]:
        """Every layer with experts. `quantization`: the checkpoint's hf_quant_config.json, where it has
        one."""
        layers = self.moe_layers()
        if self.kinds() > 1:
            detail = "has several widths: a layer has several kinds of experts"
            raise self._section.fault("moe_intermediate_size", detail, "SEVERAL_KINDS")
        counts = self.expert_counts()
        if not counts:
            raise self._section.fault(
                EXPERTS[0], f"is missing, expected one of {', '.join(EXPERTS)}", "MISSING"
            )
        experts = [self.by_layer(name, numbers, layers) for name, numbers in counts.items()]
        for name, other in zip(list(counts)[1:], experts[1:], strict=True):
            if other != experts[0]:
                detail = f"is {counts[name]}, {next(iter(counts))} is {next(iter(counts.values()))}"
                raise self._section.fault(name, detail, "CONTRADICTION")
        chosen = self.top_k()
        if chosen is None:
            raise self._section.fault(TOP_K[0], f"is missing, expected one of {', '.join(TOP_K)}", "MISSING")
        top_k = self.by_layer(*chosen, layers)
        found = []
        for layer, count, k, size in zip(
            layers, experts[0], top_k, self._sizes(layers, quantization), strict=True
        ):
            if count < 1:
                raise self._section.fault(next(iter(counts)), f"is {count} for layer {layer}", "NO_EXPERTS")
            if k > count:
                detail = f"{k} experts per token of {count} in layer {layer}"
                raise self._section.fault(chosen[0], detail, "TOP_K_TOO_LARGE")
            found.append(MoeLayer(layer, count, k, size))
        return found

    def by_layer(self, name: str, numbers: Sequence[int], layers: Sequence[int]) -> list[int]:
        """One number for each of `layers`. A list has one for all, for every layer of the model, or for every
        one of `layers`."""
        if len(numbers) == 1:
            return [numbers[0]] * len(layers)
        if len(numbers) == len(layers):
            return list(numbers)
        if layers and len(numbers) > max(layers) and len(numbers) >= (self.layer_count() or 0):
            return [numbers[layer] for layer in layers]
        detail = f"has {len(numbers)} entries, expected one for each layer of {len(layers)}"
        raise self._section.fault(name, detail, "EXPECTED_LIST")

    # --- bytes
    def _sizes(self, layers: Sequence[int], quantization: Mapping[str, Any] | None) -> list[int]:
        assert self._family is not None
        name = self._section.first(HIDDEN)
        if name is None:
            raise self._section.fault("hidden_size", "is missing", "EXPECTED_INTEGER")
        hidden = self._section.number(name)
        width = next((w for w in self._family.intermediate if self._section.get(w) is not None), None)
        if width is None:
            wanted = self._family.intermediate
            raise self._section.fault(
                wanted[0], f"is missing, expected one of {', '.join(wanted)}", "MISSING"
            )
        inner = self.by_layer(width, self._section.numbers(width, low=1), layers)
        for bias in _BIASES:
            if self._section.get(bias) is True:
                raise self._section.fault(
                    bias, "is true: the experts' biases are not known", "UNKNOWN_BIASES"
                )
        stored = self._stored(quantization)
        bias_width = (self._dtype_bytes() or _BFLOAT16) if self._family.biases else 0
        return [
            expert_bytes(hidden, intermediate, self._family.matrices, stored(layer), bias_width)
            for layer, intermediate in zip(layers, inner, strict=True)
        ]

    def _stored(self, beside: Mapping[str, Any] | None) -> Callable[[int], MatrixBytes]:
        """How the matrices of each layer's experts are stored."""
        place, found = self._quantization(beside)
        special = self._section.get("expert_dtype")
        if special is not None and "quant_algo" not in found:
            if special == "fp4":
                return lambda layer: mxfp4()
            if special not in (*_DTYPE_BYTES, "fp8"):
                raise self._section.fault("expert_dtype", f"is {special!r:.60}", "UNKNOWN_DTYPE")
        if not found:
            unquantized = self._plain()
            return lambda layer: unquantized
        assert self._family is not None
        of = read_quantization(found, place, self._dtype_bytes(), beside=self._family.beside)
        return lambda layer: of(layer) or self._plain()

    def _quantization(self, beside: Mapping[str, Any] | None) -> tuple[str, Mapping[str, Any]]:
        """Where it is described, and how; empty where there is none."""
        if beside is not None:
            place, found = "hf_quant_config/quantization", beside.get("quantization", beside)
        else:
            name = self._section.first(("quantization_config", "quantization"))
            if name is None:
                return "", {}
            place, found = self._section.place(name), self._section.get(name)
        if not isinstance(found, dict):
            raise ConfigFault(place, "expected an object", "EXPECTED_OBJECT")
        return place, found

    def _plain(self) -> MatrixBytes:
        width = self._dtype_bytes()
        if width is None:
            detail = f"expected one of {', '.join(_DTYPE_BYTES)}; the bytes of an expert depend on it"
            raise self._section.fault("torch_dtype", detail, "UNKNOWN_DTYPE")
        return plain(width)

    def _dtype_bytes(self) -> int | None:
        found = (self._section.get(name) for name in ("dtype", "torch_dtype"))
        named = (value.removeprefix("torch.") for value in found if isinstance(value, str))
        return next((_DTYPE_BYTES[value] for value in named if value in _DTYPE_BYTES), None)

    def _missing_rule(self) -> str | None:
        asks = () if self._family is None else self._family.asks
        if not asks or any(self._section.get(name) is not None for name in asks):
            return None
        return " or ".join(asks)

    def _unknown(self) -> ConfigFault:
        known = ", ".join(sorted(FAMILIES, key=str.lower))
        detail = f"is {self.model_type!r:.60}, which is not known. {OTHERWISE}. Known are {known}"
        return ConfigFault("model_type", detail, "UNKNOWN_MODEL_TYPE")


def _says_kinds(section: Section) -> bool:
    """Whether there is a list of what each layer is: then no rule is assumed beside it."""
    return section.first(KINDS) is not None
