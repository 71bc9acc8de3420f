"""The inputs of a reference: token ids and masks, made from texts where the tokenizer can.

Those with images, videos and sound stand in media_cases.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from bezel.reference.padding import Masks
from bezel.reference.prompts import LONG, PROMPTS, Prompt
from bezel.reference.values import positions_from

TEXT, IMAGES, SOUND = "P1", "P7", "P8"
MAX_TOKENS = 48  # of all cases but the long one
_BEYOND_WINDOW = 16  # tokens of the long case behind the first window
_SHORT_TOKENS = 24  # of ids that stand in for a text
_PADDED_ROWS = (("prose", 7), ("digits", 20), ("code", 13))  # case and tokens of each row
_FIRST_ORDINARY_ID = 4  # pad, eos, bos and unk stand before it in every Gemma 4 vocabulary
_SPECIAL_FIELDS = ("token_id", "token_index")  # endings of fields of a config that hold ids


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        name: What it is called in the bundle.
        about: What it is.
        tokens: int64 [batch pos]; the pad id at padding.
        attention_mask: int64 [batch pos]; 1 where a token is.
        phase: The phase of verification that reads it: "P1" of text, "P7" of images and videos,
            "P8" of sound.
        media: Forward arguments beside them, in transformers' names.
        media_masks: Where something is, along each axis of media that can have padding.
    """

    name: str
    about: str
    tokens: torch.Tensor
    attention_mask: torch.Tensor
    phase: str = TEXT
    media: Mapping[str, torch.Tensor] = field(default_factory=dict)
    media_masks: Masks = field(default_factory=dict)

    @property
    def positions(self) -> torch.Tensor:
        """[batch pos]; counts the valid tokens before each one."""
        return positions_from(self.attention_mask)

    @property
    def valid(self) -> torch.Tensor:
        """[batch pos], bool."""
        return self.attention_mask.bool()

    def ending_together(self) -> Case:
        """The same rows with their padding on the left, as a generation takes them."""
        order = self.attention_mask.sort(dim=1, stable=True).indices
        tokens, mask = (x.gather(1, order) for x in (self.tokens, self.attention_mask))
        return replace(self, tokens=tokens, attention_mask=mask)

    @property
    def masks(self) -> Masks:
        """Where something is, along each axis that can have padding."""
        return {"pos": self.valid} | self.media_masks


def make_cases(config: Mapping[str, Any], tokenizer: Any | None, pad: int) -> list[Case]:
    """The nine inputs of a model.

    Args:
        config: config.json; text fields may stand in text_config.
        tokenizer: transformers' tokenizer, or None.
        pad: The id that stands at padding.
    """
    encoder = _Encoder(config, tokenizer)
    window = int(encoder.text.get("sliding_window") or MAX_TOKENS)
    ids = {prompt.name: encoder.encode(prompt, MAX_TOKENS) for prompt in PROMPTS}
    abouts = {prompt.name: prompt.about for prompt in PROMPTS}
    n_long = min(window + _BEYOND_WINDOW, encoder.max_positions)
    first = encoder.encode(LONG, n_long)
    ids["long"] = (first + first[1:] * n_long)[:n_long]
    abouts["long"] = f"{LONG.about} of {window} tokens"
    cases = [case_of(name, abouts[name], [row], pad) for name, row in ids.items()]
    rows = [(ids[name] * n)[:n] for name, n in _PADDED_ROWS]
    left = case_of("padded_left", "three rows of different lengths, padded on the left", rows, pad)
    shifted = [
        torch.stack([row.roll(-int(n)) for row, n in zip(part, _n_padding(left), strict=True)])
        for part in (left.tokens, left.attention_mask)
    ]
    right = Case("padded_right", "the same rows, padded on the right", shifted[0], shifted[1])
    return [*cases, left, right]


def _n_padding(case: Case) -> torch.Tensor:
    return (case.attention_mask == 0).sum(1)


def case_of(name: str, about: str, rows: list[list[int]], pad: int) -> Case:
    """Rows that end together."""
    length = max(map(len, rows))
    tokens = torch.tensor([[pad] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return Case(name, about, tokens, mask)


def ordinary_ids(config: Mapping[str, Any], tokenizer: Any | None) -> list[int]:
    """The ids that mean nothing special."""
    text: Mapping[str, Any] = config.get("text_config") or config
    specials = set(range(_FIRST_ORDINARY_ID)) | set(_special_ids(config))
    specials |= set(_special_ids(text)) | set(getattr(tokenizer, "all_special_ids", ()))
    return [i for i in range(int(text["vocab_size"])) if i not in specials]


class _Encoder:
    """Ids of a prompt: of its text, or, where the tokenizer lacks words for it, of its kind."""

    def __init__(self, config: Mapping[str, Any], tokenizer: Any | None) -> None:
        self.text: Mapping[str, Any] = config.get("text_config") or config
        self.tokenizer = tokenizer
        self.vocab = int(self.text["vocab_size"])
        self.max_positions = int(self.text.get("max_position_embeddings") or 1 << 30)
        self.ordinary = ordinary_ids(config, tokenizer)
        bos = self.text.get("bos_token_id", config.get("bos_token_id"))
        self.bos = [bos] if isinstance(bos, int) and bos < self.vocab else []

    def encode(self, prompt: Prompt, limit: int) -> list[int]:
        """At most `limit` ids, <bos> first."""
        limit = min(limit, self.max_positions)
        for text in prompt.texts if self.tokenizer is not None else ():
            ids = self._chat(text) if prompt.name == "chat" else self._words(text)
            if ids and all(self._is_known(i) for i in ids):
                return ids[:limit]
        return self._stand_in(prompt.name)[:limit]

    def _words(self, text: str) -> list[int]:
        assert self.tokenizer is not None
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return [*self.bos, *ids] if ids else []

    def _chat(self, text: str) -> list[int]:
        assert self.tokenizer is not None
        if not getattr(self.tokenizer, "chat_template", None):
            return []
        written = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
        )
        ids: list[int] = self.tokenizer(written, add_special_tokens=False).input_ids
        return ids

    def _is_known(self, token: int) -> bool:
        return 0 <= token < self.vocab and token != getattr(self.tokenizer, "unk_token_id", None)

    def _stand_in(self, name: str) -> list[int]:
        """Ids from a generator seeded by the name: the same on every machine."""
        rng, pool, n = random.Random(f"bezel reference {name}"), self.ordinary, _SHORT_TOKENS
        if name == "digits":
            ids = rng.choices(rng.sample(pool, min(10, len(pool))), k=n)
        elif name == "code":  # lines that begin alike
            indent = rng.choice(pool)
            ids = [indent if i % 6 == 0 else rng.choice(pool) for i in range(n)]
        elif name == "non_latin":  # the rare end of the vocabulary
            ids = rng.choices(pool[-max(1, len(pool) // 4) :], k=n)
        elif name == "repeated":
            ids = (rng.sample(pool, min(5, len(pool))) * n)[:n]
        elif name == "chat":  # two turns between the same marks
            mark = rng.choice(pool)
            ids = [mark, *rng.choices(pool, k=n // 2), mark, *rng.choices(pool, k=n // 3), mark]
        else:
            ids = rng.choices(pool, k=n)
        return [*self.bos, *ids]


def _special_ids(config: Mapping[str, Any]) -> list[int]:
    found: list[int] = []
    for key, value in config.items():
        if key.endswith(_SPECIAL_FIELDS):
            values = value if isinstance(value, list) else [value]
            found += [i for i in values if isinstance(i, int)]
    return found
