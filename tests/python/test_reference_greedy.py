"""Greedy continuations are those of transformers' generate, whatever ends a row."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bezel
from bezel.reference import capture_reference
from bezel.reference.bundle import Outcome
from bezel.reference.cases import Case
from bezel.reference.media import reference_arguments
from support import fixtures
from support.media import MEDIA_TOKEN_IDS
from support.media_fixtures import MEDIA_RECIPES
from support.references import N_NEW, NAMES, Bundles

PAD, EOS = 0, 1


def generated(model: nn.Module, outcome: Outcome, eos: list[int]) -> torch.Tensor:
    """What transformers generates: prompts end together."""
    case = outcome.case.ending_together()
    out = model.generate(
        case.tokens,
        attention_mask=case.attention_mask,
        max_new_tokens=N_NEW,
        do_sample=False,
        eos_token_id=eos or None,
        pad_token_id=PAD,
    )[:, case.tokens.shape[1] :]
    return torch.nn.functional.pad(out, (0, N_NEW - out.shape[1]), value=PAD)


@pytest.mark.parametrize("name", NAMES)
def test_continuations_are_those_of_generate(bundles: Bundles, name: str) -> None:
    model = bundles.model(name)
    for case, outcome in bundles.read(name).outcomes.items():
        if not outcome.case.media:
            assert torch.equal(outcome.greedy.tokens, generated(model, outcome, [1])), case


@pytest.mark.parametrize("name", MEDIA_RECIPES)
def test_continuations_behind_media_are_those_of_whole_runs(bundles: Bundles, name: str) -> None:
    """Each step runs the text anew; a generated media id is looked up as padding."""
    model: Any = bundles.model(name)
    seen = 0
    for case, outcome in bundles.read(name).outcomes.items():
        if not outcome.case.media:
            continue
        text, greedy = outcome.case, outcome.greedy
        is_open = torch.ones(len(text.tokens), dtype=torch.bool)
        for step in range(N_NEW):
            with torch.no_grad():
                logits = model(**step_arguments(model, text, step)).logits[:, -1]
            chosen = torch.where(is_open, logits.argmax(-1), PAD)
            assert torch.equal(greedy.tokens[:, step], chosen), (case, step)
            is_open &= chosen != EOS
            text = dataclasses.replace(
                text,
                tokens=torch.cat([text.tokens, chosen[:, None]], dim=1),
                attention_mask=torch.nn.functional.pad(text.attention_mask, (0, 1), value=1),
            )
            seen += 1
    assert seen >= 4 * N_NEW


def step_arguments(model: Any, text: Case, n_new: int) -> dict[str, Any]:
    tokens = text.tokens.clone()
    fresh = tokens[:, tokens.shape[1] - n_new :]
    fresh[torch.isin(fresh, torch.tensor(list(MEDIA_TOKEN_IDS.values())))] = PAD
    inputs = {"input_ids": tokens, "attention_mask": text.attention_mask, **text.media}
    return reference_arguments(model, inputs)


@pytest.mark.parametrize("name", ["nano", "moe", "wrapped_e2b"])
def test_gaps_are_those_of_the_uncached_logits(bundles: Bundles, name: str) -> None:
    model = bundles.model(name)
    outcome = bundles.read(name).outcomes["long"]
    text = outcome.case.tokens
    for step in range(N_NEW):
        with torch.no_grad():
            best = model(text).logits[0, -1].topk(2)
        chosen, gap = outcome.greedy.tokens[0, step], outcome.greedy.gap[0, step]
        if chosen == PAD:  # behind the end
            assert gap == 0
            break
        assert gap.item() == pytest.approx((best.values[0] - best.values[1]).item(), abs=1e-4)
        assert chosen == best.indices[0]
        text = torch.cat([text, chosen.reshape(1, 1)], dim=1)


def test_bezel_generates_the_continuations(bundles: Bundles) -> None:
    b = bezel.Bridge.from_pretrained(bundles.folder("nano"))
    for outcome in bundles.read("nano").outcomes.values():
        case = outcome.case.ending_together()
        got = b.generate(case.tokens, N_NEW, attention_mask=case.attention_mask, verbose=False)
        got = got[:, case.tokens.shape[1] :]
        assert torch.equal(got, outcome.greedy.tokens[:, : got.shape[1]])


def with_ends(bundles: Bundles, target: Path, eos: object, pad: int) -> Path:
    shutil.copytree(bundles.folder("mha"), target)
    (target / "generation_config.json").write_text(
        json.dumps({"eos_token_id": eos, "pad_token_id": pad})
    )
    return target


@pytest.mark.parametrize("n_ends", [1, 2, 3])
def test_every_eos_id_ends_a_row(bundles: Bundles, tmp_path: Path, n_ends: int) -> None:
    """Ends are taken from the endless continuations, one from each of several rows."""
    endless_folder = with_ends(bundles, tmp_path / "endless", None, 0)
    config = json.loads((endless_folder / "config.json").read_text())
    (endless_folder / "config.json").write_text(json.dumps(config | {"eos_token_id": None}))
    file = capture_reference(endless_folder, tmp_path / "e.h5", new_tokens=N_NEW, verbose=False)
    endless = bezel.reference.read(file).outcomes
    cases = ("prose", "code", "chat")[:n_ends]
    eos = [int(endless[case].greedy.tokens[0, 4]) for case in cases]
    folder = with_ends(bundles, tmp_path / "ended", eos if n_ends > 1 else eos[0], 7)
    file = capture_reference(folder, tmp_path / "x.h5", new_tokens=N_NEW, verbose=False)
    ended = 0
    for case, outcome in bezel.reference.read(file).outcomes.items():
        whole = endless[case].greedy
        for row in range(len(whole.tokens)):
            is_end = torch.isin(whole.tokens[row], torch.tensor(eos))
            length = int(is_end.int().argmax()) + 1 if is_end.any() else N_NEW
            ended += length < N_NEW
            got = outcome.greedy
            assert torch.equal(got.tokens[row, :length], whole.tokens[row, :length])
            assert (got.tokens[row, length:] == 7).all()
            assert (got.gap[row, length:] == 0).all()
            assert (got.gap[row, :length] > 0).all()
    assert ended >= n_ends


def test_the_ends_of_config_json_count_where_no_generation_config_is(
    bundles: Bundles, tmp_path: Path
) -> None:
    odd = list(range(1, fixtures.VOCAB, 2))
    folder = with_ends(bundles, tmp_path / "model", 1, 0)
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": odd}))
    file = capture_reference(folder, tmp_path / "x.h5", new_tokens=N_NEW, verbose=False)
    bundle = bezel.reference.read(file)
    assert bundle.generation_config == ""
    ended = 0
    for outcome in bundle.outcomes.values():
        for row in outcome.greedy.tokens.tolist():
            end = next((i for i, token in enumerate(row) if token % 2), N_NEW)
            assert not any(row[end + 1 :])
            ended += end < N_NEW - 1
    assert ended > 0
