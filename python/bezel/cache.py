"""The values that a run recorded."""

from __future__ import annotations

import os
from pathlib import Path

from bezel import _C, cache_file, cache_reader
from bezel.full_decomposition import FullDecomposition
from bezel.model import Model


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

    Example:
        >>> _, cache = b.run_with_cache("As Emma knows , the capital of France is")
        >>> cache["pattern", 3].shape  # [batch head q_pos k_pos]
        torch.Size([1, 4, 10, 10])
    """

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the cache as one HDF5 file, every value bit for bit.

        The layout stands in cache_file.py. The file appears under its name when it is whole; one of
        that name is replaced.

        Args:
            path: Where to: "run.h5".

        Raises:
            StoreError: The file could not be written; nothing is left behind.
            ArgumentError: A value's name or dtype has no place in such a file; or a build without
                the store.

        Example:
            >>> cache.save("run.h5")
        """
        from bezel.dump import want_store

        want_store()
        cache_file.save(Path(path), self._values.items(), self.origin, self.has_batch_dim)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Model | None = None) -> ActivationCache:
        """Reads a saved cache; its values are on the CPU.

        Args:
            path: A file that `save` wrote. It is not trusted: what is not as written is refused.
            model: The model that the values are from, for methods that read its weights.

        Returns:
            A cache equal to the saved one.

        Raises:
            StoreError: The file is cut short, damaged, of another schema or another program's.
            ModelMismatchError: The values cannot be this model's.

        Example:
            >>> cache.save("run.h5")
            >>> again = bezel.ActivationCache.load("run.h5", model=b)
            >>> torch.equal(again["z", 3], cache["z", 3])
            True
        """
        from bezel.dump import want_store

        want_store()
        loaded = cache_reader.load(Path(path))
        if model is not None:
            cache_reader.check_model(Path(path), loaded, model)
        values = _C.ActivationCache()
        for name, value in loaded.values:
            values.put(name, value)
        return cls(values, model, loaded.has_batch_dim, origin=loaded.origin)
