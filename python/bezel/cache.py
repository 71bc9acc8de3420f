"""The values that a run recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from bezel import _C
from bezel.errors import ArgumentError, UnknownHookError
from bezel.names import get_act_name

ShortName = tuple[str, int] | tuple[str, int, str]


class ActivationCache(Mapping[str, torch.Tensor]):
    """Values by full name, in the order in which the run computed them.

    `cache["blocks.3.attn.hook_z"]`, or TransformerLens's short forms: `cache["z", 3]`,
    `cache["resid_post", -1]`, `cache["scale", 4, "ln1"]`. Axes are those of `Bridge.hook_points()`,
    without `batch` when `has_batch_dim` is False.
    """

    def __init__(
        self, values: _C.ActivationCache, n_layers: int, has_batch_dim: bool = True
    ) -> None:
        self._values = values
        self._n_layers = n_layers
        self.has_batch_dim = has_batch_dim

    def __getitem__(self, name: str | ShortName) -> torch.Tensor:
        """The value of a full or a short name. Raises UnknownHookError when it was not recorded."""
        full = self._full_name(name)
        if not self._values.contains(full):
            raise UnknownHookError(
                f'"{full}" is not among the {len(self)} values of this cache; ask for it in '
                f"names_filter. It has {self._some_names()}"
            )
        value = self._values.at(full)
        return value if self.has_batch_dim else value[0]

    def __contains__(self, name: object) -> bool:
        if isinstance(name, str | tuple):
            return self._values.contains(self._full_name(name))
        return False

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, _ in self._values.items()])

    def __len__(self) -> int:
        return len(self._values)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> ActivationCache:
        """A cache with every value on this device and the floating ones in this dtype."""
        moved = _C.ActivationCache()
        for name, value in self._values.items():
            moved.put(
                name,
                value.to(device=device, dtype=dtype if value.is_floating_point() else None),
            )
        return ActivationCache(moved, self._n_layers, self.has_batch_dim)

    def remove_batch_dim(self) -> ActivationCache:
        """A cache without the batch axis. Raises ArgumentError when the batch has several rows."""
        for _, value in self._values.items():
            if value.shape[0] != 1:
                raise ArgumentError(
                    f"remove_batch_dim: the batch has {value.shape[0]} rows; wanted 1"
                )
        # The same values: gradients of a later backward() arrive here too.
        return ActivationCache(self._values, self._n_layers, has_batch_dim=False)

    def __repr__(self) -> str:
        n_bytes = sum(value.nbytes for value in self.values())
        batch = "" if self.has_batch_dim else ", no batch axis"
        return f"ActivationCache({len(self)} values, {n_bytes / 2**20:.1f} MiB{batch})"

    def _full_name(self, name: str | ShortName) -> str:
        if isinstance(name, str):
            return get_act_name(name)
        short, layer, *layer_type = name
        if not -self._n_layers <= layer < self._n_layers:
            raise ArgumentError(
                f"cache[{short!r}, {layer}]: the model has blocks 0 to {self._n_layers - 1}"
            )
        return get_act_name(short, layer % self._n_layers, *layer_type)

    def _some_names(self) -> str:
        names = list(self)
        shown = ", ".join(f'"{name}"' for name in names[:3])
        return shown + (" …" if len(names) > 3 else "") if names else "none"
