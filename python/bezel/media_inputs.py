"""The part of a Bridge that makes forward arguments of images, videos and sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from bezel.arguments import MEDIA
from bezel.errors import ArgumentError
from bezel.text import PaddingSide
from bezel.token_types import TokenTypes, types_of
from bezel.tokens import Tokens


class MediaInputs(Tokens):
    """Media → tensors, through the checkpoint's own processor; and which token stands for what."""

    def prepare_multimodal_inputs(  # noqa: PLR0913  one argument for each kind
        self,
        text: str | list[str],
        images: Any | None = None,
        videos: Any | None = None,
        audio: Any | None = None,
        *,
        sampling_rate: int | None = None,
        prepend_bos: bool | None = None,
        padding_side: PaddingSide | None = None,
        **arguments: Any,
    ) -> dict[str, Any]:
        """What a run takes, made of text and media by the checkpoint's Hugging Face processor.

        Args:
            text: One text or several, with the processor's mark where each medium stands
                (`b.processor.image_token`, `video_token`, `audio_token`). A conversation becomes
                such a text by the tokenizer's chat template.
            images: As the processor takes them: PIL images, arrays or tensors; one, or a list for
                one text, or a list of lists for several texts.
            videos: The same of frames [frame height width 3]; see `video_metadata` of the
                processor for their times.
            audio: Waves [sample], one or several.
            sampling_rate: Of the waves, in Hz; must be the processor's own, which resamples
                nothing. None: they have it.
            prepend_bos: As in `to_tokens`.
            padding_side: "left" or "right"; None is the tokenizer's own. `generate` wants "left".
            **arguments: Of the processor.

        Returns:
            `input` [batch pos], `attention_mask` where a row is padded, `mm_token_type_ids` and the
            tensors of the media: `b(**inputs)`, `b.generate(**inputs)`.

        Raises:
            ArgumentError: Without a processor, and for what the processor refuses.

        Example:
            >>> b.prepare_multimodal_inputs("Emma knows")  # doctest: +SKIP
            {'input': tensor([[ 2, 37, 20]]), …}
        """
        processor = self._processor_source.wanted()
        texts = [self._begun(processor, one, prepend_bos) for one in _texts(text)]
        _check_rate(processor, sampling_rate)
        given = {"images": images, "videos": videos, "audio": audio}
        given |= arguments | ({"padding_side": padding_side} if padding_side else {})
        try:
            made = processor(
                text=texts,
                return_tensors="pt",
                add_special_tokens=False,  # <bos> stands in the text already
                **{name: value for name, value in given.items() if value is not None},
            )
        except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            raise ArgumentError(f"the processor refused its input: {error}") from error
        return self._inputs_of(made)

    def token_types(self, tokens: torch.Tensor | str | list[str]) -> TokenTypes:
        """Which token is text, and which stands for a part of an image, a video or a clip.

        Args:
            tokens: Ids [batch pos] or [pos], or text as in `to_tokens`.

        Returns:
            Types, and numbers of images, frames and clips, each [batch pos].

        Example:
            >>> b.token_types(b.to_tokens("Emma knows")).type
            tensor([[0, 0, 0]])
        """
        ids = tokens if isinstance(tokens, torch.Tensor) else self.to_tokens(tokens)
        if ids.dim() == 1:
            ids = ids.unsqueeze(0)
        if ids.dim() != 2 or ids.is_floating_point():
            raise ArgumentError(
                f"tokens are {ids.dtype} {list(ids.shape)}; wanted ids [batch pos] or [pos]"
            )
        return types_of(ids, self.cfg.media_ids)

    def _begun(self, processor: Any, text: str, prepend_bos: bool | None) -> str:
        bos = getattr(getattr(processor, "tokenizer", None), "bos_token", None)
        if prepend_bos and not bos:
            raise ArgumentError("prepend_bos=True, and this processor has no bos token")
        if prepend_bos is False or not bos or text.startswith(bos):
            return text
        return f"{bos}{text}"

    def _inputs_of(self, made: Mapping[str, Any]) -> dict[str, Any]:
        inputs: dict[str, Any] = {"input": made["input_ids"]}
        mask = made.get("attention_mask")
        if mask is not None and not bool(mask.all()):
            inputs["attention_mask"] = mask
        inputs |= {name: made[name] for name in MEDIA if made.get(name) is not None}
        if isinstance(made.get("pixel_values"), list):
            raise ArgumentError("the processor gave images of several sizes as a list of tensors")
        return inputs


def _texts(text: str | list[str]) -> list[str]:
    texts = [text] if isinstance(text, str) else text
    is_list = isinstance(texts, list | tuple) and len(texts) > 0
    if not is_list or not all(isinstance(one, str) for one in texts):
        raise ArgumentError(f"text is {text!r}; wanted a text or a list of texts")
    return list(texts)


def _check_rate(processor: Any, sampling_rate: int | None) -> None:
    own = getattr(getattr(processor, "feature_extractor", None), "sampling_rate", None)
    if sampling_rate is not None and sampling_rate != own:
        raise ArgumentError(
            f"sampling_rate is {sampling_rate} Hz and the processor's is {own} Hz; resample the "
            "audio first"
        )
