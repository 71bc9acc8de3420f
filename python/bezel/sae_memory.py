"""Whether what is kept of SAEs fits into memory: said before the run."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

import torch

from bezel import _C
from bezel.errors import CacheTooLargeError, HookNeverFiredError
from bezel.plan import PlannedValue
from bezel.sae_attached import AttachedSae
from bezel.sae_hooks import RunOfInput
from bezel.selection import PosSlice, start_stop_step


class How(NamedTuple):
    """How values are kept, as `run_with_cache` is told; None leaves them as they are."""

    device: torch.device | None = None
    dtype: torch.dtype | None = None
    pos_slice: PosSlice | None = None
    gradients: bool = False


def check_fits(
    run: RunOfInput,
    beside: _C.Request | None,
    attached: Iterable[AttachedSae],
    names: Collection[str],
    how: How,
) -> None:
    """Raises CacheTooLargeError where what a run keeps would not fit on the device.

    Args:
        run: The run.
        beside: What it keeps of the model; None where that is nothing.
        attached: Its SAEs.
        names: Values of SAEs that it keeps.
        how: How.
    """
    n_bytes = {
        value.name: value.n_elements * (how.dtype or value.dtype).itemsize
        for one in attached
        for at in _places(run, one, how.pos_slice)
        for value in one.planned(at)
        if value.name in names
    }
    of_saes = sum(n_bytes.values()) * (2 if how.gradients else 1)
    of_model = None if beside is None else run.core.plan(run.made, beside)
    total = of_saes + (0 if of_model is None else of_model.cache_bytes)
    free = _C.free_bytes(how.device or run.core.device)
    if free is not None and total > free:
        n_bytes |= {} if of_model is None else {v.name: v.n_bytes for v in of_model.values}
        largest = max(n_bytes, key=n_bytes.__getitem__)
        raise CacheTooLargeError(
            f"the cache would take {total / 2**30:.2f} GiB for {len(n_bytes)} values, "
            f"{of_saes / 2**30:.2f} GiB of it inside SAEs, and {free / 2**30:.2f} GiB are free; "
            f'the largest is "{largest}" with {n_bytes[largest] / 2**30:.2f} GiB. Cheaper: name '
            "only what is needed (names_filter), keep some positions (pos_slice), store bfloat16 "
            "(dtype), or keep the cache on another device (device)"
        )


def _places(run: RunOfInput, one: AttachedSae, pos_slice: PosSlice | None) -> list[PlannedValue]:
    """The value that an SAE takes, as far as it is kept; none where the run does not come to it."""
    request = _C.Request()
    request.record(_C.Selector(one.place))
    if pos_slice is not None:
        request.keep_positions(*start_stop_step(pos_slice))
    try:
        values = run.core.plan(run.made, request).values
    except HookNeverFiredError:
        return []
    return [PlannedValue(v.name, tuple(v.shape), v.dtype, v.n_bytes) for v in values]
