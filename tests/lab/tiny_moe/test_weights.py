"""The bundled weights against those they were made of."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality.traces import SHARED
from lab.tiny_moe.pack import pack
from lab.tiny_moe.shape import EXPERT_BYTES, EXPERTS, LAYERS
from lab.tiny_moe.weights import tensors

TRAINED = SHARED / "tiny-moe" / "model.safetensors"


def test_every_expert_is_there_and_as_large_as_said() -> None:
    """192 experts of two float16 matrices."""
    named = tensors()
    for layer in range(LAYERS):
        for number in range(EXPERTS):
            own = [named[f"layers.{layer}.experts.{number}.{part}"] for part in ("w1", "w2")]
            assert sum(matrix.nbytes for matrix in own) == EXPERT_BYTES


@pytest.mark.skipif(not TRAINED.exists(), reason=f"{TRAINED} is not there")
def test_packing_the_trained_weights_gives_those_bundled(tmp_path: Path) -> None:
    """Every array of weights.npz is what `pack` makes of the model as it was trained."""
    pack(TRAINED, tmp_path / "weights.npz")
    bundled = Path(__file__).parents[3] / "lab" / "tiny_moe" / "weights.npz"
    with np.load(tmp_path / "weights.npz") as made, np.load(bundled) as ours:
        assert set(made.files) == set(ours.files)
        for name in made.files:
            assert np.array_equal(made[name], ours[name]), name
