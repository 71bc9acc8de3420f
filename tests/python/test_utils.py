"""utils.test_prompt prints and returns where the answer ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import bezel
from bezel.errors import ArgumentError

NANO = Path(__file__).resolve().parents[1] / "data" / "nano"
PROMPT = "When Hugo and Mary went to the shop , Mary gave a drink to"


@pytest.fixture(scope="module")
def nano() -> Any:
    return bezel.Bridge.from_pretrained(NANO)


def rank_by_sorting(logits: torch.Tensor, token: int) -> int:
    return logits.argsort(descending=True).tolist().index(token)


def test_the_answers_rank_is_printed_and_returned(
    nano: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (best,) = bezel.utils.test_prompt(PROMPT, "Hugo", nano)
    logits = nano(PROMPT)[0, -1]
    token = nano.to_single_token("Hugo")
    assert (best.token, best.rank) == ("Hugo", 0)
    assert best.logit == pytest.approx(float(logits[token]))
    assert best.probability == pytest.approx(float(logits.softmax(-1)[token]))
    out = capsys.readouterr().out
    assert "Tokenized prompt: ['<bos>', 'When', 'Hugo'" in out
    assert "Rank: 0        Logit:" in out
    assert out.count("Top ") == 10
    assert "Top 0th token" in out
    assert "Ranks of the answer tokens: [('Hugo', 0)]" in out


def test_each_token_of_a_longer_answer_is_ranked_after_those_before(nano: Any) -> None:
    ranks = bezel.utils.test_prompt(PROMPT, "Mary and", nano, print_details=False)
    after = nano.to_tokens(f"{PROMPT} Mary and")[0]
    logits = nano(after)[0]
    want = [rank_by_sorting(logits[place - 1], int(after[place])) for place in (-2, -1)]
    assert [rank.token for rank in ranks] == ["Mary", "and"]
    assert [rank.rank for rank in ranks] == want
    assert want[0] > 0


def test_several_answers_are_compared_by_their_first_token(
    nano: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks = bezel.utils.test_prompt(PROMPT, ["Hugo", "Mary and", "Paris"], nano, top_k=3)
    logits = nano(PROMPT)[0, -1]
    for rank, word in zip(ranks, ("Hugo", "Mary", "Paris"), strict=True):
        assert rank.token == word
        assert rank.rank == rank_by_sorting(logits, nano.to_single_token(word))
    assert capsys.readouterr().out.count("Top ") == 3


@pytest.mark.parametrize("prepend_bos", [None, True, False])
def test_prepend_bos_and_the_space_are_honoured(nano: Any, prepend_bos: bool | None) -> None:
    (rank,) = bezel.utils.test_prompt(
        PROMPT, "Mary", nano, print_details=False, prepend_bos=prepend_bos
    )
    logits = nano(PROMPT, prepend_bos=prepend_bos)[0, -1]
    assert rank.logit == pytest.approx(float(logits[nano.to_single_token("Mary")]))


@pytest.mark.parametrize("space", [True, False])
def test_a_space_is_put_before_the_answer_as_asked(space: bool) -> None:
    seen = []

    class Words:
        def to_tokens(self, text: str, prepend_bos: bool | None = None) -> torch.Tensor:
            seen.append(text)
            return torch.tensor([[1]])

        def to_single_str_token(self, token: int) -> str:
            return "x"

        def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
            return torch.zeros(1, tokens.shape[1], 3)

    for answer in ("a", " a"):
        bezel.utils.test_prompt("p", answer, Words(), space, print_details=False)  # type: ignore[arg-type]
    assert seen == ["p", " a" if space else "a", "p", " a"]


@pytest.mark.parametrize("answer", [[], "", " ", ["Hugo", ""], [3]])
def test_no_answer_is_refused(nano: Any, answer: Any) -> None:
    with pytest.raises(ArgumentError, match="the answer is"):
        bezel.utils.test_prompt(PROMPT, answer, nano)


def test_pytest_does_not_take_it_for_a_test() -> None:
    assert bezel.utils.test_prompt.__test__ is False
