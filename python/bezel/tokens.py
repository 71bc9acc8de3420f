"""The part of a Bridge that turns text into token ids, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from bezel import text
from bezel.errors import ArgumentError
from bezel.text import PaddingSide
from bezel.weights import Weights

Ids: TypeAlias = "torch.Tensor | np.ndarray[Any, Any] | Sequence[int]"
Message: TypeAlias = Mapping[str, Any]  # {"role": "user", "content": …}


class Tokens(Weights):
    """Text → token ids → text.

    `prepend_bos` is the same everywhere: None and True begin each text with <bos>, once, whether or
    not it spells it out (None: where the model has one); False adds nothing, and is right for a
    part of a prompt. Nothing is cut unless it is asked for.
    """

    def to_tokens(
        self,
        input: str | list[str],
        prepend_bos: bool | None = None,
        padding_side: PaddingSide | None = None,
        move_to_device: bool = True,
        truncate: bool = False,
    ) -> torch.Tensor:
        """Token ids of one text or several; shorter ones are padded.

        Args:
            input: One text or several. A conversation goes to `to_chat_tokens`.
            prepend_bos: None and True: <bos> first, once; False: nothing is added.
            padding_side: "right" (the default) or "left".
            move_to_device: To the model's device.
            truncate: True drops what goes beyond `cfg.max_positions`; the rest is never cut,
                whatever the tokenizer's own settings are.

        Returns:
            [batch pos] int64.

        Raises:
            ArgumentError: Without a tokenizer, or for what is no text.

        Example:
            >>> b.to_tokens("Emma knows")
            tensor([[ 2, 37, 20]])
        """
        tokens = text.encode(input, self.tokenizer, self.cfg, prepend_bos, padding_side, truncate)[
            0
        ]
        return tokens.to(self.device) if move_to_device else tokens

    def to_chat_tokens(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        add_generation_prompt: bool = True,
        padding_side: PaddingSide | None = None,
        **template_arguments: Any,
    ) -> torch.Tensor:
        """Token ids of a conversation in the tokenizer's chat template, <bos> once.

        Args:
            messages: {"role": "user", "content": "…"} one after another; or several such lists.
            add_generation_prompt: End with the words that open the model's turn.
            padding_side: As in `to_tokens`.
            **template_arguments: What the template takes besides, such as tools or enable_thinking.

        Returns:
            [batch pos] int64.

        Raises:
            ArgumentError: Where there is no tokenizer or no template, or for other messages.

        Example:
            >>> template = "{% for m in messages %}{{ m.role }} : {{ m.content }} {% endfor %}"
            >>> b.tokenizer.chat_template = template  # the shipped model has none
            >>> tokens = b.to_chat_tokens([{"role": "user", "content": "Emma knows"}])
            >>> b.to_str_tokens(tokens)
            ['<bos>', '<unk>', '<unk>', 'Emma', 'knows']
        """
        texts = text.chat_texts(self.tokenizer, messages, add_generation_prompt, template_arguments)
        return self.to_tokens(texts, padding_side=padding_side)

    def to_string(self, tokens: int | Ids) -> str | list[str]:
        """The text of token ids, special tokens included.

        Args:
            tokens: One id, [pos], or [batch pos].

        Returns:
            One text, or one for each row of [batch pos].

        Example:
            >>> b.to_string([37, 20])
            'Emma knows'
        """
        ids = text.ids_of(tokens, self.cfg.d_vocab)
        tokenizer = text.wanted_tokenizer(self.tokenizer)
        if ids.ndim == 2:
            return [text.decode(tokenizer, row) for row in ids.tolist()]
        if ids.ndim > 2:
            raise ArgumentError(f"the ids are {list(ids.shape)}; wanted [pos] or [batch pos]")
        return text.decode(tokenizer, ids.reshape(-1).tolist())

    def to_str_tokens(
        self,
        input: str | Ids | list[str],
        prepend_bos: bool | None = None,
        padding_side: PaddingSide | None = None,
    ) -> list[str] | list[list[str]]:
        """The text of each token by itself.

        Args:
            input: A text, or ids [pos] or [1 pos]; or a list of texts.
            prepend_bos: For text, as in `to_tokens`.
            padding_side: Of no effect, since texts are not padded here; TransformerLens has it.

        Returns:
            One str for each token; a list of such lists for a list of texts. A token that is part
            of a letter shows as "\N{REPLACEMENT CHARACTER}".

        Example:
            >>> b.to_str_tokens("Emma knows")
            ['<bos>', 'Emma', 'knows']
        """
        if isinstance(input, list) and input and not all(isinstance(one, int) for one in input):
            texts: list[Any] = input
            return [self._str_tokens(one, prepend_bos, padding_side) for one in texts]
        row: Any = input
        return self._str_tokens(row, prepend_bos, padding_side)

    def to_single_token(self, string: str) -> int:
        """The id of a text that is one token.

        Raises:
            ArgumentError: Where it is several (they are listed), none, or unknown.

        Example:
            >>> b.to_single_token(" Paris")
            177
        """
        if not isinstance(string, str):
            raise ArgumentError(f"to_single_token({string!r}); wanted a text")
        tokenizer = text.wanted_tokenizer(self.tokenizer)
        ids = text.plain_ids(tokenizer, string)
        if len(ids) != 1:
            pieces = [text.decode(tokenizer, [one]) for one in ids]
            raise ArgumentError(
                f"{string!r} is {len(ids)} tokens, {pieces}; wanted one. Spaces count: the word "
                "within a sentence may begin with one"
            )
        unknown = getattr(tokenizer, "unk_token_id", None)
        if ids[0] == unknown and string.strip() != tokenizer.unk_token:
            raise ArgumentError(f"{string!r} is no token: the tokenizer does not know it")
        return ids[0]

    def to_single_str_token(self, int_token: int) -> str:
        """The text of one token.

        Example:
            >>> b.to_single_str_token(2)
            '<bos>'
        """
        one = text.one_id_of(int_token, self.cfg.d_vocab)
        return text.decode(text.wanted_tokenizer(self.tokenizer), [one])

    def get_token_position(
        self,
        single_token: str | int | torch.Tensor,
        input: str | Ids,
        mode: Literal["first", "last"] = "first",
        prepend_bos: bool | None = None,
        padding_side: PaddingSide | None = None,
    ) -> int:
        """Where a token stands.

        Args:
            single_token: Its id, or a text that is one token.
            input: A text, or ids [pos] or [1 pos].
            mode: "first" or "last" of its places.
            prepend_bos: For text, as in `to_tokens`: a <bos> moves every other token by one.
            padding_side: Of no effect on one text; TransformerLens has it.

        Raises:
            ArgumentError: Where the token does not occur; the tokens that do are listed.

        Example:
            >>> b.get_token_position("Mary", "When Hugo and Mary went", mode="last")
            4
        """
        if mode not in ("first", "last"):
            raise ArgumentError(f'mode is {mode!r}; wanted "first" or "last"')
        if isinstance(single_token, str):
            wanted = self.to_single_token(single_token)
        else:
            wanted = text.one_id_of(single_token, self.cfg.d_vocab)
        row = self._one_row(input, prepend_bos, padding_side)
        places = [place for place, token in enumerate(row) if token == wanted]
        if not places:
            there = row if self.tokenizer is None else self._str_tokens(row, None, None)
            raise ArgumentError(f"token {single_token!r} ({wanted}) is not in the input: {there}")
        return places[0] if mode == "first" else places[-1]

    def tokens_to_residual_directions(self, tokens: str | int | Ids | list[str]) -> torch.Tensor:
        """The columns of W_U that belong to tokens: what the final norm's output is dotted with.

        The final norm's gain stands before them: multiply by `w_ln_final` for directions of
        ln_final.hook_normalized, or take them of a `folded()` copy.

        Args:
            tokens: A text that is one token, several such texts, an id, or ids [...].

        Returns:
            [... d_model]; [d_model] for one token, whatever axes of length 1 it has.

        Example:
            >>> b.tokens_to_residual_directions(["Hugo", "Mary"]).shape
            torch.Size([2, 96])
        """
        if isinstance(tokens, str):
            ids = torch.tensor(self.to_single_token(tokens))
        elif isinstance(tokens, list) and any(isinstance(one, str) for one in tokens):
            ids = torch.tensor([self.to_single_token(one) for one in tokens])
        else:
            ids = text.ids_of(tokens, self.cfg.d_vocab)
        ids = ids.reshape(()) if ids.numel() == 1 else ids
        return self.W_U.T[ids.to(self.device)]

    def _str_tokens(
        self, input: str | Ids, prepend_bos: bool | None, padding_side: PaddingSide | None
    ) -> list[str]:
        tokenizer = text.wanted_tokenizer(self.tokenizer)
        row = self._one_row(input, prepend_bos, padding_side)
        return [text.decode(tokenizer, [one]) for one in row]

    def _one_row(
        self, input: str | Ids, prepend_bos: bool | None, padding_side: PaddingSide | None
    ) -> list[int]:
        if isinstance(input, str):
            return self.to_tokens(input, prepend_bos, padding_side)[0].tolist()
        ids = text.ids_of(input, self.cfg.d_vocab)
        if ids.ndim == 2 and ids.shape[0] == 1:
            ids = ids[0]
        if ids.ndim > 1:
            raise ArgumentError(f"the ids are {list(ids.shape)}; wanted one row, [pos] or [1 pos]")
        return ids.reshape(-1).tolist()
