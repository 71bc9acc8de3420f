"""Random SAEs, and their formulas as loops over single numbers, written from the papers."""

from __future__ import annotations

import math
from typing import Any

import torch

# Where the tests' `sae` stands in "e2b", its features, and the width there.
AT = "blocks.2.hook_resid_post"
POST = f"{AT}.hook_sae_acts_post"
D = 48
ARCHITECTURES = ("standard", "gated", "jumprelu", "topk")


def random_sae(architecture: str, d_in: int, name: str | None = None, **fields: Any) -> Any:
    """An SAE in which nothing is neutral: every bias, threshold and gate counts."""
    import bezel

    d_sae, seed = fields.pop("d_sae", 2 * d_in + 3), fields.pop("seed", 0)
    if architecture == "topk":
        fields.setdefault("k", min(3, d_sae))
    cfg = bezel.SAEConfig(architecture, d_in, d_sae, name, **fields)
    rng = torch.Generator().manual_seed(seed)
    weights = {
        weight: torch.randn(shape, generator=rng) / math.sqrt(d_in if len(shape) == 2 else 4.0)
        for weight, shape in cfg.weight_shapes().items()
    }
    if architecture == "jumprelu":
        weights["threshold"].abs_()
    return bezel.SAE(cfg, weights)


def numbers(sae: Any) -> dict[str, Any]:
    return {name: weight.double().tolist() for name, weight in sae.named_parameters()}


def features_by_loops(sae: Any, x: list[float]) -> list[float]:
    """Bricken et al. 2023; Rajamanoharan et al. 2024 (gated; JumpReLU); Gao et al. 2024."""
    w, cfg = numbers(sae), sae.cfg
    if cfg.apply_b_dec_to_input:
        x = [a - b for a, b in zip(x, w["b_dec"], strict=True)]
    found = []
    for j in range(cfg.d_sae):
        product = sum(x[i] * w["W_enc"][i][j] for i in range(cfg.d_in))
        if cfg.architecture == "gated":
            gate = 1.0 if product + w["b_gate"][j] > 0 else 0.0
            found.append(gate * max(0.0, math.exp(w["r_mag"][j]) * product + w["b_mag"][j]))
            continue
        pre = product + w["b_enc"][j]
        if cfg.architecture == "jumprelu":
            found.append(pre if pre > w["threshold"][j] else 0.0)
        elif cfg.architecture == "standard":
            found.append(max(0.0, pre))
        else:
            norm = math.sqrt(sum(d * d for d in w["W_dec"][j]))
            found.append(pre * norm if cfg.rescale_acts_by_decoder_norm else pre)
    if cfg.architecture == "topk":
        kept = sorted(range(cfg.d_sae), key=lambda j: -found[j])[: cfg.k]
        found = [max(0.0, found[j]) if j in kept else 0.0 for j in range(cfg.d_sae)]
    return found


def reconstruction_by_loops(sae: Any, features: list[float]) -> list[float]:
    w, cfg = numbers(sae), sae.cfg
    out = list(w["b_dec"])
    for j, feature in enumerate(features):
        norm = math.sqrt(sum(d * d for d in w["W_dec"][j]))
        unit = 1 / norm if cfg.rescale_acts_by_decoder_norm else 1.0
        for i in range(cfg.d_in):
            out[i] += feature * unit * w["W_dec"][j][i]
    return out
