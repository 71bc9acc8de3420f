"""Text → token ids, and back."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch

from bezel import _C
from bezel.errors import ArgumentError

PaddingSide = Literal["left", "right"]


class Encoded(NamedTuple):
    """tokens [batch pos] int64; attention_mask [batch pos], 0 at padding, None without padding."""

    tokens: torch.Tensor
    attention_mask: torch.Tensor | None


def encode(
    text: str | list[str],
    tokenizer: Any,
    spec: _C.ModelSpec,
    prepend_bos: bool | None,
    padding_side: PaddingSide | None,
) -> Encoded:
    """Ids of each text, <bos> first unless it is there already, padded to equal lengths."""
    texts = [text] if isinstance(text, str) else text
    is_texts = isinstance(texts, list | tuple) and all(isinstance(one, str) for one in texts)
    if not is_texts or not texts:
        raise ArgumentError(f"the input is {text!r}; wanted a tensor, a text or a list of texts")
    if tokenizer is None:
        raise ArgumentError(
            "the input is text and this model has no tokenizer (no tokenizer.json in its folder, "
            "or transformers is not installed); give token ids, or tokenizer= to from_pretrained"
        )
    if padding_side not in (None, "left", "right"):
        raise ArgumentError(f'padding_side is {padding_side!r}; wanted "left" or "right"')
    rows = [_ids(one, tokenizer, spec.bos_token_id, prepend_bos) for one in texts]
    longest = max(map(len, rows))
    if longest == 0 or min(map(len, rows)) == 0:
        raise ArgumentError("a text has no tokens; wanted at least one (or prepend_bos=True)")
    if all(len(row) == longest for row in rows):
        return Encoded(torch.tensor(rows), None)
    pad = spec.pad_token_id or 0
    left = padding_side == "left"
    tokens = torch.full((len(rows), longest), pad)
    mask = torch.zeros((len(rows), longest), dtype=torch.int64)
    for i, row in enumerate(rows):
        place = slice(longest - len(row), longest) if left else slice(len(row))
        tokens[i, place] = torch.tensor(row)
        mask[i, place] = 1
    return Encoded(tokens, mask)


def _ids(text: str, tokenizer: Any, bos: int | None, prepend_bos: bool | None) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if prepend_bos is None:  # once, whether or not the text spells it out
        prepend_bos = bos is not None and ids[:1] != [bos]
    if not prepend_bos:
        return ids
    if bos is None:
        raise ArgumentError("prepend_bos=True, and this model has no bos token id")
    return [bos, *ids]
