"""What an SAE is, beside its weights, and which weights that asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

from bezel.errors import ModelMismatchError, UnsupportedError

Architecture: TypeAlias = Literal["standard", "gated", "jumprelu", "topk"]

_EVERY = {"W_enc": ("d_in", "d_sae"), "W_dec": ("d_sae", "d_in"), "b_dec": ("d_in",)}
_OWN = {
    "standard": ("b_enc",),
    "topk": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "gated": ("b_gate", "b_mag", "r_mag"),
}


@dataclasses.dataclass(frozen=True)
class SAEConfig:
    """What an SAE is, beside its weights.

    Attributes:
        architecture: "standard" (ReLU), "gated", "jumprelu" or "topk".
        d_in: Width of what it reads and writes.
        d_sae: Number of features.
        hook_name: The value that it was trained on: "blocks.3.hook_resid_post".
        apply_b_dec_to_input: The encoder reads x - b_dec instead of x.
        k: Features that "topk" keeps.
        rescale_acts_by_decoder_norm: "topk" chooses by activation times norm of the decoder's row.
        metadata: Whatever else the file said, as it said it.

    Example:
        >>> bezel.SAEConfig("topk", d_in=96, d_sae=512, k=8).weight_shapes()["W_dec"]
        (512, 96)
    """

    architecture: Architecture
    d_in: int
    d_sae: int
    hook_name: str | None = None
    apply_b_dec_to_input: bool = True
    k: int | None = None
    rescale_acts_by_decoder_norm: bool = False
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.architecture not in _OWN:
            raise UnsupportedError(
                f"an SAE of architecture {self.architecture!r}; bezel computes {', '.join(_OWN)}"
            )
        if self.architecture == "topk" and not 0 < (self.k or 0) <= self.d_sae:
            raise ModelMismatchError(f"top-k keeps k={self.k} of {self.d_sae} features")

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every weight, by name.

        Example:
            >>> bezel.SAEConfig("standard", d_in=96, d_sae=512).weight_shapes()
            {'W_enc': (96, 512), 'W_dec': (512, 96), 'b_dec': (96,), 'b_enc': (512,)}
        """
        sizes = {"d_in": self.d_in, "d_sae": self.d_sae}
        shapes = {name: tuple(sizes[axis] for axis in axes) for name, axes in _EVERY.items()}
        return shapes | dict.fromkeys(_OWN[self.architecture], (self.d_sae,))


def check_shapes(cfg: SAEConfig, shapes: Mapping[str, Iterable[int]], where: str = "") -> None:
    """Raises ModelMismatchError unless these are the weights that the configuration asks for."""
    wanted = cfg.weight_shapes()
    for name in sorted(wanted.keys() | shapes.keys()):
        if name not in shapes:
            got = "is missing"
        elif name not in wanted:
            raise ModelMismatchError(
                f'{where}"{name}" is no weight of a {cfg.architecture} SAE; it has '
                f"{', '.join(wanted)}"
            )
        elif tuple(shapes[name]) == wanted[name]:
            continue
        else:
            got = f"is {list(shapes[name])}"
        raise ModelMismatchError(
            f'{where}"{name}" {got}; a {cfg.architecture} SAE with d_in={cfg.d_in} and '
            f"d_sae={cfg.d_sae} wants {list(wanted[name])}"
        )
