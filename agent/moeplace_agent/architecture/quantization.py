"""The bytes of a matrix of an expert, as quantized checkpoints store it.

A matrix has `rows` outputs and `columns` inputs. Checkpoints say how they are quantized in
`quantization_config` of config.json, or, from ModelOpt, in hf_quant_config.json. What is not known exactly
is refused: a wrong size would be counted on for every expert.
"""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from moeplace_agent.architecture.faults import ConfigFault

MatrixBytes = Callable[[int, int], int]
"""(rows, columns) -> bytes of the matrix with everything that belongs to it, a bias excepted."""

_FLOAT32 = 4


def plain(width: int) -> MatrixBytes:
    """Values of `width` bytes."""
    return lambda rows, columns: width * rows * columns


def fp8_blocks(height: int, width: int) -> MatrixBytes:
    """8-bit values with a float32 scale for every block. Where a checkpoint has its scales in bfloat16, it is
    smaller by two bytes for every block."""
    return lambda rows, columns: rows * columns + _FLOAT32 * _up(rows, height) * _up(columns, width)


def fp8_tensor(scales: int) -> MatrixBytes:
    """8-bit values with so many float32 scales for the whole matrix."""
    return lambda rows, columns: rows * columns + _FLOAT32 * scales


def mxfp4() -> MatrixBytes:
    """4-bit values with one byte of scale for every 32 of a row."""
    return lambda rows, columns: rows * (_up(columns, 2) + _up(columns, 32))


def mxfp8() -> MatrixBytes:
    """8-bit values with one byte of scale for every 32 of a row."""
    return lambda rows, columns: rows * (columns + _up(columns, 32))


def nvfp4(group: int, scales: int) -> MatrixBytes:
    """4-bit values, one byte of scale for every `group` of a row, and some float32 scales for the whole."""
    return lambda rows, columns: rows * (_up(columns, 2) + _up(columns, group)) + _FLOAT32 * scales


