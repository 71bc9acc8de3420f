"""Every form in which a user may choose values and positions → what the core takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeAlias, cast

from bezel import _C
from bezel.errors import ArgumentError
from bezel.hook_names import HookName

OneName: TypeAlias = HookName | str | re.Pattern[str] | Callable[[str], bool]
NamesFilter: TypeAlias = OneName | Iterable[OneName] | None
PosSlice: TypeAlias = int | slice | tuple[int | None, ...]


def selector(name: OneName) -> _C.Selector:
    """One name, glob, regular expression (it must match the whole name) or callable."""
    if isinstance(name, str):
        return _C.Selector(name)
    if isinstance(name, re.Pattern):
        pattern = name
        return _C.Selector(lambda candidate: pattern.fullmatch(candidate) is not None)
    if callable(name):
        return _C.Selector(name)
    raise ArgumentError(
        f"a hook was named by {type(name).__name__} {name!r}; wanted a name, a glob, a compiled "
        "regular expression or a callable on names"
    )


def selectors(names: NamesFilter) -> list[_C.Selector]:
    """The selectors of a names_filter; None is every name that is not on demand."""
    if names is None:
        return [_C.Selector("*")]
    if isinstance(names, str | re.Pattern) or callable(names):
        return [selector(names)]
    try:
        chosen = [selector(name) for name in names]
    except TypeError:  # not iterable: selector says what it is
        return [selector(cast(OneName, names))]
    if not chosen:
        raise ArgumentError(
            "names_filter is empty, so that nothing would be recorded; name something, or give "
            "None for every name"
        )
    return chosen


def start_stop_step(cut: PosSlice) -> tuple[int | None, int | None, int]:
    """The three numbers of a pos_slice; an index is a slice of length 1."""
    if isinstance(cut, int):
        return cut, cut + 1 if cut != -1 else None, 1
    if isinstance(cut, slice):
        return cut.start, cut.stop, 1 if cut.step is None else cut.step
    if isinstance(cut, tuple) and len(cut) in (2, 3):
        return start_stop_step(slice(*cut))
    raise ArgumentError(
        f"pos_slice is {cut!r}; wanted an index, a slice, (start, stop) or (start, stop, step)"
    )
