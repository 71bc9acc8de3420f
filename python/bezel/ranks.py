"""How well a model answers a prompt, printed."""

# ruff: noqa: PT028  test_prompt is no test: the name is TransformerLens's

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from bezel.errors import ArgumentError
from bezel.running import Running


class AnswerRank(NamedTuple):
    """One token of an answer; a rank of 0 is the likeliest of all.

    Example:
        >>> AnswerRank("Hugo", rank=0, logit=15.4, probability=0.99).rank
        0
    """

    token: str
    rank: int
    logit: float
    probability: float


def test_prompt(  # noqa: PLR0913  TransformerLens's signature
    prompt: str,
    answer: str | Sequence[str],
    model: Running,
    prepend_space_to_answer: bool = True,
    print_details: bool = True,
    prepend_bos: bool | None = None,
    top_k: int = 10,
) -> list[AnswerRank]:
    """Prints how a prompt's answer ranks among all tokens.

    Args:
        prompt: The text before the answer.
        answer: The text expected next, of one token or several; or several such texts, which are
            compared by their first token.
        model: A Bridge.
        prepend_space_to_answer: Puts a space before an answer that has none.
        print_details: Also the tokens of both, and the likeliest ones at each place.
        prepend_bos: For the prompt, as in `to_tokens`.
        top_k: Likeliest tokens to print.

    Returns:
        Of one answer, each of its tokens; of several, the first token of each.

    Example:
        >>> prompt = "When Hugo and Mary went , Mary gave a drink to"
        >>> ranks = bezel.utils.test_prompt(prompt, "Hugo", b, print_details=False)
        Rank: 0        Logit: 15.37 Prob: 99.97% Token: |Hugo|
        Ranks of the answer tokens: [('Hugo', 0)]
    """
    answers = [answer] if isinstance(answer, str) else list(answer)
    if not answers or not all(isinstance(one, str) and one.strip() for one in answers):
        raise ArgumentError(f"the answer is {answer!r}; wanted a text or several")
    if prepend_space_to_answer:
        answers = [one if one.startswith(" ") else f" {one}" for one in answers]
    before = model.to_tokens(prompt, prepend_bos=prepend_bos)
    rows = [model.to_tokens(one, prepend_bos=False) for one in answers]
    if print_details:
        print("Tokenized prompt:", model.to_str_tokens(before))
        for row in rows:
            print("Tokenized answer:", model.to_str_tokens(row))
    logits = model(torch.cat([before, rows[0][:, :-1]], dim=1) if len(rows) == 1 else before)
    assert isinstance(logits, torch.Tensor)
    predictions = logits[0, before.shape[1] - 1 :].detach().float()
    if len(rows) > 1:
        ranks = [_rank(model, predictions[0], int(row[0, 0])) for row in rows]
    else:
        ranks = [
            _rank(model, at, int(token)) for at, token in zip(predictions, rows[0][0], strict=True)
        ]
    for place, rank in enumerate(ranks):
        print(
            f"Rank: {rank.rank:<8} Logit: {rank.logit:5.2f} Prob: {rank.probability:6.2%} "
            f"Token: |{rank.token}|"
        )
        if print_details and (len(rows) == 1 or place == len(ranks) - 1):
            _print_likeliest(model, predictions[place if len(rows) == 1 else 0], top_k)
    print("Ranks of the answer tokens:", [(rank.token, rank.rank) for rank in ranks])
    return ranks


test_prompt.__test__ = False  # type: ignore[attr-defined]  # for pytest it is no test


def _rank(model: Running, logits: torch.Tensor, token: int) -> AnswerRank:
    return AnswerRank(
        model.to_single_str_token(token),
        int((logits > logits[token]).sum()),
        float(logits[token]),
        float(logits.softmax(-1)[token]),
    )


def _print_likeliest(model: Running, logits: torch.Tensor, top_k: int) -> None:
    for place, token in enumerate(logits.topk(min(top_k, len(logits))).indices.tolist()):
        best = _rank(model, logits, token)
        print(
            f"Top {place}th token. Logit: {best.logit:5.2f} Prob: {best.probability:6.2%} "
            f"Token: |{best.token}|"
        )