def _up(number: int, step: int) -> int:
    return -(-number // step)


def read_quantization(
    config: Mapping[str, Any], place: str, dtype_bytes: int | None, *, beside: bool = False
) -> Callable[[int], MatrixBytes | None]:
    """How the experts of each layer are stored, None where they are not quantized: from a
    `quantization_config`, or from the `quantization` of an hf_quant_config.json, found at `place`.

    `dtype_bytes`: of the model's own type, which scales of some methods have. `beside`: the experts lie in
    the layer itself, beside a dense `mlp`. Raises `ConfigFault`.
    """
    reader = _Reader(config, place, dtype_bytes, ("",) if beside else _BLOCKS)
    method = config.get("quant_method")
    if "quant_algo" in config:
        return reader.modelopt()
    readers: Mapping[Any, Callable[[], MatrixBytes]] = {
        "mxfp4": mxfp4,
        "fp8": reader.fp8,
        "gptq": reader.gptq,
        "awq": reader.awq,
        "compressed-tensors": reader.compressed_tensors,
    }
    if method not in readers:
        known = ", ".join((*map(str, readers), "modelopt"))
        raise reader.fault("quant_method", f"is {method!r:.60}, the bytes of an expert are known for {known}")
    stored = readers[method]()
    left_out = reader.left_out("modules_to_not_convert", "ignore", "ignored_layers")
    return lambda layer: None if left_out(layer) else stored


class _Reader:
    def __init__(
        self, config: Mapping[str, Any], place: str, dtype_bytes: int | None, blocks: Sequence[str]
    ) -> None:
        self._blocks = blocks
        self._config = config
        self._place = place
        self._dtype_bytes = dtype_bytes

    def fault(self, name: str, detail: str) -> ConfigFault:
        hint = "; give blocks with expert_bytes instead, or register with moeplace origin --service"
        return ConfigFault(f"{self._place}/{name}", detail + hint, "UNKNOWN_QUANTIZATION")

    def _number(self, name: str, values: Mapping[str, Any], allowed: Sequence[int] = ()) -> int:
        value = values.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or (allowed and value not in allowed):
            wanted = f"one of {', '.join(map(str, allowed))}" if allowed else "a whole number"
            raise self.fault(name, f"is {value!r:.60}, expected {wanted}")
        return value

    def _model_bytes(self) -> int:
        if self._dtype_bytes is None:
            raise self.fault("", "scales have the model's dtype, which is not given")
        return self._dtype_bytes

    # --- methods
    def fp8(self) -> MatrixBytes:
        block = self._config.get("weight_block_size")
        if isinstance(block, list) and len(block) == 2 and all(isinstance(n, int) and n > 0 for n in block):
            return fp8_blocks(*block)
        if block is not None:
            raise self.fault("weight_block_size", f"is {block!r:.60}, expected two numbers")
        return fp8_tensor(2 if self._config.get("activation_scheme") == "static" else 1)

    def gptq(self) -> MatrixBytes:
        bits, group = self._integers()
        if self._config.get("dynamic"):
            raise self.fault("dynamic", "some matrices have other bits than the rest")

        def stored(rows: int, columns: int) -> int:
            groups = 1 if group < 0 else _up(columns, group)
            packed = rows * columns * bits // 8
            zeros = groups * rows * bits // 8
            return packed + zeros + 2 * groups * rows + 4 * columns  # float16 scales, int32 g_idx

        return stored

    def awq(self) -> MatrixBytes:
        bits, group = self._integers()

        def stored(rows: int, columns: int) -> int:
            groups = 1 if group < 0 else _up(columns, group)
            return rows * columns * bits // 8 + groups * rows * bits // 8 + 2 * groups * rows

        return stored

    def _integers(self) -> tuple[int, int]:
        bits = self._number("bits", self._config, (4, 8))
        return bits, self._number("group_size", self._config)

    def compressed_tensors(self) -> MatrixBytes:
        groups = self._config.get("config_groups")
        if not isinstance(groups, dict) or len(groups) != 1:
            raise self.fault("config_groups", "expected one group: the experts' is not known among several")
        (group,) = groups.values()
        weights = group.get("weights") if isinstance(group, dict) else None
        if not isinstance(weights, dict):
            raise self.fault("config_groups", "has no weights")
        form = group.get("format") or self._config.get("format")
        inputs = group.get("input_activations")
        static = isinstance(inputs, dict) and inputs.get("dynamic") is False
        match form:
            case "float-quantized" | "naive-quantized" | "int-quantized":
                self._number("num_bits", weights, (8,))
                return self._eight_bits(weights, static)
            case "pack-quantized":
                return self._packed(weights)
            case "nvfp4-pack-quantized":
                # Weights and inputs have a scale for the whole each.
                return nvfp4(self._number("group_size", weights), 2)
            case "mxfp4-pack-quantized":
                return mxfp4()
        raise self.fault("format", f"is {form!r:.60}, which is not known")

    def _eight_bits(self, weights: Mapping[str, Any], static: bool) -> MatrixBytes:
        width = self._model_bytes()
        more = width if static else 0
        if weights.get("symmetric") is False:
            raise self.fault("config_groups", "has zero points")
        match weights.get("strategy"):
            case "tensor":
                return lambda rows, columns: rows * columns + width + more
            case "channel":
                return lambda rows, columns: rows * columns + width * rows + more
            case "block":
                block = weights.get("block_structure")
                if isinstance(block, list) and len(block) == 2 and all(isinstance(n, int) for n in block):
                    high, wide = block
                    return lambda rows, columns: (
                        rows * columns + width * _up(rows, high) * _up(columns, wide) + more
                    )
        raise self.fault("config_groups", f"has the strategy {weights.get('strategy')!r:.60}")

    def _packed(self, weights: Mapping[str, Any]) -> MatrixBytes:
        bits = self._number("num_bits", weights, (4, 8))
        width = self._model_bytes()
        if weights.get("symmetric") is False or weights.get("actorder"):
            raise self.fault("config_groups", "has zero points or an order of columns")
        group = -1 if weights.get("strategy") == "channel" else self._number("group_size", weights)

        def stored(rows: int, columns: int) -> int:
            groups = 1 if group < 0 else _up(columns, group)
            shape = 16  # two int64
            return 4 * rows * _up(columns * bits, 32) + width * rows * groups + shape

        return stored

    def modelopt(self) -> Callable[[int], MatrixBytes | None]:
        left_out = self.left_out("exclude_modules", "ignore", "modules_to_not_convert")
        algorithm = self._config.get("quant_algo")
        if algorithm == "MIXED_PRECISION":
            return self._mixed(left_out)
        stored = self._algorithm(algorithm, self._config)
        return lambda layer: None if left_out(layer) else stored

    def _algorithm(self, algorithm: Any, values: Mapping[str, Any]) -> MatrixBytes:
        match algorithm:
            case "FP8":
                return fp8_tensor(2)
            case "NVFP4" | "W4A16_NVFP4":
                group = values.get("group_size", 16)
                if not isinstance(group, int) or group < 1:
                    raise self.fault("group_size", f"is {group!r:.60}, expected a whole number")
                return nvfp4(group, 2 if algorithm == "NVFP4" else 1)
            case "MXFP8":
                return mxfp8()
        known = "FP8, NVFP4, W4A16_NVFP4, MXFP8 and MIXED_PRECISION of these"
        raise self.fault("quant_algo", f"is {algorithm!r:.60}, the bytes of an expert are known for {known}")

    def _mixed(self, left_out: Callable[[int], bool]) -> Callable[[int], MatrixBytes | None]:
        """Each module by name, or by the name of what it is in. The experts of a layer must be alike."""
        listed = self._config.get("quantized_layers")
        if not isinstance(listed, dict):
            raise self.fault("quantized_layers", "expected the algorithm of each module")
        found: dict[int, set[tuple[Any, Any]]] = {}
        for name, values in listed.items():
            match = _EXPERTS_OF.search(name)
            if match is not None and isinstance(values, dict) and "mtp" not in name.split("."):
                key = (values.get("quant_algo"), values.get("group_size", 16))
                found.setdefault(int(match[1]), set()).add(key)
        stored: dict[int, MatrixBytes] = {}
        for layer, kinds in found.items():
            if len(kinds) > 1:
                raise self.fault("quantized_layers", f"the experts of layer {layer} differ")
            ((algorithm, group),) = kinds
            stored[layer] = self._algorithm(algorithm, {"group_size": group})
        return lambda layer: None if left_out(layer) else stored.get(layer)

    # --- modules that are left as they are
    def left_out(self, *names: str) -> Callable[[int], bool]:
        """Whether the experts of a layer are named among the modules that are not quantized."""
        patterns = [
            pattern
            for name in names
            for pattern in (self._config.get(name) or ())
            if isinstance(pattern, str) and _may_mean_experts(pattern)
        ]
        return lambda layer: any(
            _matches(pattern, name) for pattern in patterns for name in _names(layer, self._blocks)
        )


_EXPERTS_OF = re.compile(r"(?:^|\.)layers\.(\d+)\.(?:[A-Za-z_]\w*\.)*experts(?:\.|$)")
_PREFIXES = ("model", "model.language_model", "language_model.model", "backbone", "")
_BLOCKS = ("mlp", "block_sparse_moe", "mixer", "feed_forward", "ffn", "moe")
_MATRICES = ("gate_proj", "down_proj", "w1")


def _names(layer: int, blocks: Sequence[str]) -> Iterator[str]:
    """What the experts' matrices of a layer are called, in one way or another."""
    for prefix, block, matrix in itertools.product(_PREFIXES, blocks, _MATRICES):
        yield ".".join(filter(None, (prefix, f"layers.{layer}", block, f"experts.0.{matrix}")))


_MAY_MEAN = re.compile(r"^re:|\*|(?:^|\.)experts(?:\.|$)|layers\.\d+(?:\.(?:" + "|".join(_BLOCKS) + r"))?$")


def _may_mean_experts(pattern: str) -> bool:
    """Most lists name every norm and every router of the model, one by one."""
    return _MAY_MEAN.search(pattern) is not None


def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith("re:"):
        try:
            return re.match(pattern[3:], name) is not None
        except re.error:
            return False
    if "*" in pattern:
        return fnmatch.fnmatchcase(name, pattern)
    return f".{name}.".find(f".{pattern}.") >= 0
