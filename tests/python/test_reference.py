"""A reference bundle holds what transformers computes, and the file holds the bundle."""

from __future__ import annotations

import pytest
import torch
import xxhash
from safetensors.torch import load_file
from transformers import AutoTokenizer

import bezel
from bezel.reference.bundle import Outcome
from bezel.reference.media import capture_media
from bezel.reference.values import positions_from
from support import reference
from support.references import NAMES, NANO, WITH_MEDIA, Bundles, arguments_of


def plain_run(model: torch.nn.Module, outcome: Outcome) -> torch.Tensor:
    """The logits of transformers alone, nothing attached to it."""
    with torch.no_grad():
        return model(**arguments_of(model, outcome)).logits


def values_of(model: torch.nn.Module, outcome: Outcome) -> dict[str, torch.Tensor]:
    case = outcome.case
    inputs = {"input_ids": case.tokens, "attention_mask": case.attention_mask}
    if case.media:
        return capture_media(model, inputs | dict(case.media))
    mask = case.attention_mask
    return reference.capture(model, case.tokens, mask, positions_from(mask))


@pytest.mark.parametrize("name", WITH_MEDIA)
def test_every_value_is_that_of_transformers(bundles: Bundles, name: str) -> None:
    model, bundle = bundles.model(name), bundles.read(name)
    points = [p.name for p in bezel.Bridge.from_pretrained(bundles.folder(name)).hook_points()]
    for case, outcome in bundle.outcomes.items():
        want = values_of(model, outcome)
        assert list(outcome.acts) == [point for point in points if point in want]
        assert len(outcome.acts) == len(want)
        for key, kept in outcome.acts.items():
            assert not kept.is_part
            assert kept.value.dtype == want[key].dtype
            assert torch.equal(kept.value, want[key]), (case, key)
        assert torch.equal(outcome.acts["hook_logits"].value, plain_run(model, outcome))


@pytest.mark.parametrize("name", WITH_MEDIA)
def test_logits_and_loss_are_those_of_transformers(bundles: Bundles, name: str) -> None:
    model = bundles.model(name)
    for outcome in bundle_outcomes(bundles, name):
        logits, got = plain_run(model, outcome), outcome.logits
        n_top = min(64, logits.shape[-1])
        assert got.top_ids.shape == (*logits.shape[:2], n_top)
        assert torch.equal(logits.gather(-1, got.top_ids), got.top_values)
        assert torch.equal(got.top_values, logits.sort(-1, descending=True).values[..., :n_top])
        torch.testing.assert_close(got.log_sum_exp, logits.logsumexp(-1), rtol=1e-6, atol=1e-6)
        assert torch.equal(got.full, logits[:, got.positions])
        assert {0, logits.shape[1] - 1} <= set(got.positions.tolist())
        valid = outcome.case.attention_mask.bool()
        pairs = valid[:, 1:] & valid[:, :-1]
        labels = outcome.case.tokens.clone()
        labels[:, 1:][~pairs] = -100
        with torch.no_grad():
            loss = model(**arguments_of(model, outcome), labels=labels).loss
        assert outcome.loss == pytest.approx(loss.item(), rel=1e-6)
        assert outcome.loss_per_token.shape == pairs.shape
        assert (outcome.loss_per_token[~pairs] == 0).all()
        assert (outcome.loss_per_token[pairs] > 0).all()
        assert outcome.loss_per_token[pairs].mean().item() == pytest.approx(outcome.loss, rel=1e-5)


def bundle_outcomes(bundles: Bundles, name: str) -> list[Outcome]:
    return list(bundles.read(name).outcomes.values())


@pytest.mark.parametrize("name", NAMES)
def test_weights_have_the_hash_of_their_stored_bytes(bundles: Bundles, name: str) -> None:
    stored = load_file(bundles.folder(name) / "model.safetensors")
    weights = bundles.read(name).weights
    assert [w.name for w in weights] == sorted(stored)
    for weight in weights:
        tensor = stored[weight.name]
        raw = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        assert weight.hash == xxhash.xxh3_64_intdigest(raw)
        assert (weight.dtype, weight.shape) == ("F32", " ".join(map(str, tensor.shape)))


def test_settings_and_versions_are_kept_as_they_are(bundles: Bundles) -> None:
    bundle = bundles.read("nano")
    assert bundle.config == (NANO / "config.json").read_text()
    assert bundle.generation_config == (NANO / "generation_config.json").read_text()
    assert bundle.versions["torch"] == torch.__version__
    assert set(bundle.versions) == {"transformers", "torch", "python"}
    assert bundle.device == "cpu"
    tokenizer = AutoTokenizer.from_pretrained(NANO)
    prose = bundle.outcomes["prose"].case.tokens[0]
    assert tokenizer.decode(prose).startswith("<bos> When Hugo and Mary went to the shop")
