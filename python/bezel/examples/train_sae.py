"""Trains a small sparse autoencoder on a dump, and puts it into the model that the dump is from.

python -m bezel.examples.train_sae [MODEL] [--name blocks.4.hook_resid_post] [--out my_sae]

The corpus is what the model itself writes, the SAE one of k features (Gao et al. 2024, arXiv
2406.04093), without their loss for dead features. It is written in SAELens' format.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from bezel import errors
from bezel.bridge import Bridge
from bezel.dump import dump
from bezel.sae import SAE, SAEConfig
from bezel.store import ActivationStore

_NANO = Path(__file__).resolve().parents[3] / "tests" / "data" / "nano"
DONE, BAD_INPUT, INTERRUPTED = 0, 2, 3


@dataclass(frozen=True)
class Settings:
    """Of the SAE and its training.

    Attributes:
        width: Features, in widths of the input.
        k: Features of one token.
        steps: Of Adam.
        batch: Rows of a step.
        learning_rate: At the start; it falls to 0 in the last fifth.
        seed: Of the weights and of the order of the rows.
    """

    width: int = 4
    k: int = 16
    steps: int = 3000
    batch: int = 512
    learning_rate: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class Quality:
    """What an SAE is worth.

    Attributes:
        explained: Share of the rows' variance that the reconstruction has.
        dead: Share of features that no row has.
    """

    explained: float
    dead: float


def text_of_the_model(b: Bridge, n_documents: int, length: int, seed: int) -> torch.Tensor:
    """Token ids [document pos], sampled from <bos> on."""
    begin = torch.full((n_documents, 1), b.cfg.bos_token_id or 0)
    made = b.generate(
        begin, max_new_tokens=length - 1, do_sample=True, seed=seed, stop_at_eos=False,
        return_type="tokens",
    )  # fmt: skip
    assert isinstance(made, torch.Tensor)
    return made


def rows_of(store: ActivationStore, name: str, settings: Settings) -> torch.Tensor:
    """Some rows [row d_in] to measure on, float32."""
    batches = store.iter_batches(name, 16 * settings.batch, seed=settings.seed)
    rows = next(batches)[name].float()
    batches.close()
    return rows


def train(store: ActivationStore, name: str, settings: Settings, verbose: bool = True) -> SAE:
    """An SAE for the values of one name.

    Args:
        store: Has the name, with rows of one axis.
        name: Of the values.
        settings: Of the training.
        verbose: Show progress.

    Raises:
        ArgumentError: For rows of more axes.
    """
    if len(store[name].axes) != 1:
        raise errors.ArgumentError(f"{store[name]!r}: an SAE reads rows of one axis")
    torch.manual_seed(settings.seed)
    sample = rows_of(store, name, settings)
    d_in, centre = sample.shape[1], sample.mean(0)
    scale = (sample - centre).norm(dim=1).mean() / d_in**0.5  # inputs of size 1 to train on
    sae = _untrained(name, d_in, centre / scale, settings)
    optimizer = torch.optim.Adam(sae.parameters(), lr=settings.learning_rate)
    epoch, batches = 0, store.iter_batches(name, settings.batch, seed=settings.seed, drop_last=True)
    for step in tqdm(range(settings.steps), desc="training", disable=not verbose):
        found = next(batches, None)
        if found is None:
            epoch += 1
            batches = store.iter_batches(
                name, settings.batch, seed=settings.seed + epoch, drop_last=True
            )
            found = next(batches)
        _step(sae, optimizer, found[name].float() / scale, settings, step)
    batches.close()
    return _scaled(sae, scale)


def measure(sae: SAE, rows: torch.Tensor) -> Quality:
    """On rows [row d_in]."""
    with torch.no_grad():
        features = sae.encode(rows)
        error = (sae.decode(features) - rows).square().sum()
        variance = (rows - rows.mean(0)).square().sum()
        dead = (features > 0).any(0).logical_not().float().mean()
    return Quality(1 - float(error / variance), float(dead))


def _untrained(name: str, d_in: int, centre: torch.Tensor, settings: Settings) -> SAE:
    d_sae = settings.width * d_in
    directions = torch.nn.functional.normalize(torch.randn(d_sae, d_in), dim=1)
    cfg = SAEConfig("topk", d_in=d_in, d_sae=d_sae, k=settings.k, hook_name=name)
    weights = {
        "W_enc": directions.T.clone(),
        "W_dec": directions,
        "b_enc": torch.zeros(d_sae),
        "b_dec": centre.clone(),
    }
    return SAE(cfg, weights).requires_grad_(True)


def _step(
    sae: SAE, optimizer: torch.optim.Optimizer, rows: torch.Tensor, settings: Settings, step: int
) -> None:
    left = (settings.steps - step) / settings.steps
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * min(1.0, 5 * left)
    loss = (sae(rows) - rows).square().sum(-1).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():  # so that a feature's size is that of its activation
        sae.W_dec.copy_(torch.nn.functional.normalize(sae.W_dec, dim=1))


def _scaled(sae: SAE, scale: torch.Tensor) -> SAE:
    """For inputs as they are: features come out `scale` times as large."""
    weights = {name: weight.detach() for name, weight in sae.named_parameters()}
    weights["b_dec"] = weights["b_dec"] * scale
    weights["b_enc"] = weights["b_enc"] * scale
    return SAE(sae.cfg, weights)


def run(arguments: argparse.Namespace) -> None:
    """Dumps, trains, saves, loads back and puts into the model."""
    b = Bridge.from_pretrained(arguments.model)
    settings = Settings(steps=arguments.steps)
    with tempfile.TemporaryDirectory() as folder:
        tokens = text_of_the_model(b, arguments.documents, arguments.length, settings.seed)
        report = dump(b, tokens, Path(folder) / "acts", arguments.name, positions="not bos")
        print(f"{report.rows:,} rows of {arguments.name}, {report.n_bytes / 1e6:.1f} MB")
        store = ActivationStore(Path(folder) / "acts", out="torch")
        quality_rows = rows_of(store, arguments.name, settings)
        sae = train(store, arguments.name, settings)
    quality = measure(sae, quality_rows)
    print(f"{sae.cfg.d_sae} features, {settings.k} of a token: {quality.explained:.1%} of the "
          f"variance explained, {quality.dead:.1%} of the features dead")  # fmt: skip
    sae.save_model(arguments.out)
    again = SAE.load_from_disk(arguments.out)
    plain = b(tokens[:8], return_type="loss")
    spliced = b.run_with_saes(tokens[:8], saes=[again], return_type="loss")
    print(
        f"{arguments.out}: loss {_of(spliced):.3f} with it in the model, {_of(plain):.3f} without"
    )


def _of(loss: object) -> float:
    assert isinstance(loss, torch.Tensor)
    return loss.item()


def main() -> int:
    """Runs the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", default=str(_NANO), help="folder or hub id")
    parser.add_argument("--name", default="blocks.4.hook_resid_post", help="the value to explain")
    parser.add_argument("--out", type=Path, default=Path("my_sae"), help="where the SAE goes")
    parser.add_argument("--documents", type=int, default=1024, help="that the model writes")
    parser.add_argument("--length", type=int, default=64, help="tokens of each")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="of training")
    try:
        run(parser.parse_args())
    except errors.Error as error:
        print(f"train_sae: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("train_sae: interrupted", file=sys.stderr)
        return INTERRUPTED
    return DONE


if __name__ == "__main__":
    sys.exit(main())
