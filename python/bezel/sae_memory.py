"""Whether what is kept of SAEs fits into memory: said before the run."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

import torch

from bezel import _C
from bezel.errors import CacheTooLargeError, HookNeverFiredError
from bezel.plan import PlannedValue
from bezel.sae_attached import AttachedSae
from bezel.selection import PosSlice, start_stop_step


class How(NamedTuple):
    """How values are kept, as `run_with_cache` is told; None leaves them as they are."""

    device: torch.device | None = None
    dtype: torch.dtype | None = None
    pos_slice: PosSlice | None = None
    gradients: bool = False


def check_fits(
    core: _C.Bridge,
    made: _C.Input,
    attached: Iterable[AttachedSae],
    names: Collection[str],
    how: How,
) -> None:
    """Raises CacheTooLargeError where the values of these names would not fit on the device."""
    n_bytes = {
        value.name: value.n_elements * (how.dtype or value.dtype).itemsize
        for one in attached
        for at in _places(core, made, one, how.pos_slice)
        for value in one.planned(at)
        if value.name in names
    }
    total = sum(n_bytes.values()) * (2 if how.gradients else 1)
    free = _C.free_bytes(how.device or core.device)
    if free is not None and total > free:
        largest = max(n_bytes, key=n_bytes.__getitem__)
        raise CacheTooLargeError(
            f"{len(n_bytes)} values of SAEs would take {total / 2**30:.2f} GiB, and "
            f'{free / 2**30:.2f} GiB are free; the largest is "{largest}" with '
            f"{n_bytes[largest] / 2**30:.2f} GiB. Cheaper: name only what is needed "
            "(names_filter), keep some positions (pos_slice), store bfloat16 (dtype), or keep the "
            "cache on another device (device)"
        )


def _places(
    core: _C.Bridge, made: _C.Input, one: AttachedSae, pos_slice: PosSlice | None
) -> list[PlannedValue]:
    """The value that an SAE takes, as far as it is kept; none where the run does not come to it."""
    request = _C.Request()
    request.record(_C.Selector(one.place))
    if pos_slice is not None:
        request.keep_positions(*start_stop_step(pos_slice))
    try:
        values = core.plan(made, request).values
    except HookNeverFiredError:
        return []
    return [PlannedValue(v.name, tuple(v.shape), v.dtype, v.n_bytes) for v in values]
