"""Text → token ids, and back."""

from __future__ import annotations

from collections.abc import Mapping
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
    truncate: bool = False,
) -> Encoded:
    """Ids of each text, <bos> first unless it is there already, padded to equal lengths."""
    texts = [text] if isinstance(text, str) else text
    _want_texts(texts)
    wanted_tokenizer(tokenizer)
    if padding_side not in (None, "left", "right"):
        raise ArgumentError(f'padding_side is {padding_side!r}; wanted "left" or "right"')
    rows = [_ids(one, tokenizer, spec.bos_token_id, prepend_bos) for one in texts]
    if truncate:
        rows = [row[: spec.max_positions] for row in rows]
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


def chat_texts(
    tokenizer: Any, messages: Any, add_generation_prompt: bool, arguments: dict[str, Any]
) -> list[str]:
    """Each conversation as the text that the tokenizer's chat template makes of it."""
    wanted_tokenizer(tokenizer)
    if getattr(tokenizer, "chat_template", None) is None:
        raise ArgumentError(
            "this model's tokenizer has no chat template (base models have none); write the prompt "
            "out and use to_tokens, or set b.tokenizer.chat_template"
        )
    conversations = [messages] if _is_conversation(messages) else messages
    is_list = isinstance(conversations, list | tuple) and len(conversations) > 0
    if not is_list or not all(map(_is_conversation, conversations)):
        raise ArgumentError(
            f'messages are {messages!r}; wanted [{{"role": …, "content": …}}, …] or lists of these'
        )
    return [
        tokenizer.apply_chat_template(
            list(one), tokenize=False, add_generation_prompt=add_generation_prompt, **arguments
        )
        for one in conversations
    ]


def ids_of(tokens: Any, d_vocab: int) -> torch.Tensor:
    """Ids of any axes as an integer tensor on the CPU, within the vocabulary."""
    try:
        ids = torch.as_tensor(tokens).cpu()
    except (TypeError, ValueError, RuntimeError):
        raise ArgumentError(f"the tokens are {tokens!r}; wanted ids") from None
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool or ids.numel() == 0:
        raise ArgumentError(f"the tokens are {tokens!r}; wanted ids, integers")
    if int(ids.min()) < 0 or int(ids.max()) >= d_vocab:
        raise ArgumentError(
            f"the tokens are from {int(ids.min())} to {int(ids.max())}; wanted 0 to {d_vocab - 1}"
        )
    return ids


def one_id_of(token: Any, d_vocab: int) -> int:
    """One id, whatever axes of length 1 it has."""
    ids = ids_of(token, d_vocab)
    if ids.numel() != 1:
        raise ArgumentError(f"the token is {token!r}; wanted one id")
    return int(ids)


def wanted_tokenizer(tokenizer: Any | None) -> Any:
    """The tokenizer, where there is one."""
    if tokenizer is None:
        raise ArgumentError(
            "text is asked for and this model has no tokenizer (no tokenizer.json in its folder, "
            "or transformers is not installed); give token ids, or tokenizer= to from_pretrained"
        )
    return tokenizer


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text: nothing added, nothing cut, whatever the tokenizer's files set."""
    encoded = tokenizer(
        text, add_special_tokens=False, truncation=False, padding=False, verbose=False
    )
    ids: list[int] = encoded["input_ids"]
    return ids


def decode(tokenizer: Any, ids: list[int]) -> str:
    """The text of ids as it stands: special tokens kept, no spaces tidied."""
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def _want_texts(texts: Any) -> None:
    is_list = isinstance(texts, list | tuple) and len(texts) > 0
    if is_list and all(isinstance(one, str) for one in texts):
        return
    if is_list and any(isinstance(one, Mapping) or _is_conversation(one) for one in texts):
        raise ArgumentError("the input is a conversation; to_chat_tokens turns it into ids")
    raise ArgumentError(f"the input is {texts!r}; wanted a tensor, a text or a list of texts")


def _is_conversation(messages: Any) -> bool:
    is_list = isinstance(messages, list | tuple) and len(messages) > 0
    return is_list and all(isinstance(one, Mapping) and "role" in one for one in messages)


def _ids(text: str, tokenizer: Any, bos: int | None, prepend_bos: bool | None) -> list[int]:
    ids = plain_ids(tokenizer, text)
    if prepend_bos and bos is None:
        raise ArgumentError("prepend_bos=True, and this model has no bos token id")
    if prepend_bos is False or bos is None or ids[:1] == [bos]:
        return ids
    return [bos, *ids]
