"""Models of real architectures, three layers of 8 experts small, with random weights."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import transformers

# What configurations call these things; each takes those it knows.
_SMALL: dict[str, Any] = {
    "attn_implementation": "eager",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "first_k_dense_replace": 1,
    "head_dim": 8,
    "hidden_size": 32,
    "intermediate_size": 16,
    "intermediate_size_mlp": 16,
    "kv_lora_rank": 8,
    "max_position_embeddings": 64,
    "moe_intermediate_size": 16,
    "moe_k": 2,
    "moe_num_experts": 8,
    "n_group": 4,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_attention_heads": 4,
    "num_dense_layers": 1,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "num_local_experts": 8,
    "pad_token_id": 0,
    "q_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "shared_expert_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "topk_group": 2,
    "v_head_dim": 8,
    "vocab_size": 64,
}

VOCABULARY = 64
EXPERTS = 8


def tiny(model_type: str, **settings: Any) -> Any:
    """A model for text; routers get weights and biases large enough to choose by, and gather in groups."""
    kind = type(transformers.AutoConfig.for_model(model_type))
    known = set(inspect.signature(kind.__init__).parameters) | set(getattr(kind, "attribute_map", {}))
    known |= set(getattr(kind, "__dataclass_fields__", {}))
    torch.manual_seed(7)
    config = kind(**{name: value for name, value in _SMALL.items() if name in known} | settings)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith(".tid2eid"):  # DeepSeek-V4: experts by token id
                experts = torch.rand(len(tensor), EXPERTS).argsort(dim=1)
                tensor.copy_(experts[:, : tensor.shape[1]])
            elif ".gate." in name or ".router." in name:
                tensor.normal_()
            if name.endswith("correction_bias"):
                tensor.mul_(0.3)
    return model


def text(batch: int, length: int, seed: int = 0) -> Any:
    """Token ids int64[batch, length] without special ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (batch, length), generator=generator)
