"""How one cell of a sweep writes the clean value into the corrupted one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch

from bezel.errors import ArgumentError

# (corrupted value, index, clean value) -> the patched value. The corrupted value is the cell's own.
PatchSetter: TypeAlias = Callable[
    [torch.Tensor, Sequence[int], torch.Tensor], "torch.Tensor | None"
]


def along(*dims: int) -> PatchSetter:
    """A setter for index = [layer, one number for each of these dims].

    Args:
        *dims: Axes of the value, batch being 0. None of them patches the whole value.

    Example:
        >>> patch_position = along(1)  # of [batch pos ...], index = [layer, pos]
        >>> patch_position(torch.zeros(1, 3), [4, 1], torch.ones(1, 3))
        tensor([[0., 1., 0.]])
    """

    def set_patch(
        corrupted: torch.Tensor, index: Sequence[int], clean: torch.Tensor
    ) -> torch.Tensor:
        """Writes the clean value at the index into the corrupted one.

        Example:
            >>> corrupted, clean = torch.zeros(1, 2, 2), torch.ones(1, 2, 2)
            >>> layer_head_pattern_patch_setter(corrupted, [4, 0], clean)
            tensor([[[1., 1.],
                     [0., 0.]]])
        """
        if len(index) != 1 + len(dims):
            raise ArgumentError(f"index is {list(index)}; wanted [layer, {len(dims)} more]")
        if clean.shape[1:] != corrupted.shape[1:]:
            raise ArgumentError(
                f"the clean value is {list(clean.shape)} and the corrupted one "
                f"{list(corrupted.shape)}; the two runs need the same number of positions"
            )
        place: list[int | slice] = [slice(None)] * corrupted.ndim
        for dim, i in zip(dims, index[1:], strict=True):
            place[dim] = i
        corrupted[tuple(place)] = clean[tuple(place)]
        return corrupted

    return set_patch


# TransformerLens's names.
layer_pos_patch_setter = along(1)
layer_pos_head_vector_patch_setter = along(1, 2)
layer_head_vector_patch_setter = along(2)
layer_head_pattern_patch_setter = along(1)
layer_head_pos_pattern_patch_setter = along(1, 2)
layer_head_dest_src_pos_pattern_patch_setter = along(1, 2, 3)
