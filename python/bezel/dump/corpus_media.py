"""Documents with images, videos or sound: what a run takes of them.

Pixels and waves are large, so that nothing of them is kept: a document is counted and hashed once,
before the first run, and made again with its batch.
"""

from __future__ import annotations

import hashlib
import io
import numbers
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch.nn import functional

from bezel.arguments import MEDIA
from bezel.dump.fingerprint import digest
from bezel.errors import ArgumentError

if TYPE_CHECKING:
    from bezel.bridge import Bridge

Inputs: TypeAlias = dict[str, torch.Tensor]  # "input" [1 pos] and the tensors of MEDIA
TYPES = "mm_token_type_ids"
_TENSORS = tuple(name for name in MEDIA if name != TYPES)
_FIELDS = {  # of a document: the processor's argument, and whether the field holds several
    "images": ("images", True), "image": ("images", False), "videos": ("videos", True),
    "video": ("videos", False), "audio": ("audio", True),
}  # fmt: skip


def has_media(document: Any) -> bool:
    """Whether a document of a corpus is more than a text or ids."""
    return isinstance(document, dict) and (_is_prepared(document) or bool(_given(document)))


def prepared(
    b: Bridge, document: dict[str, Any], text: str | None, folder: Path, prepend_bos: bool | None
) -> Inputs:
    """What a run takes of a document, through the checkpoint's processor.

    Args:
        b: The model.
        document: "images", "image": PIL images, arrays or paths; "videos", "video": of frames;
            "audio": waves, paths, or {"array", "sampling_rate"}. Or what
            `prepare_multimodal_inputs` made of one text.
        text: With the processor's mark where each medium stands; None for what is made already.
        folder: Paths begin here.
        prepend_bos: As in `prepare_multimodal_inputs`.

    Raises:
        ArgumentError: For media that cannot be read, or that the processor refuses.
    """
    if _is_prepared(document):
        return _checked(b, document)
    given = _given(document)
    waves = [_wave(clip, folder) for clip in given.get("audio", [])]
    rates = {rate for _, rate in waves if rate is not None}
    if len(rates) > 1:
        raise ArgumentError(f"its clips have the rates {sorted(rates)} Hz; wanted one")
    made = b.prepare_multimodal_inputs(
        text or "",
        images=[_image(image, folder) for image in given.get("images", [])] or None,
        videos=[_frames(video, folder) for video in given.get("videos", [])] or None,
        audio=[wave for wave, _ in waves] or None,
        sampling_rate=rates.pop() if rates else None,
        prepend_bos=prepend_bos,
    )
    return _checked(b, made)


class MediaDocuments:
    """The documents of a corpus that have media, by number.

    Args:
        documents: Of the corpus; read a second time, when their batch runs.
        prepare: A document → what a run takes.
    """

    def __init__(self, documents: Sequence[Any], prepare: Callable[[Any], Inputs]) -> None:
        self._documents, self._prepare = documents, prepare
        self._digests: dict[int, str] = {}
        self._first_with: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._digests)

    def add(self, number: int, document: Any) -> torch.Tensor:
        """Counts a document; its ids [pos]."""
        inputs = self._prepare(document)
        self._digests[number] = digest(inputs.items())
        for name in inputs:
            self._first_with.setdefault(name, number)
        return inputs["input"][0]

    def fingerprint(self) -> str:
        """SHA-256 of all that a run takes of them."""
        found = sorted(self._digests.items())
        return hashlib.sha256(repr(found).encode()).hexdigest()

    def numbers(self) -> list[int]:
        """Ascending."""
        return sorted(self._digests)

    def samples(self) -> list[int]:
        """A few documents that have together every kind of media of the corpus."""
        return sorted(set(self._first_with.values()))

    def of(self, numbers: Iterable[int]) -> Inputs:
        """The media of these documents, one behind the other, without their ids.

        Raises:
            ArgumentError: A document is not what it was when it was counted.
        """
        return _joined([self._again(number) for number in numbers if number in self._digests])

    def _again(self, number: int) -> Inputs:
        inputs = self._prepare(self._documents[number])
        if digest(inputs.items()) != self._digests[number]:
            raise ArgumentError(
                f"document {number} of the corpus changed while the dump ran: its media are not "
                "what was counted; begin again with a corpus that stays as it is"
            )
        return inputs


def _is_prepared(document: dict[str, Any]) -> bool:
    return any(document.get(name) is not None for name in _TENSORS)


