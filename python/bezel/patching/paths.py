"""Path patching: what a component tells another one directly, with everything between held."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias, Unpack, cast

import torch

from bezel.arguments import ForwardArguments, ModelInput
from bezel.errors import ArgumentError
from bezel.names import HookPoint
from bezel.patching.attribution import values_of
from bezel.patching.corrupted import SweepArguments
from bezel.patching.metrics import Metric
from bezel.patching.sweep import Values

if TYPE_CHECKING:
    from bezel.bridge import Bridge

# A full name, or one head of it.
Place: TypeAlias = str | tuple[str, int]
_Hooks: TypeAlias = list[tuple[str, Callable[..., torch.Tensor]]]

_OUTPUTS = {"attn": "hook_attn_out", "mlp": "hook_mlp_out", "ple": "hook_ple_out"}
_PLE_INPUTS = ("ple.hook_token", "ple.hook_context", "ple.hook_inputs")
_OWN_KEYS = ("k", "v", "k_normed", "v_normed", "rot_k", "k_input", "v_input")


def path_patch(  # noqa: PLR0913  who, whom, and how it is measured
    model: Bridge,
    tokens: ModelInput,
    clean: Values | ModelInput,
    *,
    sender: Place,
    receivers: Place | Sequence[Place],
    metric: Metric,
    freeze: Sequence[str] | None = None,
    **arguments: Unpack[SweepArguments],
) -> torch.Tensor | float:
    """Patches the direct paths from one value to others, after Goldowsky-Dill et al. (2023).

    Three runs of the corrupted tokens. The first records it. In the second the sender has its clean
    value and what is frozen has the values of the first: so the receivers, which are recorded, see
    the sender's change by direct paths alone. In the third the receivers have those values, and
    everything else follows.

    Frozen are `hook_attn_out`, `hook_mlp_out` and `hook_ple_out` of all blocks: each branch that
    the sender is not itself inside of. Direct are therefore the stream with its layer scalars, the
    sender's own branch with the norm behind it, and inside the receiver's branch all that leads to
    it. Gemma 4 has ways beside the stream; they are held or open like this:

    - Keys and values that sharing layers take from a donor: a receiver in a sharing layer sees the
      donor's keys and values as the change in the stream at the donor makes them, besides its own
      queries. For one of the two name `attn.hook_q`, or `attn.hook_shared_k` and `hook_shared_v`.
    - A sender that is a donor's key or value is inside the attention of its sharers too. They stay
      open, and their `attn.hook_q` is frozen instead.
    - Per-layer embeddings: a sender before the blocks (`hook_embed` …) reaches `ple.hook_inputs`,
      but the blocks' `hook_ple_out` is frozen; name `ple.hook_inputs` a receiver to follow that
      way. A sender that is such an input is inside its blocks' PLE branches: they stay open, and
      their `ple.hook_gate`, which reads the stream, is frozen instead.

    Args:
        model: The Bridge. Its hooks apply, before these edits.
        tokens: The corrupted run: token ids [batch pos], or text.
        clean: The clean run, of the same shape: its cache with the sender, its ids, or its text.
        sender: A full name, or (name, head).
        receivers: Such places behind the sender, one or several.
        metric: Called with the last run's logits [batch pos d_vocab].
        freeze: Full names to hold instead of those above.
        **arguments: Of all runs: attention_mask, position_ids ….

    Returns:
        What the metric returns.

    Raises:
        UnknownHookError, HookNotApplicableError: For a name that this model lacks.
        ArgumentError: A receiver that the sender cannot reach, or a head that is none.

    Example:
        >>> difference = path_patch(
        ...     b, "Of 7 and 4 , the larger is", "Of 7 and 22 , the larger is",
        ...     sender=("blocks.3.attn.hook_z", 1), receivers="blocks.6.attn.hook_q",
        ...     metric=lambda logits: logits[0, -1, 9])
    """
    several = [receivers] if isinstance(receivers, str) or _is_head(receivers) else receivers
    targets = [_Site(model, cast(Place, place)) for place in several]
    source = _Site(model, sender)
    order = [point.name for point in model.hook_points()]
    for target in targets:
        if order.index(target.point.name) <= order.index(source.point.name):
            raise ArgumentError(
                f'receiver "{target.point.name}" is not behind sender "{source.point.name}"'
            )
    held = frozen_of(model, source.point) if freeze is None else list(freeze)
    own = {target.point.name for target in targets}
    asked = cast(ForwardArguments, arguments)
    with torch.no_grad():
        clean_values = values_of(model, clean, source.point.name, **arguments)
        first = values_of(model, tokens, [source.point.name, *held], **arguments)
        if clean_values[source.point.name].shape != first[source.point.name].shape:
            raise ArgumentError(
                f'"{source.point.name}" is {list(clean_values[source.point.name].shape)} in the '
                f"clean run and {list(first[source.point.name].shape)} in the corrupted one"
            )
        second: dict[str, torch.Tensor] = {}
        # A receiver is told apart before it is frozen: what it hears goes no further.
        hooks: _Hooks = [(name, _keep(second, name)) for name in own]
        hooks += [(name, _whole(first[name])) for name in held]
        hooks.append((source.point.name, source.put(clean_values[source.point.name])))
        model.run_with_hooks(tokens, hooks, **(asked | {"return_type": None}))
        last: _Hooks = [(t.point.name, t.put(second[t.point.name])) for t in targets]
        logits = model.run_with_hooks(tokens, last, **asked)
    assert isinstance(logits, torch.Tensor)
    return metric(logits)


def frozen_of(model: Bridge, sender: HookPoint) -> list[str]:
    """What `path_patch` freezes for this sender."""
    branch = _branch(sender.name)
    held = []
    for i, layer in enumerate(model.cfg.layers):
        outputs = dict(_OUTPUTS) if model.cfg.d_ple else {k: _OUTPUTS[k] for k in ("attn", "mlp")}
        if sender.layer == i and branch in outputs:
            del outputs[branch]
        elif _is_own_key(sender.name) and layer.attention.donor == sender.layer:
            outputs["attn"] = "attn.hook_q"
        if sender.name in _PLE_INPUTS:
            outputs["ple"] = "ple.hook_gate"
        held += [f"blocks.{i}.{output}" for output in outputs.values()]
    return held


def _branch(name: str) -> str | None:
    """The branch of its block that a value is inside of, its output included."""
    row = name.split(".", 2)[2] if name.startswith("blocks.") else name
    last = row.removeprefix("hook_")
    if row.startswith(("attn.", "ln1", "hook_attn")) or last in ("q_input", "k_input", "v_input"):
        return "attn"
    if row.startswith(("mlp.", "moe.", "ln2", "hook_mlp")):
        return "mlp"
    return "ple" if row.startswith(("ple.", "ple_post.", "hook_ple")) else None


def _is_own_key(name: str) -> bool:
    return name.rpartition(".hook_")[2] in _OWN_KEYS


def _is_head(place: object) -> bool:
    return isinstance(place, tuple) and len(place) == 2 and isinstance(place[1], int)


def _keep(kept: dict[str, torch.Tensor], name: str) -> Callable[..., torch.Tensor]:
    def keep(value: torch.Tensor, hook: object) -> torch.Tensor:
        kept[name] = value.clone()
        return value

    return keep


def _whole(value: torch.Tensor) -> Callable[..., torch.Tensor]:
    return lambda old, hook: value


class _Site:
    def __init__(self, model: Bridge, place: Place) -> None:
        self._head: int | None
        name, self._head = (place, None) if isinstance(place, str) else place
        (found,) = model._dtypes(name)
        (self.point,) = [point for point in model.hook_points() if point.name == found]
        heads = [i for i, axis in enumerate(self.point.axes) if axis in ("head", "kv_head")]
        self._dim = heads[0] if heads else None
        if self._head is None:
            return
        size = self.point.shape[self._dim] if self._dim is not None else None
        if size is None or not 0 <= self._head < size:
            raise ArgumentError(f'"{found}" has no head {self._head}; it has {size or "none"}')

    def put(self, value: torch.Tensor) -> Callable[..., torch.Tensor]:
        """A hook that puts value, or its head, in the place of what is there."""

        def hooked(old: torch.Tensor, hook: object) -> torch.Tensor:
            if self._head is None or self._dim is None:
                return value
            old.select(self._dim, self._head).copy_(value.select(self._dim, self._head))
            return old

        return hooked
