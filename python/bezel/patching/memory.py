"""How many cells fit into one batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from bezel import _C

if TYPE_CHECKING:
    from bezel.patching.corrupted import CorruptedRun

_SHARE = 4  # a sweep takes a quarter of what is free
_WHERE_NOBODY_SAYS = 2**30
_COPIES_OF_A_PATCH = 3  # the setter's, the batch's, and what comes of it


def cells_at_once(run: CorruptedRun, names: Iterable[str], bytes_at_hand: int | None) -> int:
    """Cells that one run may hold; at least 1.

    A cell is counted as every value of the largest block, the values outside of blocks and three
    times the largest patch: what a run holds at a time, or more. What the runs cut from the clean
    cache and the weights take is not counted.

    Args:
        run: What every cell is a run of.
        names: The values that are patched.
        bytes_at_hand: For all cells of a run together; None takes a quarter of what is free.
    """
    blocks: dict[str, int] = {}
    others = 0
    for name, n_bytes in run.bytes_by_name("*").items():
        if name.startswith("blocks."):
            block = name.split(".")[1]
            blocks[block] = blocks.get(block, 0) + n_bytes
        else:
            others += n_bytes
    patch = max(run.bytes_by_name(*names).values(), default=0)
    if bytes_at_hand is None:
        free = _C.free_bytes(run.device)
        bytes_at_hand = (_WHERE_NOBODY_SAYS if free is None else free) // _SHARE
    return max(1, bytes_at_hand // (max(blocks.values()) + others + _COPIES_OF_A_PATCH * patch))
