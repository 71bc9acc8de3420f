"""Attached SAEs, and how users name the values inside them."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bezel import _C
from bezel.errors import ArgumentError, HookNotApplicableError, UnknownHookError
from bezel.hooks import Contexts, RegisteredHook, dtypes_of
from bezel.model import Model
from bezel.sae import SAE, name_of
from bezel.sae_splice import PARTS, Recording, SaeHook, Splice, axes_of_features
from bezel.selection import OneName, selector

_MARK = ".hook_sae_"


class AttachedSae(RegisteredHook):
    """An SAE at its place in one model.

    Attributes:
        sae: The SAE.
        use_error_term: Whether what it misses is added.
        required: A run that does not reach it is refused.
        axes: The axis words of the value.
    """

    def __init__(
        self, sae: SAE, use_error_term: bool, model: Model, required: bool = False
    ) -> None:
        name = name_of(sae)
        super().__init__(name, Splice(sae, use_error_term), "fwd", Contexts())
        self.resolve(model._core)
        self.sae, self.use_error_term, self.required = sae, use_error_term, required
        if len(self.names) != 1:
            raise ArgumentError(f"an SAE has one place; {name!r} names {len(self.names)} values")
        point = next(point for point in model.hook_points() if point.name == self.names[0])
        if not dtypes_of(model._core, selector(name))[name].is_floating_point:
            raise ArgumentError(f'an SAE cannot stand at "{name}": its values are integers')
        axes_of_features(point.shape, sae.cfg.d_in, name)
        self.axes = point.axes
        if sae.device != model.device:
            raise ArgumentError(
                f"the SAE is on {sae.device} and the model on {model.device}: sae.to(b.device)"
            )

    def for_run(self, hooks: Sequence[SaeHook], recording: Recording | None) -> RegisteredHook:
        """The hook that one run applies."""
        splice = Splice(self.sae, self.use_error_term, hooks, recording)
        return RegisteredHook(self.names[0], splice, "fwd", Contexts())


def attached_by_name(hooks: Iterable[RegisteredHook]) -> dict[str, AttachedSae]:
    """The SAEs among hooks by name; of several at one name the last."""
    return {hook.names[0]: hook for hook in hooks if isinstance(hook, AttachedSae)}


def names_of(attached: AttachedSae) -> list[str]:
    """The values inside an SAE that a run computes."""
    parts = [part for part in PARTS if attached.use_error_term or part != "hook_sae_error"]
    return [f"{attached.names[0]}.{part}" for part in parts]


class Chosen(NamedTuple):
    """What names choose: values of SAEs, and the names that are for the core."""

    of_saes: list[str]
    of_model: list[OneName]
    exact: frozenset[str]  # those of_saes that were named exactly


def split(given: Iterable[OneName], attached: dict[str, AttachedSae], core: _C.Bridge) -> Chosen:
    """Tells values of SAEs from those of the model. Raises as the core does for its own."""
    known = [name for one in attached.values() for name in names_of(one)]
    of_saes: set[str] = set()
    exact: set[str] = set()
    of_model: list[OneName] = []
    for one in given:
        if isinstance(one, str) and not re.search(r"[*?\[]", one):
            if _MARK not in one:
                of_model.append(one)
                continue
            _check(one, attached, known)
            exact.add(one)
            continue
        matched = {name for name in known if _matches(one, name)}
        of_saes |= matched
        if not matched or _is_in_model(one, core):
            of_model.append(one)
    return Chosen([n for n in known if n in of_saes | exact], of_model, frozenset(exact))


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


def _check(name: str, attached: dict[str, AttachedSae], known: list[str]) -> None:
    """Raises unless an exact name is that of a value of an attached SAE."""
    if name in known:
        return
    place, _, part = name.rpartition(".")
    if part in PARTS and place in attached:
        raise HookNotApplicableError(
            f'"{name}": the SAE there runs without its error term; give use_error_term=True'
        )
    if part in PARTS:
        raise HookNotApplicableError(
            f'"{name}": no SAE is attached at "{place}"; attached are {sorted(attached)}'
        )
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
    raise UnknownHookError(f'no SAE has the value "{name}"; the nearest names are {near}')
