"""Trains the sparse autoencoder of tests/data/nano_sae on the miniature of tests/data/nano.

    PYTHONPATH=tests python -m support.train_sae --out tests/data/nano_sae     # half a minute

A top-k autoencoder (Gao et al. 2024, arXiv 2406.04093) of the stream behind block 4. Writes the two
files of SAELens, and measured.json with what rows that it never saw measured. The same machine and
torch give the same weights bit for bit.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import Gemma4ForCausalLM

from support.nano_language import PAD, VOCABULARY, training_rows

NANO = Path(__file__).parents[1] / "data" / "nano"
LAYER, D_SAE, K = 4, 256, 16
BATCH_ROWS, N_BATCHES, N_HELD_OUT = 32, 32, 6  # of the model
BATCH_VECTORS, STEPS, LR = 1024, 600, 3e-3  # of the autoencoder
DEAD_AFTER_STEPS, AUXILIARY_K, AUXILIARY_WEIGHT = 100, 32, 1 / 32
IDS = {word: i for i, word in enumerate(VOCABULARY)}


@torch.no_grad()
def stream(seed: int, n_batches: int) -> torch.Tensor:
    """Vectors [n d_model] of the stream behind the block, where the text is no padding."""
    model = Gemma4ForCausalLM.from_pretrained(NANO).eval()
    seen: list[torch.Tensor] = []
    model.model.layers[LAYER].register_forward_hook(lambda _, given, out: seen.append(out))
    rows, kept = training_rows(seed), []
    for _ in range(n_batches):
        words = [row.words for row in itertools.islice(rows, BATCH_ROWS)]
        ids = torch.tensor([[IDS[word] for word in row] for row in words])
        model.model(input_ids=ids, use_cache=False)
        kept.append(seen.pop()[ids != IDS[PAD]])
    return torch.cat(kept)


def batches(vectors: torch.Tensor) -> Iterator[torch.Tensor]:
    while True:
        yield vectors[torch.randint(len(vectors), (BATCH_VECTORS,))]


def encode(weights: dict[str, torch.Tensor], x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(features, what they were before the choice)."""
    before = (x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    chosen = before.topk(K, dim=-1)
    return torch.zeros_like(before).scatter(-1, chosen.indices, chosen.values.relu()), before


def new_weights(x: torch.Tensor) -> dict[str, torch.Tensor]:
    rows = F.normalize(torch.randn(D_SAE, x.shape[1]), dim=-1)
    weights = {
        "W_enc": rows.T.clone(),
        "b_enc": torch.zeros(D_SAE),
        "W_dec": rows.clone(),
        "b_dec": x.mean(0),
    }
    return {name: weight.requires_grad_() for name, weight in weights.items()}


def auxiliary_loss(
    weights: dict[str, torch.Tensor], before: torch.Tensor, error: torch.Tensor, dead: torch.Tensor
) -> torch.Tensor:
    """Features that stay silent learn what the others leave over."""
    chosen = before.masked_fill(~dead, -torch.inf).topk(min(AUXILIARY_K, int(dead.sum())), dim=-1)
    features = torch.zeros_like(before).scatter(-1, chosen.indices, chosen.values.relu())
    return (features @ weights["W_dec"] - error).square().sum(-1).mean()


def train(data: Iterator[torch.Tensor], steps: int) -> dict[str, torch.Tensor]:
    first = next(data)
    scale = first.shape[1] ** 0.5 / first.norm(dim=-1).mean()  # folded into the weights at the end
    weights = new_weights(first * scale)
    optimizer = torch.optim.Adam(weights.values(), lr=LR, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, steps, pct_start=0.1)
    silent = torch.zeros(D_SAE)
    started = time.perf_counter()
    for step in range(1, steps + 1):
        x = next(data) * scale
        features, before = encode(weights, x)
        error = x - (features @ weights["W_dec"] + weights["b_dec"])
        loss = error.square().sum(-1).mean()
        silent = torch.where((features > 0).any(0), 0.0, silent + 1)
        if (dead := silent > DEAD_AFTER_STEPS).any():
            loss = loss + AUXILIARY_WEIGHT * auxiliary_loss(weights, before, error.detach(), dead)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            weights["W_dec"].copy_(F.normalize(weights["W_dec"], dim=-1))
        if step % 100 == 0:
            seconds = time.perf_counter() - started
            print(f"step {step}/{steps}  loss {loss:.3f}  {seconds:.0f} s", flush=True)
    for name, factor in (("b_enc", 1 / scale), ("b_dec", 1 / scale)):
        weights[name].data.mul_(factor)  # a top-k autoencoder of scaled inputs, unscaled
    return {name: weight.detach().contiguous() for name, weight in weights.items()}


@torch.no_grad()
def measure(weights: dict[str, torch.Tensor], x: torch.Tensor) -> dict[str, float]:
    """On x: 1 - |x - x'|² / |x - mean|², features that are not zero, features ever used."""
    x = x.double()
    features, _ = encode({name: weight.double() for name, weight in weights.items()}, x)
    error = x - (features @ weights["W_dec"].double() + weights["b_dec"].double())
    explained = 1 - error.square().sum() / (x - x.mean(0)).square().sum()
    return {
        "explained_variance": round(float(explained), 4),
        "l0": round(float((features > 0).sum(-1).double().mean()), 2),
        "features_used": int((features > 0).any(0).sum()),
        "tokens": len(x),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)  # the same sums in the same order on every run
    weights = train(batches(stream(arguments.seed, N_BATCHES)), arguments.steps)
    found = measure(weights, stream(arguments.seed + 1, N_HELD_OUT))
    print(found)
    arguments.out.mkdir(parents=True, exist_ok=True)
    config = {
        "architecture": "topk",
        "d_in": weights["W_enc"].shape[0],
        "d_sae": D_SAE,
        "k": K,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": {"model_name": "nano", "hook_name": f"blocks.{LAYER}.hook_resid_post"},
    }
    (arguments.out / "cfg.json").write_text(json.dumps(config, indent=2) + "\n")
    (arguments.out / "measured.json").write_text(json.dumps(found, indent=2) + "\n")
    save_file(weights, arguments.out / "sae_weights.safetensors")


if __name__ == "__main__":
    main()
