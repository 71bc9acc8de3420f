"""The part of a Bridge that turns text into token ids, and back."""

from __future__ import annotations

import torch

from bezel.model import Model
from bezel.text import PaddingSide, encode


class Tokens(Model):
    """Text → token ids → text."""

    def to_tokens(
        self,
        text: str | list[str],
        prepend_bos: bool | None = None,
        padding_side: PaddingSide | None = None,
    ) -> torch.Tensor:
        """Token ids [batch pos]; texts of different lengths are padded.

        Args:
            text: One text or several.
            prepend_bos: None puts <bos> first unless the text begins with it.
            padding_side: "right" (the default) or "left".
        """
        return encode(text, self.tokenizer, self.cfg, prepend_bos, padding_side).tokens
