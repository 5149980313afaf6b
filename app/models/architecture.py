"""The shape of a Mixture-of-Experts architecture, and the bytes of one of its experts."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from app.models.schemas import Block


class Precision(Enum):
    """How the experts' weights are stored."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    """As bfloat16: two bytes."""
    FLOAT8_BLOCKS = "float8 with a float32 scale per block of 128 x 128"
    MXFP4 = "MXFP4: 4 bits, and one byte of scale per 32 values; biases in bfloat16"


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
        values = self.matrices * self.hidden * self.intermediate
        match self.precision:
            case Precision.FLOAT32:
                return 4 * values
            case Precision.FLOAT16:
                return 2 * values
            case Precision.FLOAT8_BLOCKS:
                # Each matrix has a grid of scales; all are hidden x intermediate, or its transpose.
                scales = self.matrices * -(-self.hidden // 128) * -(-self.intermediate // 128)
                return values + 4 * scales
            case Precision.MXFP4:
                biases = (self.matrices - 1) * self.intermediate + self.hidden
                return values // 2 + values // 32 + 2 * biases

    def blocks(self) -> list[Block]:
        return [
            Block(layer=layer, experts=self.experts, expert_bytes=self.expert_bytes, top_k=self.top_k)
            for layer in self.layers
        ]
