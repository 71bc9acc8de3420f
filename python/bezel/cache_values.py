"""The container below an ActivationCache: values by name, their batch axis, their origin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import torch

from bezel import _C
from bezel.cache_slice import Cut, SliceInput
from bezel.errors import ArgumentError, UnknownHookError
from bezel.model import Model
from bezel.names import BLOCKS, TABLE, get_act_name

ShortName: TypeAlias = tuple[str, int] | tuple[str, int, str | None]
GRADIENT = "_grad"  # ends the names of gradients
_AXES = {row.name: row.axes for row in TABLE if not row.in_block}
_AXES_IN_BLOCKS = {prefix: {row.name: row.axes for row in rows} for prefix, rows in BLOCKS.items()}
# What tells one model from another in a saved cache; all of them stand in ModelSpec.
SPEC_FIELDS = ("family", "n_layers", "n_heads", "d_model", "d_vocab", "d_ple")


def axes_of(name: str) -> tuple[str, ...] | None:
    """The axis words of a full name or of its gradient; None for a name outside the table."""
    full = name.removesuffix(GRADIENT)
    for prefix, axes in _AXES_IN_BLOCKS.items():
        if full.startswith(prefix):
            return axes.get(full.removeprefix(prefix).partition(".")[2])
    return _AXES.get(full)


def layer_of(name: str) -> int | None:
    """The block of a full name; None for a value of the model."""
    parts = name.split(".", 2)
    is_in_block = len(parts) == 3 and parts[0] == "blocks" and parts[1].isdecimal()
    return int(parts[1]) if is_in_block else None


@dataclass(frozen=True)
class Origin:
    """Which model made the values: its plan in short, and the dtype that it computed in."""

    spec: dict[str, Any]
    dtype: torch.dtype

    @classmethod
    def of(cls, model: Model) -> Origin:
        """The origin of values that this model computes now."""
        return cls({field: getattr(model.cfg, field) for field in SPEC_FIELDS}, model.dtype)


class CachedValues(Mapping[str, torch.Tensor]):
    """Values by full name, in the order in which the run computed them."""

    def __init__(
        self,
        values: _C.ActivationCache | Mapping[str, torch.Tensor],
        model: Model | None,
        has_batch_dim: bool = True,
        *,
        origin: Origin | None = None,
    ) -> None:
        if model is not None and origin is None:
            origin = Origin.of(model)
        if origin is None:
            raise ArgumentError("a cache needs the model that its values are from")
        self.model = model
        self.origin = origin
        self.has_batch_dim = has_batch_dim
        # Always with the batch axis: a view without it is made when a value is asked for.
        self._values = values if isinstance(values, _C.ActivationCache) else self._stored(values)

    @property
    def n_layers(self) -> int:
        """Blocks of the model that the values are from."""
        return int(self.origin.spec["n_layers"])

    def __getitem__(self, name: str | ShortName) -> torch.Tensor:
        """The value of a full or a short name. Raises UnknownHookError when it was not recorded."""
        full = self._full_name(name)
        if not self._values.contains(full):
            raise UnknownHookError(
                f'"{full}" is not among the {len(self)} values of this cache; ask for it in '
                f"names_filter. It has {self._some_names()}"
            )
        value = self._values.at(full)
        return value if self.has_batch_dim or not is_batched(full) else value[0]

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
    ) -> Self:
        """A cache with every value on this device and the floating ones in this dtype.

        Example:
            >>> cache.to(dtype=torch.bfloat16)["z", 3].dtype
            torch.bfloat16
        """
        moved = _C.ActivationCache()
        for name, value in self._values.items():
            moved.put(
                name,
                value.to(device=device, dtype=dtype if value.is_floating_point() else None),
            )
        return self._with(moved, self.has_batch_dim)

    def remove_batch_dim(self) -> Self:
        """A cache without the batch axis. Raises ArgumentError when the batch has several rows.

        Example:
            >>> cache.remove_batch_dim()["z", 3].shape  # [pos head d_head]
            torch.Size([10, 4, 32])
        """
        for name, value in self._values.items():
            if is_batched(name) and value.shape[0] != 1:
                raise ArgumentError(
                    f"remove_batch_dim: the batch has {value.shape[0]} rows; wanted 1"
                )
        # The same values: gradients of a later backward() arrive here too.
        return self._with(self._values, has_batch_dim=False)

    def apply_slice_to_batch_dim(self, batch_slice: SliceInput) -> Self:
        """A cache of some rows of the batch.

        Args:
            batch_slice: An index (the batch axis goes), a slice or its tuple, a list of rows or a
                mask; None keeps all.

        Returns:
            A cache whose values share memory with this one's where the choice is an index or a
            slice. Gradients of a later backward() arrive in this cache alone.

        Raises:
            ArgumentError: When this cache has no batch axis, or the rows do not exist.

        Example:
            >>> cache.apply_slice_to_batch_dim(0)["z", 3].shape  # [pos head d_head]
            torch.Size([10, 4, 32])
        """
        cut = Cut(batch_slice, "batch_slice")
        if not self.has_batch_dim and not cut.keeps_all:
            raise ArgumentError("batch_slice: this cache has no batch axis any more")
        rows = _C.ActivationCache()
        for name, value in self._values.items():
            part = cut.apply(value, 0) if is_batched(name) else value
            rows.put(name, part.unsqueeze(0) if cut.drops_axis and is_batched(name) else part)
        return self._with(rows, self.has_batch_dim and not cut.drops_axis)

    def toggle_autodiff(self, mode: bool = False) -> None:
        """Switches torch's gradients off (or on) for the whole thread: `torch.set_grad_enabled`.

        Example:
            >>> cache.toggle_autodiff(mode=True)
            >>> torch.is_grad_enabled()
            True
        """
        torch.set_grad_enabled(mode)

    def __repr__(self) -> str:
        n_bytes = sum(value.nbytes for value in self.values())
        batch = "" if self.has_batch_dim else ", no batch axis"
        return f"{type(self).__name__}({len(self)} values, {n_bytes / 2**20:.1f} MiB{batch})"

    def _with(self, values: _C.ActivationCache, has_batch_dim: bool) -> Self:
        return type(self)(values, self.model, has_batch_dim, origin=self.origin)

    def _stored(self, values: Mapping[str, torch.Tensor]) -> _C.ActivationCache:
        stored = _C.ActivationCache()
        for name, value in values.items():
            add_axis = not self.has_batch_dim and is_batched(name)
            stored.put(name, value.unsqueeze(0) if add_axis else value)
        return stored

    def _full_name(self, name: str | ShortName) -> str:
        if isinstance(name, str):
            return name if self._values.contains(name) else get_act_name(name)
        short, layer, *layer_type = name
        if not -self.n_layers <= layer < self.n_layers:
            raise ArgumentError(
                f"cache[{short!r}, {layer}]: the model has blocks 0 to {self.n_layers - 1}"
            )
        return get_act_name(short, layer % self.n_layers, *layer_type)

    def _some_names(self) -> str:
        names = list(self)
        shown = ", ".join(f'"{name}"' for name in names[:3])
        return shown + (" …" if len(names) > 3 else "") if names else "none"


def is_batched(name: str) -> bool:
    """True when the first axis of a value is the batch."""
    axes = axes_of(name)
    return axes is None or axes[0] == "batch"
