"""A sparse autoencoder: its formulas, weights and files. sae_runs.py puts it into a model."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeAlias

import torch
from torch import nn

from bezel.errors import ArgumentError
from bezel.hooks import HookPair
from bezel.sae_config import SAEConfig as SAEConfig
from bezel.sae_config import check_shapes

# Shows a value inside the SAE under its name, and gives what to go on with.
Tap: TypeAlias = Callable[[str, torch.Tensor], torch.Tensor]
_DTYPES = (torch.float32, torch.bfloat16, torch.float64)


def _untouched(name: str, value: torch.Tensor) -> torch.Tensor:
    return value


class SAE(nn.Module):
    """A sparse autoencoder, frozen: `requires_grad_()` lets gradients reach its weights.

    Attributes:
        cfg: What it is.
        W_enc, W_dec, b_dec: [d_in d_sae], [d_sae d_in], [d_in]; beside them, by architecture,
            b_enc, threshold, b_gate, b_mag, r_mag, each [d_sae].

    Example:
        >>> sae = bezel.SAE.load_from_disk("tests/data/nano_sae")
        >>> logits = b.run_with_saes("A and B", saes=[sae], use_error_term=True)
    """

    W_enc: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter

    def __init__(self, cfg: SAEConfig, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.cfg = cfg
        check_shapes(cfg, {name: tuple(weight.shape) for name, weight in weights.items()})
        for name in cfg.weight_shapes():
            weight = weights[name]
            made = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight, False)
            self.register_parameter(name, made)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        subfolder: str | None = None,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
        **arguments: Any,
    ) -> Self:
        """Loads an SAE from a folder, or from a repository of the Hugging Face hub.

        Args:
            name: A local folder, or a hub id such as "google/gemma-scope-2-4b-it" (the Hugging Face
                cache first).
            subfolder: Where in it the SAE is: "resid_post/layer_12_width_16k_l0_medium". Only the
                files of this one SAE are fetched.
            revision: Of a hub id.
            local_files_only: True never asks the network.
            **arguments: device, dtype and norm_scaling_factor, as in `load_from_disk`.

        Returns:
            The SAE, frozen.

        Raises:
            CheckpointError: There is no such folder or repository, it could not be reached, or what
                it holds is refused, as in `load_from_disk`.
            ArgumentError: The subfolder leads out of the repository.

        Example:
            >>> bezel.SAE.from_pretrained("tests/data", "nano_sae").cfg.d_in
            96
        """
        from bezel import sae_hub

        folder = sae_hub.find_folder(str(name), subfolder, revision, local_files_only)
        return cls.load_from_disk(folder, **arguments)

    @classmethod
    def load_from_disk(
        cls,
        path: str | os.PathLike[str],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        norm_scaling_factor: float | None = None,
    ) -> Self:
        """Loads an SAE from SAELens' folder or from one of Gemma Scope 2.

        Args:
            path: A folder with `cfg.json` and `sae_weights.safetensors` (SAELens), or with
                `config.json` and `params.safetensors` (Gemma Scope 2). It is not trusted.
            device: Where to.
            dtype: In which the SAE computes: torch.float32, torch.bfloat16 or torch.float64.
            norm_scaling_factor: For files that say "expected_average_only_in" and were not folded:
                the factor that inputs were multiplied by in training.

        Returns:
            The SAE, frozen.

        Raises:
            FormatError: A file is missing, damaged or not what its layout demands.
            UnsupportedError: Another architecture, a transcoder, or a normalisation that is no
                fixed factor.
            ModelMismatchError: A weight is missing, too many, or of another shape.

        Example:
            >>> bezel.SAE.load_from_disk("tests/data/nano_sae").cfg.hook_name
            'blocks.4.hook_resid_post'
        """
        from bezel import sae_files

        if dtype not in _DTYPES:
            raise ArgumentError(f"dtype is {dtype!r}; wanted float32, bfloat16 or float64")
        cfg, weights = sae_files.read(Path(path), norm_scaling_factor)
        return cls(cfg, {name: w.to(device, dtype) for name, w in weights.items()})

    def save_model(self, path: str | os.PathLike[str]) -> None:
        """Writes `cfg.json` and `sae_weights.safetensors`, which SAELens reads too.

        Args:
            path: A folder; made where it is not there.

        Example:
            >>> sae.save_model("my_sae")
        """
        from bezel import sae_files

        sae_files.write(Path(path), self.cfg, dict(self.named_parameters()))

    def at(self, hook_name: str) -> SAE:
        """The same SAE, with the same weights, for another value of the model.

        Args:
            hook_name: Any floating value whose last axes hold d_in numbers together.

        Example:
            >>> again = sae.at("blocks.5.hook_resid_post")
        """
        return SAE(
            dataclasses.replace(self.cfg, hook_name=hook_name), dict(self.named_parameters())
        )

    def hook(self, use_error_term: bool = False) -> HookPair:
        """The SAE as a pair for any fwd_hooks: the value there becomes its reconstruction.

        Args:
            use_error_term: Add what the SAE misses, so that only changes to it pass on.

        Returns:
            (name, function).

        Raises:
            ArgumentError: When the SAE does not say where it belongs.

        Example:
            >>> logits = b.run_with_hooks("A and B", fwd_hooks=[sae.hook()])
        """
        from bezel.sae_splice import Splice

        return name_of(self), Splice(self, use_error_term)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the SAE computes in."""
        return self.W_enc.dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.W_enc.device

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The reconstruction [… d_in] of x [… d_in]."""
        return self.decode(self.encode(x))

    def encode(self, x: torch.Tensor, tap: Tap = _untouched) -> torch.Tensor:
        """The features of an input.

        Args:
            x: [… d_in].
            tap: Is shown hook_sae_input, hook_sae_acts_pre and hook_sae_acts_post.

        Returns:
            [… d_sae], not negative.

        Example:
            >>> features = sae.encode(torch.zeros(sae.cfg.d_in))
        """
        x = tap("hook_sae_input", x.to(self.dtype))
        centred = x - self.b_dec if self.cfg.apply_b_dec_to_input else x
        return tap("hook_sae_acts_post", _ENCODERS[self.cfg.architecture](self, centred, tap))

    def decode(self, features: torch.Tensor, tap: Tap = _untouched) -> torch.Tensor:
        """What features stand for.

        Args:
            features: [… d_sae].
            tap: Is shown hook_sae_recons.

        Returns:
            [… d_in].

        Example:
            >>> reconstruction = sae.decode(torch.zeros(sae.cfg.d_sae))
        """
        if self.cfg.rescale_acts_by_decoder_norm:
            features = features / self.W_dec.norm(dim=-1)
        return tap("hook_sae_recons", features @ self.W_dec + self.b_dec)

    def extra_repr(self) -> str:
        """Where it belongs and how large it is, for `repr`."""
        cfg = self.cfg
        return f"{cfg.architecture}, d_in={cfg.d_in}, d_sae={cfg.d_sae}, at={cfg.hook_name!r}"


# Bricken et al. 2023, "Towards Monosemanticity".
def _standard(sae: Any, x: torch.Tensor, tap: Tap) -> torch.Tensor:
    return torch.relu(tap("hook_sae_acts_pre", x @ sae.W_enc + sae.b_enc))


# Rajamanoharan et al. 2024, arXiv 2404.16014: W_mag = exp(r_mag) · W_gate.
def _gated(sae: Any, x: torch.Tensor, tap: Tap) -> torch.Tensor:
    product = x @ sae.W_enc
    magnitude = tap("hook_sae_acts_pre", product * sae.r_mag.exp() + sae.b_mag)
    open_gates: torch.Tensor = product + sae.b_gate > 0
    return magnitude.relu() * open_gates


# Rajamanoharan et al. 2024, arXiv 2407.14435.
def _jumprelu(sae: Any, x: torch.Tensor, tap: Tap) -> torch.Tensor:
    pre = tap("hook_sae_acts_pre", x @ sae.W_enc + sae.b_enc)
    passed: torch.Tensor = pre > sae.threshold
    return pre.relu() * passed


# Gao et al. 2024, arXiv 2406.04093; negative ones among the k are 0, as in SAELens.
def _topk(sae: Any, x: torch.Tensor, tap: Tap) -> torch.Tensor:
    pre = tap("hook_sae_acts_pre", x @ sae.W_enc + sae.b_enc)
    if sae.cfg.rescale_acts_by_decoder_norm:
        pre = pre * sae.W_dec.norm(dim=-1)
    chosen = pre.topk(sae.cfg.k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, chosen.indices, chosen.values.relu())


_ENCODERS = {"standard": _standard, "gated": _gated, "jumprelu": _jumprelu, "topk": _topk}


def name_of(sae: SAE) -> str:
    """Where an SAE belongs. Raises ArgumentError when it does not say so."""
    if not isinstance(sae, SAE):
        raise ArgumentError(f"an SAE is wanted; got a {type(sae).__name__}")
    if sae.cfg.hook_name is None:
        raise ArgumentError(
            'the SAE does not say where it belongs: sae.at("blocks.3.hook_resid_post")'
        )
    return sae.cfg.hook_name
