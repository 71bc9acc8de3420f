"""The inputs: different kinds of text through the checkpoint's tokenizer, or ids in their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from bezel.reference.cases import MAX_TOKENS, Case, make_cases
from bezel.reference.prompts import CHAT, PROMPTS
from support import fixtures, small_tokenizers
from support.references import NANO, Bundles

KINDS = ("prose", "code", "digits", "chat", "non_latin", "repeated", "long")
PADDED = ("padded_left", "padded_right")
PAD = 0


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def by_name(cases: list[Case]) -> dict[str, Case]:
    return {case.name: case for case in cases}


@pytest.fixture
def spoken(bundles: Bundles, tmp_path: Path) -> tuple[dict[str, Any], Any]:
    """A config and a tokenizer that has a token for every byte, and a chat template."""
    folder = small_tokenizers.with_tokenizer(
        bundles.folder("mha"), tmp_path / "spoken", small_tokenizers.byte_level(),
        chat_template=small_tokenizers.CHAT_TEMPLATE,
    )  # fmt: skip
    config = config_of(folder) | {"vocab_size": small_tokenizers.VOCAB}
    return config, AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", fixtures.RECIPES)
def test_there_are_nine_cases_and_they_are_short(bundles: Bundles, name: str) -> None:
    cases = make_cases(config_of(bundles.folder(name)), None, PAD)
    assert tuple(case.name for case in cases) == (*KINDS, *PADDED)
    assert len({tuple(case.tokens.flatten().tolist()) for case in cases}) == len(cases)
    assert all(case.tokens.dtype == case.attention_mask.dtype == torch.int64 for case in cases)
    assert all(case.tokens.shape[1] <= MAX_TOKENS for case in cases)
    assert all(case.about for case in cases)


@pytest.mark.parametrize("window", [2, 24, 512, 1024])
def test_the_long_case_is_longer_than_the_window(bundles: Bundles, window: int) -> None:
    config = config_of(bundles.folder("mha")) | {"sliding_window": window}
    long = by_name(make_cases(config, None, PAD))["long"]
    assert long.tokens.shape == (1, window + 16)
    config["max_position_embeddings"] = 20
    cases = make_cases(config, None, PAD)
    assert max(case.tokens.shape[1] for case in cases) <= 20


@pytest.mark.parametrize("name", fixtures.RECIPES)
def test_ids_that_stand_in_are_ordinary_behind_bos(bundles: Bundles, name: str) -> None:
    media = set(fixtures.MEDIA_IDS.values())
    for case in make_cases(config_of(bundles.folder(name)), None, PAD):
        ids = case.tokens[case.valid].tolist()
        assert ids.count(2) == len(case.tokens)
        others = {i for i in ids if i != 2}
        assert others
        assert min(others) > 3
        assert max(others) < fixtures.VOCAB
        assert not others & media or fixtures.RECIPES[name].wrapper == "none"


def test_ids_that_stand_in_are_of_the_kind(bundles: Bundles) -> None:
    cases = by_name(make_cases(config_of(bundles.folder("mha")), None, PAD))
    ids = {name: case.tokens[0, 1:].tolist() for name, case in cases.items() if name in KINDS}
    assert len(set(ids["digits"])) <= 10
    assert ids["repeated"][:5] == ids["repeated"][5:10]
    assert len(set(ids["repeated"])) == 5
    assert min(ids["non_latin"]) > fixtures.VOCAB * 0.7
    assert ids["code"][0] == ids["code"][6] == ids["code"][12]
    assert ids["chat"].count(ids["chat"][0]) >= 3


def test_texts_go_through_the_tokenizer(spoken: tuple[dict[str, Any], Any]) -> None:
    config, tokenizer = spoken
    cases = by_name(make_cases(config, tokenizer, PAD))
    for prompt in PROMPTS:
        if prompt.name == "chat":
            continue
        ids = cases[prompt.name].tokens[0].tolist()
        assert ids[0] == 2
        assert len(ids) == MAX_TOKENS
        assert prompt.texts[0].startswith(tokenizer.decode(ids[1:]).rstrip("\ufffd"))


def test_the_chat_case_is_the_template_s(spoken: tuple[dict[str, Any], Any]) -> None:
    config, tokenizer = spoken
    ids = by_name(make_cases(config, tokenizer, PAD))["chat"].tokens[0].tolist()
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": CHAT}], add_generation_prompt=True, tokenize=False
    )
    assert ids == tokenizer(text, add_special_tokens=False).input_ids[:MAX_TOKENS]
    assert ids[:2] == [2, 3]


def test_a_text_with_unknown_words_is_not_taken() -> None:
    tokenizer = AutoTokenizer.from_pretrained(NANO)
    cases = by_name(make_cases(config_of(NANO), tokenizer, PAD))
    for case in cases.values():
        assert tokenizer.unk_token_id not in case.tokens[case.valid]
    assert "Hugo and Mary" in tokenizer.decode(cases["prose"].tokens[0])
    assert "larger is 22" in tokenizer.decode(cases["digits"].tokens[0])
    bare = by_name(make_cases(config_of(NANO), None, PAD))
    assert torch.equal(cases["code"].tokens, bare["code"].tokens)  # no word for "def"
    assert not torch.equal(cases["prose"].tokens, bare["prose"].tokens)


def test_a_tokenizer_with_more_words_than_the_model_is_not_taken(
    spoken: tuple[dict[str, Any], Any],
) -> None:
    config, tokenizer = spoken
    config["vocab_size"] = 60
    for case in make_cases(config, tokenizer, PAD):
        assert int(case.tokens.max()) < 60


def test_both_paddings_hold_the_same_rows_of_different_lengths(bundles: Bundles) -> None:
    cases = by_name(make_cases(config_of(bundles.folder("mha")), None, 5))
    left, right = (cases[name] for name in PADDED)
    assert left.attention_mask.sum(1).tolist() == [7, 20, 13]
    for row in range(3):
        n = int(left.attention_mask[row].sum())
        assert left.attention_mask[row, -n:].all()
        assert right.attention_mask[row, :n].all()
        assert torch.equal(left.tokens[row, -n:], right.tokens[row, :n])
        assert left.positions[row, -n:].tolist() == right.positions[row, :n].tolist()
        assert left.positions[row, -n:].tolist() == list(range(n))
    for case in (left, right):
        assert (case.tokens[~case.valid] == 5).all()
        together = case.ending_together()
        assert torch.equal(together.tokens, left.tokens)
        assert torch.equal(together.attention_mask, left.attention_mask)


def test_the_same_checkpoint_gives_the_same_cases(bundles: Bundles) -> None:
    config = config_of(bundles.folder("e2b"))
    for first, second in zip(*(make_cases(config, None, PAD) for _ in range(2)), strict=True):
        assert torch.equal(first.tokens, second.tokens)
    # Ids of a generator that every Python has: a changed seed or order would show here.
    digits = by_name(make_cases(config, None, PAD))["digits"].tokens[0].tolist()
    assert digits[1:7] == [68, 132, 143, 143, 143, 100]