def _given(document: dict[str, Any]) -> dict[str, list[Any]]:
    """Media by the processor's argument, each a list."""
    found: dict[str, list[Any]] = {}
    for field, (name, is_list) in _FIELDS.items():
        value = document.get(field)
        if value is None:
            continue
        several = is_list and isinstance(value, list | tuple)
        several = several and not (value and isinstance(value[0], numbers.Number))  # one clip
        found.setdefault(name, []).extend(value if several else [value])
    return {name: media for name, media in found.items() if media}


def _checked(b: Bridge, made: dict[str, Any]) -> Inputs:
    ids = made.get("input")
    if not isinstance(ids, torch.Tensor) or ids.is_floating_point() or ids.dim() > 2:
        raise ArgumentError('its "input" is no tensor of ids [1 pos], beside tensors of media')
    ids = ids.reshape(1, -1)
    unknown = [name for name in made if name not in ("input", "attention_mask", *MEDIA)]
    mask, types = made.get("attention_mask"), made.get(TYPES)
    if unknown or (mask is not None and not bool(mask.all())):
        raise ArgumentError(
            f"it has {', '.join(unknown) or 'padding'}; wanted what prepare_multimodal_inputs "
            "makes of one text"
        )
    if types is not None and not torch.equal(types.reshape(1, -1), b.token_types(ids).type):
        raise ArgumentError(f"its {TYPES} are not those of its ids")
    tensors = {name: made[name] for name in _TENSORS if made.get(name) is not None}
    if "input_features" in tensors:  # beside others it may need one
        ones = torch.ones(tensors["input_features"].shape[:2], dtype=torch.int64)
        tensors.setdefault("input_features_mask", ones)
    b.plan(ids, "hook_tokens", **tensors)  # refuses other than as many tokens as soft tokens
    return {"input": ids, **tensors}


def _image(given: Any, folder: Path) -> Any:
    if isinstance(given, dict):  # of a dataset that does not decode
        given = io.BytesIO(given["bytes"]) if given.get("bytes") else given.get("path")
    if not isinstance(given, str | Path | io.BytesIO):
        return given
    try:
        from PIL import Image
    except ImportError:
        raise ArgumentError(
            f"the image {given} is a file; to read images, pip install 'bezel[media]'"
        ) from None
    try:
        with Image.open(given if isinstance(given, io.BytesIO) else folder / given) as image:
            return image.convert("RGB")
    except (OSError, ValueError) as error:
        raise ArgumentError(f"the image {given} could not be read: {error}") from error


def _frames(given: Any, folder: Path) -> Any:
    if isinstance(given, str | Path):
        raise ArgumentError(f"the video {given} is a file; wanted its frames, images or an array")
    return [_image(one, folder) for one in given] if isinstance(given, list | tuple) else given


def _wave(given: Any, folder: Path) -> tuple[Any, int | None]:
    """[sample], and its rate in Hz where it is known."""
    if isinstance(given, dict) and "array" in given:
        return np.asarray(given["array"], dtype=np.float32), given.get("sampling_rate")
    if isinstance(given, dict):
        given = io.BytesIO(given["bytes"]) if given.get("bytes") else given.get("path")
    if isinstance(given, str | Path):
        given = folder / given
    if not isinstance(given, Path | io.BytesIO):
        return np.asarray(given, dtype=np.float32), None
    try:
        import soundfile
    except ImportError:
        raise ArgumentError(
            f"the clip {given} is a file; to read sound files, pip install 'bezel[audio]'"
        ) from None
    try:
        wave, rate = soundfile.read(given, dtype="float32", always_2d=True)
    except (OSError, RuntimeError) as error:
        raise ArgumentError(f"the clip {given} could not be read: {error}") from error
    if wave.shape[1] != 1:
        raise ArgumentError(f"the clip {given} has {wave.shape[1]} channels; wanted one")
    return wave[:, 0], int(rate)


def _joined(documents: list[Inputs]) -> Inputs:
    """[image patch …], [1 frame patch …] of all videos, [audio mel_frame …]."""
    made: Inputs = {}
    for name in _TENSORS:
        parts = [inputs[name] for inputs in documents if name in inputs]
        if not parts:
            continue
        of_videos = name in ("pixel_values_videos", "video_position_ids")
        if of_videos:
            parts = [part.flatten(0, 1) for part in parts]
        longest = max(part.shape[1] for part in parts)
        rows = torch.cat(
            [_padded(part, longest, -1 if "position" in name else 0) for part in parts]
        )
        made[name] = rows[None] if of_videos else rows
    return made


def _padded(part: torch.Tensor, length: int, padding: int) -> torch.Tensor:
    """[image patch …] with so many patches (or frames)."""
    behind = (0, 0) * (part.dim() - 2) + (0, length - part.shape[1])
    return functional.pad(part, behind, value=padding)
