"""A TransformerLens exploratory analysis, line for line but for its first two, on the miniature.

It finds the circuit that the miniature is known to have: at the last position head 6.1 reads who
gives (the name at its second place), and heads 0, 1 and 3 of the last block then copy the other
name from its first place.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import bezel
from bezel import patching, utils

NANO = Path(__file__).resolve().parents[1] / "data" / "nano"
CLEAN = "When Hugo and Mary went to the shop , Mary gave a drink to"
CORRUPTED = "When Hugo and Mary went to the shop , Hugo gave a drink to"
FIRST_NAME, GIVER, END = 2, 10, -1  # positions; <bos> stands at 0
SUBJECT_HEAD = (6, 1)
NAME_MOVERS = [(9, 0), (9, 1), (9, 3)]


@pytest.fixture(scope="module")
def model() -> Any:
    return bezel.Bridge.from_pretrained(str(NANO))


@pytest.fixture(scope="module")
def clean(model: Any) -> Any:
    return model.run_with_cache(CLEAN)


@pytest.fixture(scope="module")
def corrupted(model: Any) -> Any:
    return model.run_with_cache(CORRUPTED)


def logit_difference(logits: torch.Tensor, model: Any) -> torch.Tensor:
    """Of the name that is right in CLEAN, and the other."""
    end = logits[:, END]
    return (end[:, model.to_single_token("Hugo")] - end[:, model.to_single_token("Mary")]).mean()


def top(values: torch.Tensor, n: int) -> set[tuple[int, int]]:
    """The (layer, head) of the n largest."""
    places = values.flatten().argsort(descending=True)[:n].tolist()
    return {divmod(place, values.shape[1]) for place in places}


def test_the_model_knows_the_answer(model: Any, clean: Any, corrupted: Any) -> None:
    assert logit_difference(clean[0], model) > 10
    assert logit_difference(corrupted[0], model) < -10
    assert model.to_str_tokens(CLEAN)[FIRST_NAME].strip() == "Hugo"
    assert model.to_str_tokens(CLEAN)[GIVER].strip() == "Mary"
    (rank,) = utils.test_prompt(CLEAN, "Hugo", model, prepend_space_to_answer=False)
    assert rank.rank == 0


def test_direct_attribution_finds_the_name_movers(model: Any, clean: Any) -> None:
    logits, cache = clean
    names = {"tokens": "Hugo", "incorrect_tokens": "Mary"}
    parts, labels = cache.decompose_resid(layer=-1, pos_slice=END, return_labels=True)
    by_part = cache.logit_attrs(parts, pos_slice=END, **names).mean(-1)
    assert labels[by_part.argmax()] == "9_attn_out"
    # The parts are the whole: their sum is the difference before the softcap.
    before_softcap = cache["hook_unembed"][:, END]
    wanted = (
        before_softcap[0, model.to_single_token("Hugo")]
        - before_softcap[0, model.to_single_token("Mary")]
    )
    torch.testing.assert_close(by_part.sum(), wanted, rtol=1e-5, atol=1e-4)
    assert wanted > logit_difference(logits, model)

    heads = cache.stack_head_results(layer=-1, pos_slice=END)
    by_head = cache.logit_attrs(heads, pos_slice=END, **names).mean(-1)
    assert top(by_head.view(model.cfg.n_layers, -1), 3) == set(NAME_MOVERS)


def test_the_logit_lens_sees_the_answer_behind_the_head_that_reads_the_giver(
    model: Any, clean: Any
) -> None:
    streams, labels = clean[1].accumulated_resid(
        layer=-1, apply_ln=True, pos_slice=END, return_labels=True
    )
    lens = streams @ model.W_U
    answer, other = model.to_single_token("Hugo"), model.to_single_token("Mary")
    leads = (lens[..., answer] - lens[..., other]).squeeze(-1)
    assert leads[labels.index("7_pre")] > 2 * leads[labels.index("6_pre")]
    assert leads.argmax() == labels.index("final_post")
    assert leads[:6].max() < 5


def test_patching_finds_the_head_that_reads_the_giver(
    model: Any, clean: Any, corrupted: Any
) -> None:
    low, high = (logit_difference(logits, model) for logits, _ in (corrupted, clean))

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return (logit_difference(logits, model) - low) / (high - low)

    tokens = model.to_tokens(CORRUPTED)
    result = patching.get_act_patch_attn_head_out_all_pos(model, tokens, clean[1], metric)
    assert result.shape == (model.cfg.n_layers, model.cfg.n_heads)
    assert top(result, 1) == {SUBJECT_HEAD}
    assert result[SUBJECT_HEAD] > 0.9
    # One cell of it, with a hook of one's own.
    layer, head = SUBJECT_HEAD

    def patch_head(z: torch.Tensor, hook: Any) -> torch.Tensor:
        z[:, :, head] = clean[1][hook.name][:, :, head]
        return z

    name = utils.get_act_name("z", layer)
    logits = model.run_with_hooks(tokens, fwd_hooks=[(name, patch_head)])
    torch.testing.assert_close(metric(logits), result[SUBJECT_HEAD], rtol=1e-5, atol=1e-5)


def test_patterns_show_what_the_heads_read(clean: Any) -> None:
    _, cache = clean
    layer, head = SUBJECT_HEAD
    assert cache["pattern", layer][0, head, END, GIVER] > 0.9
    for layer, head in NAME_MOVERS:
        pattern = cache["pattern", layer][0, head, END]
        assert pattern.argmax() == FIRST_NAME
        assert pattern[FIRST_NAME] > 0.7


def test_ablation_shows_that_the_heads_are_needed(model: Any, clean: Any) -> None:
    whole = logit_difference(clean[0], model)

    def ablate(z: torch.Tensor, hook: Any, head: int) -> None:
        z[:, :, head] = 0

    def without(heads: list[tuple[int, int]]) -> torch.Tensor:
        hooks = [(utils.get_act_name("z", i), partial(ablate, head=head)) for i, head in heads]
        return logit_difference(model.run_with_hooks(CLEAN, fwd_hooks=hooks), model)

    assert without([SUBJECT_HEAD]) < 0.1 * whole
    assert without(NAME_MOVERS) < 0.1 * whole
    others = [(i, h) for i in range(6, 10) for h in range(4)]
    spared = [head for head in others if head not in (SUBJECT_HEAD, *NAME_MOVERS)]
    assert without(spared[:4]) > 0.5 * whole


def test_an_edited_pattern_moves_the_answer(model: Any) -> None:
    layer, head = SUBJECT_HEAD

    def look_at_the_other_name(pattern: torch.Tensor, hook: Any) -> None:
        pattern[:, head, END] = 0
        pattern[:, head, END, FIRST_NAME] = 1

    hooks = [(utils.get_act_name("pattern", layer), look_at_the_other_name)]
    assert logit_difference(model.run_with_hooks(CLEAN, fwd_hooks=hooks), model) < 0


def test_steering_in_generation_gives_the_other_name(
    model: Any, clean: Any, corrupted: Any
) -> None:
    layer, _ = SUBJECT_HEAD
    name = utils.get_act_name("resid_post", layer)
    direction = corrupted[1][name][0, END] - clean[1][name][0, END]

    def steer(stream: torch.Tensor, hook: Any) -> None:
        if hook.step == 0:
            stream[:, END] += direction

    plain = model.generate(CLEAN, max_new_tokens=1, verbose=False)
    with model.hooks(fwd_hooks=[(name, steer)]):
        steered = model.generate(CLEAN, max_new_tokens=1, verbose=False)
    assert plain == f"{CLEAN} Hugo"
    assert steered == f"{CLEAN} Mary"
    assert model.generate(CLEAN, max_new_tokens=1, verbose=False) == plain  # nothing stands
