"""The shape of tiny-moe."""

LAYERS = 6
EXPERTS = 32
TOP_K = 2
WIDTH = 128
HEADS = 4
INNER = 192
"""Width of an expert's hidden layer."""

CONTEXT_TOKENS = 256
VOCABULARY = 256
"""A token is a byte."""

EXPERT_BYTES = 2 * 2 * WIDTH * INNER
"""Two float16 matrices, 128 x 192 and 192 x 128."""
