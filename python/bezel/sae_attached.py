"""An SAE at its place in one model."""

from __future__ import annotations

import torch

from bezel import _C
from bezel.errors import ArgumentError, HookNeverFiredError
from bezel.hooks import Contexts, RegisteredHook, dtypes_of
from bezel.model import Model
from bezel.plan import PlannedValue
from bezel.sae import SAE, name_of
from bezel.sae_hooks import PARTS, Asked, asked_of
from bezel.sae_splice import Splice, axes_of_features
from bezel.selection import selector


class AttachedSae(RegisteredHook):
    """An SAE at its place; a run adds it before the hooks at its values.

    Attributes:
        sae: The SAE.
        use_error_term: Whether what it misses is added.
        required: A run that does not reach it is refused.
        place: The name of the value.
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
        self.place = self.names[0]
        self._dtype = dtypes_of(model._core, selector(self.place))[self.place]
        if not self._dtype.is_floating_point:
            raise ArgumentError(f'an SAE cannot stand at "{name}": its values are integers')
        point = next(point for point in model.hook_points() if point.name == self.place)
        axes_of_features(point.shape, sae.cfg.d_in, name)
        self.axes = point.axes
        if sae.device != model.device:
            raise ArgumentError(
                f"the SAE is on {sae.device} and the model on {model.device}: sae.to(b.device)"
            )

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        """The values inside that a run computes, in its order, and what they hold."""
        return {
            f"{self.place}.{part}": self._dtype if part == "hook_sae_output" else self.sae.dtype
            for part in PARTS
            if self.use_error_term or part != "hook_sae_error"
        }

    def add_to(self, request: _C.Request) -> None:
        """Adds the SAE to what one run asks for."""
        asked = asked_of(request)
        asked.reached |= self.dtypes.keys()
        self._spliced(asked).add_to(request)

    def add_where_it_fires(self, request: _C.Request, core: _C.Bridge, made: _C.Input) -> None:
        """`add_to`, unless a run of this input does not come to it."""
        alone = _C.Request()
        self._spliced(None).add_to(alone)
        try:
            core.plan(made, alone)
        except HookNeverFiredError as error:
            if self.required:
                raise
            asked_of(request).unreached |= dict.fromkeys(self.dtypes, str(error))
        else:
            self.add_to(request)

    def planned(self, at: PlannedValue) -> list[PlannedValue]:
        """The values inside, where the value of the place is this one."""
        lead = at.shape[: -axes_of_features(at.shape, self.sae.cfg.d_in, at.name)]
        flat, features = (*lead, self.sae.cfg.d_in), (*lead, self.sae.cfg.d_sae)
        shapes = {
            "hook_sae_input": flat,
            "hook_sae_acts_pre": features,
            "hook_sae_acts_post": features,
            "hook_sae_recons": flat,
        }
        return [
            PlannedValue.of(name, shapes.get(name.rpartition(".")[2], at.shape), dtype)
            for name, dtype in self.dtypes.items()
        ]

    def _spliced(self, asked: Asked | None) -> RegisteredHook:
        splice = Splice(self.sae, self.use_error_term, asked)
        return RegisteredHook(self.place, splice, "fwd", Contexts())
