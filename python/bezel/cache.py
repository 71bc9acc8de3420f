"""The values that a run recorded."""

from __future__ import annotations

from bezel.full_decomposition import FullDecomposition


class ActivationCache(FullDecomposition):
    """Values by full name, in the order in which the run computed them.

    `cache["blocks.3.attn.hook_z"]`, or TransformerLens's short forms: `cache["z", 3]`,
    `cache["resid_post", -1]`, `cache["scale", 4, "ln1"]`. Axes are those of `Bridge.hook_points()`,
    without `batch` when `has_batch_dim` is False.

    Its parts: cache_values.py (the container), attribution.py (norms and logits), decomposition.py
    (the stream), head_stacks.py, neuron_stacks.py, full_decomposition.py (its finer parts).

    Attributes:
        model: The Bridge that made the values: decompositions read its weights. None where the
            cache was loaded without one; set it to None to let the model go.
        has_batch_dim: False where the batch axis was removed.
    """
