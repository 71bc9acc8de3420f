"""Recipes whose towers are looked into: one for each kind of sight and hearing.

Small softcaps, clip bounds and windows, so that each of them is felt; epsilons that one can see,
so that the norms which take another one stand out.
"""

from __future__ import annotations

from support.recipe import Recipe

_PER_LAYER = {
    "hidden_size": 48, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 1,
    "head_dim": 8, "global_head_dim": 16, "sliding_window": 5, "num_kv_shared_layers": 2,
    "use_double_wide_mlp": True, "hidden_size_per_layer_input": 12, "final_logit_softcapping": 4.0,
}  # fmt: skip
_EXPERTS = {
    "hidden_size": 40, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "global_head_dim": 16, "num_global_key_value_heads": 1, "sliding_window": 6,
    "attention_k_eq_v": True, "use_bidirectional_attention": "vision", "enable_moe_block": True,
    "num_experts": 8, "top_k_experts": 3, "moe_intermediate_size": 12,
    "hidden_size_per_layer_input": 0, "final_logit_softcapping": 30.0,
}  # fmt: skip
_ENCODER_FREE = {
    "hidden_size": 32, "intermediate_size": 56, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "global_head_dim": 32, "num_global_key_value_heads": 1, "sliding_window": 8,
    "attention_k_eq_v": True, "use_bidirectional_attention": "vision",
    "hidden_size_per_layer_input": 0, "final_logit_softcapping": 3.0,
}  # fmt: skip

# Heads x head_dim is not the hidden size, and fewer key/value heads than heads.
_CLIPPED_VISION = {
    "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "patch_size": 4, "pooling_kernel_size": 3,
    "position_embedding_size": 24, "use_clipped_linears": True, "standardize": False,
    "rope_parameters": {"rope_type": "axial", "rope_theta": 40.0},
}  # fmt: skip
_STANDARDISED_VISION = {
    "hidden_size": 36, "intermediate_size": 28, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 4, "head_dim": 12, "patch_size": 2, "pooling_kernel_size": 2,
    "position_embedding_size": 26, "use_clipped_linears": False, "standardize": True,
    "rms_norm_eps": 1e-3,
}  # fmt: skip
# Only some norms of the audio tower take rms_norm_eps; the others keep 1e-6.
_AUDIO = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "subsampling_conv_channels": [16, 6], "conv_kernel_size": 4, "residual_weight": 0.5,
    "attention_chunk_size": 4, "attention_context_left": 5, "attention_context_right": 0,
    "attention_logit_cap": 1.5, "use_clipped_linears": True, "gradient_clipping": 1.75,
    "output_proj_dims": 20, "rms_norm_eps": 1e-3,
}  # fmt: skip

MEDIA_RECIPES: dict[str, Recipe] = {
    "sight_e2b": Recipe("ssfsf", _PER_LAYER, wrapper="gemma4", seed=21, vision=_CLIPPED_VISION),
    "sight_moe": Recipe("sfsf", _EXPERTS, wrapper="gemma4", seed=22, vision=_STANDARDISED_VISION),
    "sound": Recipe("ssfsf", _PER_LAYER | {"sliding_window": 4}, wrapper="gemma4_audio", seed=23,
        vision=_CLIPPED_VISION | {"num_key_value_heads": 4, "position_embedding_size": 25},
        audio=_AUDIO),
    "unified_media": Recipe("sfsf", _ENCODER_FREE, wrapper="unified", seed=24,
        vision={"patch_size": 2, "pooling_kernel_size": 3, "mm_embed_dim": 20,
            "mm_posemb_size": 24, "output_proj_dims": 20, "rms_norm_eps": 1e-3},
        audio={"audio_embed_dim": 24, "rms_norm_eps": 1e-2}),
}  # fmt: skip
