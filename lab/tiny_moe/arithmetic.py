"""The arithmetic of tiny-moe's layers in float32, as torch defines the operations it was trained with."""

from __future__ import annotations

import numpy as np
from scipy.special import erf

from lab.tiny_moe.weights import Expert, Float32

_EPSILON = np.finfo(np.float32).eps
_SQRT_HALF = np.float32(0.5**0.5)


def rms_norm(values: Float32, weight: Float32) -> Float32:
    """torch.nn.RMSNorm over the last axis."""
    squares = np.add.reduce(values * values, axis=-1, keepdims=True) / np.float32(values.shape[-1])
    normed: Float32 = (values / np.sqrt(squares + _EPSILON) * weight).astype(np.float32, copy=False)
    return normed


def softmax(values: Float32) -> Float32:
    """Over the last axis."""
    powers = np.exp(values - np.maximum.reduce(values, axis=-1, keepdims=True))
    shares: Float32 = (powers / np.add.reduce(powers, axis=-1, keepdims=True)).astype(np.float32, copy=False)
    return shares


def gelu(values: Float32) -> Float32:
    """The exact one, by the error function."""
    result: Float32 = values * np.float32(0.5) * (1 + erf(values * _SQRT_HALF))
    return result


def feed_forward(hidden: Float32, expert: Expert) -> Float32:
    """What the expert makes of one token's hidden state float32[128]. One at a time: the product of a matrix
    with several rows may be summed in another order than with one, and then what a token gets would depend on
    which others were computed with it, and where."""
    result: Float32 = gelu(hidden @ expert.up) @ expert.down
    return result
