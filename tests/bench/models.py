"""The models of the tables: two sizes with random weights, and the trained miniature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from support.randomise import randomise

NANO = Path(__file__).resolve().parents[1] / "data" / "nano"
_LAYER_TYPES = (["sliding_attention"] * 4 + ["full_attention"]) * 2
TINY = {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 10,
    "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 32, "global_head_dim": 64,
    "sliding_window": 24, "num_kv_shared_layers": 4, "use_double_wide_mlp": True,
    "hidden_size_per_layer_input": 16, "vocab_size": 512, "vocab_size_per_layer_input": 512,
    "final_logit_softcapping": 30.0, "layer_types": _LAYER_TYPES,
}  # fmt: skip
E2B_WIDTH = {
    "hidden_size": 1536, "intermediate_size": 6144, "num_hidden_layers": 10,
    "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256, "global_head_dim": 512,
    "sliding_window": 512, "num_kv_shared_layers": 4, "use_double_wide_mlp": True,
    "hidden_size_per_layer_input": 256, "vocab_size": 32768, "vocab_size_per_layer_input": 32768,
    "final_logit_softcapping": 30.0, "layer_types": _LAYER_TYPES,
}  # fmt: skip


def make_checkpoint(sizes: dict[str, Any], dtype: torch.dtype, folder: Path) -> Path:
    """A checkpoint of these sizes with random weights."""
    torch.manual_seed(0)
    config = transformers.Gemma4TextConfig(**sizes)
    model = transformers.Gemma4ForCausalLM(config).to(dtype).eval()
    randomise(model, seed=0)
    model.save_pretrained(folder)
    return folder


def load_reference(folder: Path, dtype: torch.dtype) -> Any:
    """The same checkpoint in transformers."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="sdpa"
    ).eval()
