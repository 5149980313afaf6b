"""The shape of a Mixture-of-Experts architecture whose layers are alike, and the bytes of an expert."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from app.models.schemas import Block
from moeplace_agent.architecture.architecture import expert_bytes
from moeplace_agent.architecture.quantization import fp8_blocks, mxfp4, plain


class Precision(Enum):
    """How the experts' weights are stored."""

    FLOAT16 = "float16"
    """As bfloat16: two bytes."""
    FLOAT8_BLOCKS = "float8 with a float32 scale per block of 128 x 128"
    MXFP4 = "MXFP4: 4 bits, and one byte of scale per 32 values; biases in bfloat16"


_STORED = {
    Precision.FLOAT16: plain(2),
    Precision.FLOAT8_BLOCKS: fp8_blocks(128, 128),
    Precision.MXFP4: mxfp4(),
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """Experts are feed-forward networks between `hidden` and `intermediate` values, of three matrices where
    they are gated (gate, up, down), else of two."""

    hidden: int
    intermediate: int
    experts: int
    top_k: int
    layers: Sequence[int]
    precision: Precision = Precision.FLOAT16
    matrices: int = 3

    @property
    def expert_bytes(self) -> int:
        bias_width = 2 if self.precision is Precision.MXFP4 else 0
        stored = _STORED[self.precision]
        return expert_bytes(self.hidden, self.intermediate, self.matrices, stored, bias_width)

    def blocks(self) -> list[Block]:
        return [
            Block(layer=layer, experts=self.experts, expert_bytes=self.expert_bytes, top_k=self.top_k)
            for layer in self.layers
        ]
