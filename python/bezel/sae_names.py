"""How users name the values inside attached SAEs."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

from bezel import _C
from bezel.errors import HookNotApplicableError, UnknownHookError
from bezel.hooks import HookNames, dtypes_of
from bezel.sae_hooks import PARTS
from bezel.selection import NamesFilter, OneName, selector

_MARK = ".hook_sae_"


class Chosen(NamedTuple):
    """What names choose: values of SAEs, and the names that are for the core."""

    of_saes: list[str]
    of_model: list[OneName]
    inside: list[frozenset[str]]  # those of_saes that each of of_model chooses too
    needed: list[frozenset[str]]  # of each a run must have one: what a name chose, or a glob …


def split(given: NamesFilter | HookNames, known: Collection[str], core: _C.Bridge) -> Chosen:
    """Tells values of SAEs from those of the model.

    Args:
        given: A names_filter, or the names of a hook.
        known: The values of the attached SAEs, in the order of a run.
        core: The model.

    Raises:
        UnknownHookError, HookNotApplicableError: As the core does, for its own names.
    """
    of_model: list[OneName] = []
    inside: list[frozenset[str]] = []
    needed: list[frozenset[str]] = []
    for one in _listed(given):
        if isinstance(one, str) and _MARK in one and not re.search(r"[*?\[]", one):
            _check(one, known, core)
            needed.append(frozenset((one,)))
            continue
        matched = frozenset(name for name in known if _matches(one, name))
        if isinstance(one, str) and _MARK in one and not matched:
            told = f"the nearest names are {_near(one, known)}" if known else "no SAE is attached"
            raise UnknownHookError(f'"{one}" matches no value of an attached SAE; {told}')
        if matched and not _is_in_model(one, core):
            needed.append(matched)
        else:
            of_model.append(one)
            inside.append(matched)
    of_saes = frozenset[str]().union(*inside, *needed)
    return Chosen([name for name in known if name in of_saes], of_model, inside, needed)


def _listed(given: NamesFilter | HookNames) -> Iterable[OneName]:
    if given is None:
        return ["*"]
    if isinstance(given, str | re.Pattern) or callable(given) or not isinstance(given, Iterable):
        return [given]
    return given


def _matches(one: OneName, name: str) -> bool:
    if isinstance(one, str):
        return fnmatch.fnmatchcase(name, one)
    if isinstance(one, re.Pattern):
        return one.fullmatch(name) is not None
    return callable(one) and bool(one(name))


def _is_in_model(one: OneName, core: _C.Bridge) -> bool:
    try:
        dtypes_of(core, selector(one))
    except UnknownHookError:
        return False
    return True


def _check(name: str, known: Collection[str], core: _C.Bridge) -> None:
    """Raises unless an exact name is that of a value of an attached SAE."""
    if name in known:
        return
    place, _, part = name.rpartition(".")
    if part not in PARTS:
        near = _near(name, known or [f"{place}.{part}" for part in PARTS])
        raise UnknownHookError(f'no SAE has the value "{name}"; the nearest names are {near}')
    dtypes_of(core, selector(place))  # says what is wrong with the place
    attached = list(dict.fromkeys(one.rpartition(".")[0] for one in known))
    if place in attached:
        raise HookNotApplicableError(
            f'"{name}": the SAE there runs without its error term; give use_error_term=True'
        )
    raise HookNotApplicableError(
        f'"{name}": no SAE is attached at "{place}"; attached are {attached or "none"}. Attach it '
        "first: add_sae, or with b.saes(…)"
    )


def _near(name: str, known: Collection[str]) -> list[str]:
    return difflib.get_close_matches(name, list(known), n=3, cutoff=0.0)
