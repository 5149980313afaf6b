"""Well-known architectures by name: their published shapes, in the precision they are published in."""

from collections.abc import Mapping

from app.models.architecture import Architecture, Precision

PRESETS: Mapping[str, Architecture] = {
    "dbrx": Architecture(6144, 10752, 16, 4, range(40)),
    "deepseek-r1": Architecture(7168, 2048, 256, 8, range(3, 61), Precision.FLOAT8_BLOCKS),
    "deepseek-v2": Architecture(5120, 1536, 160, 6, range(1, 60)),
    "deepseek-v2-lite": Architecture(2048, 1408, 64, 6, range(1, 27)),
    "deepseek-v3": Architecture(7168, 2048, 256, 8, range(3, 61), Precision.FLOAT8_BLOCKS),
    "gpt-oss-120b": Architecture(2880, 2880, 128, 4, range(36), Precision.MXFP4),
    "gpt-oss-20b": Architecture(2880, 2880, 32, 4, range(24), Precision.MXFP4),
    "granite-3.0-1b-a400m": Architecture(1024, 512, 32, 8, range(24)),
    "granite-3.0-3b-a800m": Architecture(1536, 512, 40, 8, range(32)),
    "kimi-k2": Architecture(7168, 2048, 384, 8, range(1, 61), Precision.FLOAT8_BLOCKS),
    "llama-4-maverick": Architecture(5120, 8192, 128, 1, range(1, 48, 2)),
    "llama-4-scout": Architecture(5120, 8192, 16, 1, range(48)),
    "mixtral-8x22b": Architecture(6144, 16384, 8, 2, range(56)),
    "mixtral-8x7b": Architecture(4096, 14336, 8, 2, range(32)),
    "olmoe-1b-7b": Architecture(2048, 1024, 64, 8, range(16)),
    "phi-3.5-moe": Architecture(4096, 6400, 16, 2, range(32)),
    "qwen1.5-moe-a2.7b": Architecture(2048, 1408, 60, 4, range(24)),
    "qwen2-57b-a14b": Architecture(3584, 2560, 64, 8, range(28)),
    "qwen3-235b-a22b": Architecture(4096, 1536, 128, 8, range(94)),
    "qwen3-30b-a3b": Architecture(2048, 768, 128, 8, range(48)),
    "tiny-moe": Architecture(128, 192, 32, 2, range(6), matrices=2),
}
