"""The example that trains an SAE from a dump: what it makes is worth something, and loads."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import bezel
from bezel.errors import ArgumentError
from bezel.examples import train_sae

NANO = Path(__file__).resolve().parents[1] / "data" / "nano"
NAME = "blocks.4.hook_resid_post"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> bezel.ActivationStore:
    b = bezel.Bridge.from_pretrained(str(NANO))
    tokens = train_sae.text_of_the_model(b, 64, 48, seed=0)
    assert tokens.shape == (64, 48)
    path = tmp_path_factory.mktemp("stores") / "acts"
    bezel.dump(b, tokens, path, [NAME, "blocks.0.attn.hook_z"], positions="not bos", verbose=False)
    return bezel.ActivationStore(path, out="torch")


def test_an_sae_explains_what_it_was_trained_on(store: bezel.ActivationStore) -> None:
    settings = train_sae.Settings(steps=300, batch=256)
    sae = train_sae.train(store, NAME, settings, verbose=False)
    rows = store[NAME][:].float()
    quality = train_sae.measure(sae, rows)
    untrained = train_sae.train(store, NAME, train_sae.Settings(steps=1), verbose=False)
    assert quality.explained > 0.9 > train_sae.measure(untrained, rows).explained + 0.05
    assert quality.dead < 0.5
    assert (sae.encode(rows) > 0).sum(-1).max() <= settings.k
    again = train_sae.train(store, NAME, settings, verbose=False)
    assert torch.equal(again.W_enc, sae.W_enc)


def test_quality_is_measured(store: bezel.ActivationStore) -> None:
    sae = train_sae.train(store, NAME, train_sae.Settings(steps=5), verbose=False)
    rows = store[NAME][:200].float()
    with torch.no_grad():
        error = ((sae(rows) - rows) ** 2).sum()
        features = sae.encode(rows)
    explained = 1 - error / ((rows - rows.mean(0)) ** 2).sum()
    dead = np.mean([(features[:, i] <= 0).all().item() for i in range(sae.cfg.d_sae)])
    quality = train_sae.measure(sae, rows)
    assert quality.explained == pytest.approx(float(explained), rel=1e-5)
    assert quality.dead == pytest.approx(dead)


def test_rows_of_two_axes_are_refused(store: bezel.ActivationStore) -> None:
    with pytest.raises(ArgumentError, match="rows of one axis"):
        train_sae.train(store, "blocks.0.attn.hook_z", train_sae.Settings(), verbose=False)


def test_the_program_goes_all_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sae"
    words = ["--documents", "32", "--length", "32", "--steps", "100", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["train_sae", *words])
    assert train_sae.main() == 0
    told = capsys.readouterr().out
    assert "992 rows of blocks.4.hook_resid_post" in told
    assert "of the variance explained" in told
    assert bezel.SAE.load_from_disk(out).cfg.hook_name == NAME
    monkeypatch.setattr(sys, "argv", ["train_sae", "absent/model", "--out", str(out)])
    assert train_sae.main() == 2
