"""Keys and values that runs hand to each other."""

from __future__ import annotations

import torch

from bezel import _C
from bezel.model import Model


class KvCache:
    """The keys and values of the tokens run so far, for runs that go on where the last one ended.

    Give the same one to run after run as `kv_cache=`: each run's input is the tokens that are new,
    and so are attention_mask and position_ids. A run that raises leaves it as it was. One run at a
    time, of all blocks, without gradients.

    A frozen cache is read and stays as it is: many runs, of any blocks, go on from one prefix. Its
    rows serve a batch of a multiple of them, in which they repeat as a whole (a, b, a, b).

    Args:
        model: The Bridge that will run. A cache serves that model alone.

    Example:
        >>> tokens = b.to_tokens("As Emma knows , the capital of France is")
        >>> kv_cache = bezel.KvCache(b)
        >>> b(tokens[:, :-1], return_type=None, kv_cache=kv_cache)
        >>> logits = b(tokens[:, -1:], kv_cache=kv_cache)
        >>> kv_cache
        KvCache(n_seen=10)
        >>> kv_cache.freeze()
        >>> b(torch.tensor([[9], [16], [31]]), kv_cache=kv_cache).shape  # three ways on
        torch.Size([3, 1, 209])
    """

    def __init__(self, model: Model) -> None:
        self._core = _C.KvCache(model._core)

    @property
    def n_seen(self) -> int:
        """Tokens that finished runs have left here, padding included."""
        return self._core.n_seen

    @property
    def positions(self) -> torch.Tensor | None:
        """[batch n_seen] int64, -1 at padding; None before the first run."""
        return self._core.positions

    @property
    def frozen(self) -> bool:
        """True while runs leave it as it is."""
        return self._core.frozen

    def freeze(self) -> None:
        """From now on runs read it and leave it as it is.

        Example:
            >>> kv_cache = bezel.KvCache(b)
            >>> kv_cache.freeze()
            >>> kv_cache
            KvCache(n_seen=0, frozen)
        """
        self._core.frozen = True

    def unfreeze(self) -> None:
        """From now on runs leave their tokens here.

        Example:
            >>> kv_cache = bezel.KvCache(b)
            >>> kv_cache.unfreeze()
            >>> kv_cache.frozen
            False
        """
        self._core.frozen = False

    def __len__(self) -> int:
        return self.n_seen

    def __repr__(self) -> str:
        return f"KvCache(n_seen={self.n_seen}{', frozen' if self.frozen else ''})"
