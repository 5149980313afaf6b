"""A registered model: what its MoE layers consist of."""

from itertools import pairwise
from typing import Annotated, Any, Self

from pydantic import FailFast, Field, field_validator, model_validator

from app.schema import Identifier, InRequests, Layer, Schema, Timestamp

Sha256 = Annotated[str, Field(max_length=64, pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(max_length=256)]
EXPERT_BYTES = InRequests(ge=1, le=2**36)
"""64 GiB: of all experts of a cluster at all its nodes together it fits into int64, nearly."""


class Block(Schema):
    """One MoE layer. All its experts have one size."""

    layer: Annotated[Layer, Field(description="Number of the layer in the model, with dense layers counted.")]
    experts: Annotated[int, Field(ge=1, le=4096)]
    expert_bytes: Annotated[int, Field(ge=1, le=2**40), EXPERT_BYTES]
    top_k: Annotated[int, Field(ge=1, le=64)]
    expert_digests: Annotated[
        list[Sha256] | None,
        FailFast(),
        Field(max_length=4096, description="SHA-256 of each expert's bytes, to verify what is fetched."),
    ] = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.top_k > self.experts:
            raise ValueError(f"top_k is {self.top_k}, more than the layer's {self.experts} experts")
        if self.expert_digests is not None and len(self.expert_digests) != self.experts:
            raise ValueError(f"{len(self.expert_digests)} expert_digests for {self.experts} experts")
        return self


class ModelSpec(Schema):
    """Exactly one of `blocks`, `preset` and `huggingface_config`."""

    blocks: Annotated[list[Block] | None, Field(min_length=1, max_length=256)] = None
    preset: Annotated[str | None, Field(max_length=64, description="Name of a known architecture.")] = None
    huggingface_config: Annotated[
        dict[Name, Any] | None,
        Field(max_length=4096, description="The config.json of a Hugging Face checkpoint."),
    ] = None
    hf_quant_config: Annotated[
        dict[Name, Any] | None,
        Field(
            max_length=4096,
            description="With huggingface_config: the checkpoint's hf_quant_config.json, if it has "
            "one. ModelOpt often says only there how the experts are quantized.",
        ),
    ] = None
    origin_url: Annotated[
        str | None, Field(max_length=2048, description="URL from which experts are fetched.")
    ] = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [
            name for name in ("blocks", "preset", "huggingface_config") if getattr(self, name) is not None
        ]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of blocks, preset, huggingface_config; found {given or 'none'}"
            )
        if self.hf_quant_config is not None and self.huggingface_config is None:
            raise ValueError("hf_quant_config: expected huggingface_config with it")
        return self

    @field_validator("blocks")
    @classmethod
    def _blocks_ascend(cls, blocks: list[Block] | None) -> list[Block] | None:
        for index, (before, block) in enumerate(pairwise(blocks or ()), start=1):
            if block.layer <= before.layer:
                raise ValueError(
                    f"block {index} is layer {block.layer} and comes after layer {before.layer}: "
                    "expected ascending layers, each once"
                )
        return blocks


class ModelRecord(Schema):
    """As stored and as answered: presets and configurations are resolved into blocks."""

    model_id: Identifier
    digest: Annotated[
        str, Field(description="Digest of the blocks. Telemetry statistics start again when it changes.")
    ]
    created_at: Timestamp
    updated_at: Timestamp
    blocks: list[Block]
    source: Annotated[str, Field(description="blocks, preset:NAME or huggingface_config:MODEL_TYPE.")]
    origin_url: str | None


class ModelList(Schema):
    models: Annotated[list[ModelRecord], Field(description="In order of model_id.")]
    next_after: Annotated[Identifier | None, Field(description="`after` of the next page; null: the last.")]
