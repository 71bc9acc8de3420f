"""How many cells fit into one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bezel import _C

if TYPE_CHECKING:
    from bezel.bridge import Bridge

_SHARE = 4  # a sweep takes a quarter of what is free
_WHERE_NOBODY_SAYS = 2**30


def cells_at_once(bridge: Bridge, shape: tuple[int, int], bytes_at_hand: int | None) -> int:
    """Cells [batch pos] that one run may hold; at least 1.

    A cell is counted as every value of the largest block, the logits twice and the values that it
    begins with: what a run holds at a time, or more. What the runs cut from the clean cache and
    the weights take is not counted.

    Args:
        bridge: The model.
        shape: (batch, pos) of a cell.
        bytes_at_hand: For all cells of a run together; None takes a quarter of what is free.
    """
    blocks: dict[str, int] = {}
    others = 0
    for value in bridge.plan(shape).values:
        if value.name.startswith("blocks."):
            block = value.name.split(".")[1]
            blocks[block] = blocks.get(block, 0) + value.n_bytes
        else:
            others += value.n_bytes
    if bytes_at_hand is None:
        free = _C.free_bytes(bridge.device)
        bytes_at_hand = (_WHERE_NOBODY_SAYS if free is None else free) // _SHARE
    return max(1, bytes_at_hand // (max(blocks.values()) + others))
