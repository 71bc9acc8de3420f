"""The SAE that was trained on the miniature explains its stream, and its features do something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import bezel
from support import saes
from support.nano_language import PAD, VOCABULARY, held_out_prompts, training_rows

DATA = Path(__file__).parents[1] / "data"
PROMPTS = [p.text for p in held_out_prompts("comparison", 8, seed=5, max_sentences_before=0)]
N_ROWS = 24


@pytest.fixture(scope="module")
def bridge() -> Any:
    return bezel.Bridge.from_pretrained(str(DATA / "nano"))


@pytest.fixture(scope="module")
def sae() -> Any:
    return bezel.SAE.load_from_disk(DATA / "nano_sae")


def stream(bridge: Any, name: str) -> torch.Tensor:
    """Vectors [n d_model] of text that the SAE was not trained on, without padding."""
    ids = {word: i for i, word in enumerate(VOCABULARY)}
    rows = training_rows(seed=77)
    tokens = torch.tensor([[ids[word] for word in next(rows).words] for _ in range(N_ROWS)])
    return bridge.run_with_cache(tokens, name)[1][name][tokens != ids[PAD]]


def test_it_explains_the_stream_as_well_as_was_measured(bridge: Any, sae: Any) -> None:
    measured = json.loads((DATA / "nano_sae" / "measured.json").read_text())
    assert measured["explained_variance"] > 0.95
    x = stream(bridge, sae.cfg.hook_name)
    features = sae.encode(x)
    error = (x - sae.decode(features)).square().sum()
    explained = 1 - error / (x - x.mean(0)).square().sum()
    assert float(explained) == pytest.approx(measured["explained_variance"], abs=0.01)
    l0 = (features > 0).sum(-1).float().mean()
    assert float(l0) == pytest.approx(measured["l0"], abs=0.1)
    # Its own formula, in single numbers.
    row = x[7].tolist()
    by_loops = saes.reconstruction_by_loops(sae, saes.features_by_loops(sae, row))
    torch.testing.assert_close(sae(x[7]), torch.tensor(by_loops), rtol=1e-4, atol=1e-4)


def test_the_model_goes_on_knowing_its_tasks_on_reconstructions(bridge: Any, sae: Any) -> None:
    plain = bridge(PROMPTS, padding_side="left")[:, -1].argmax(-1)
    spliced = bridge.run_with_saes(PROMPTS, saes=sae, padding_side="left")[:, -1].argmax(-1)
    assert (plain == spliced).float().mean() >= 0.75
    restored = bridge.run_with_saes(PROMPTS, sae, use_error_term=True, padding_side="left")
    assert torch.equal(restored, bridge(PROMPTS, padding_side="left"))


def test_attribution_through_the_sae_finds_the_features_whose_ablation_costs_most(
    bridge: Any, sae: Any
) -> None:
    """value · gradient ranks features as ablating each, one after the other, does."""
    name = f"{sae.cfg.hook_name}.hook_sae_acts_post"
    prompt = "Of 7 and 22 , the larger is"
    right, wrong = bridge.to_single_token("22"), bridge.to_single_token("7")

    def difference(logits: torch.Tensor) -> torch.Tensor:
        return logits[0, -1, right] - logits[0, -1, wrong]

    logits, cache = bridge.run_with_cache_with_saes(
        prompt, name, saes=sae, use_error_term=True, incl_bwd=True
    )
    clean = difference(logits)
    assert clean > 0
    clean.backward()
    guess = -(cache[name] * cache[f"{name}_grad"])[0].sum(0)
    active = (cache[name][0] > 0).any(0).nonzero().flatten().tolist()
    effects = torch.zeros_like(guess)
    for feature in active:

        def ablate(features: torch.Tensor, hook: Any, feature: int = feature) -> None:
            features[..., feature] = 0

        ablated = bridge.run_with_hooks_with_saes(
            prompt, saes=sae, use_error_term=True, fwd_hooks=[(name, ablate)]
        )
        effects[feature] = difference(ablated).detach() - clean.detach()
    assert torch.corrcoef(torch.stack([guess[active], effects[active]]))[0, 1] > 0.5
    assert float(effects.abs().max()) > 0.2


def test_features_steer_while_generating(bridge: Any, sae: Any) -> None:
    name = f"{sae.cfg.hook_name}.hook_sae_acts_post"
    steps: list[int] = []

    def push(features: torch.Tensor, hook: Any) -> None:
        steps.append(hook.step)
        features[..., 3] += 40

    prompt = "As Emma knows , the capital of France is"
    arguments: dict[str, Any] = {"max_new_tokens": 4, "stop_at_eos": False, "verbose": False}
    plain = bridge.generate(prompt, **arguments)
    with bridge.saes(sae, use_error_term=True):
        assert bridge.generate(prompt, **arguments) == plain
        with bridge.hooks([(name, push)]):
            steered = bridge.generate(prompt, **arguments)
    assert steps == [0, 1, 2, 3]
    assert steered != plain
    direction = sae.W_dec[3] * 40
    with bridge.hooks([(sae.cfg.hook_name, lambda x, hook: x + direction)]):
        assert bridge.generate(prompt, **arguments) == steered
