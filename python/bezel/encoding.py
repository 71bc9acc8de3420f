"""The part of a Bridge that runs the encoders of images and sound without a text around them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypedDict, Unpack

import torch

from bezel import _C, loading
from bezel.arguments import MediaArguments, core_media
from bezel.cache import ActivationCache
from bezel.errors import ArgumentError
from bezel.hooks import Contexts, HookPair, RegisteredHook
from bezel.running import Running
from bezel.selection import NamesFilter, selectors


class Encoded(NamedTuple):
    """What an encoder made, and the values on the way.

    Attributes:
        features: [soft d_model], as they are put in the places of media tokens: of the images, then
            of the videos' frames; or of the valid frames of the clips.
        cache: What names_filter chose.

    Example:
        >>> encoded = b.vision(pixels, positions)  # doctest: +SKIP
        >>> encoded.features.shape  # doctest: +SKIP
        torch.Size([256, 1536])
    """

    features: torch.Tensor
    cache: ActivationCache


class EncodeOptions(TypedDict, total=False):
    """What is asked of the encoders beside their features."""

    names_filter: NamesFilter
    fwd_hooks: Iterable[HookPair] | None
    bwd_hooks: Iterable[HookPair] | None
    incl_bwd: bool
    device: torch.device | str | None


class Encoding(Running):
    """Sight and hearing alone: their values, edits and gradients under the names of a whole run."""

    def vision(
        self,
        pixel_values: torch.Tensor | None = None,
        image_position_ids: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_position_ids: torch.Tensor | None = None,
        **options: Unpack[EncodeOptions],
    ) -> Encoded:
        """Images and videos → what stands in the places of their tokens, without a text.

        Args:
            pixel_values: [image patch d_patch], 0 to 1.
            image_position_ids: [image patch 2]: column and row of each patch, -1 at padding.
            pixel_values_videos: [video frame patch d_patch].
            video_position_ids: [video frame patch 2].
            **options: names_filter: which values of the encoder and its projector to keep, and of
                SAEs at them, as in `run_with_cache`; None keeps all that are not on demand.
                fwd_hooks: (name, function) pairs, as in `run_with_hooks`; standing and context
                hooks apply as well. bwd_hooks: the same for gradients, in your later backward().
                incl_bwd: keep gradients too; they arrive with your own backward(). device: where
                values are kept; None leaves them.

        Returns:
            The features [soft d_model], and the cache.

        Raises:
            UnsupportedError: The model has no part for images, or was loaded without.
            UnknownHookError, HookNotApplicableError, HookNeverFiredError: A value of the text or of
                sound cannot fire here.
            ArgumentError: Which argument, what it is and what it should be.

        Example:
            >>> features, cache = b.vision(pixels, positions)  # doctest: +SKIP
            >>> cache["vision_encoder.hook_out"].shape  # doctest: +SKIP
            torch.Size([256, 768])
        """
        media: MediaArguments = {
            "pixel_values": pixel_values,
            "image_position_ids": image_position_ids,
            "pixel_values_videos": pixel_values_videos,
            "video_position_ids": video_position_ids,
        }
        return self._encode(media, **options)

    def audio(
        self,
        input_features: torch.Tensor,
        input_features_mask: torch.Tensor | None = None,
        **options: Unpack[EncodeOptions],
    ) -> Encoded:
        """Clips → what stands in the places of their tokens, without a text.

        Args:
            input_features: [audio mel_frame mel]; without an encoder [audio frame d].
            input_features_mask: [audio mel_frame], 0 at padding; None: all are valid.
            **options: As in `vision`.

        Returns:
            The features [soft d_model] of valid frames, and the cache.

        Raises:
            UnsupportedError: The model has no part for sound, or was loaded without.
            UnknownHookError, HookNotApplicableError, HookNeverFiredError, ArgumentError: As in
                `vision`.

        Example:
            >>> features, cache = b.audio(mel, mask)  # doctest: +SKIP
        """
        media: MediaArguments = {
            "input_features": input_features,
            "input_features_mask": input_features_mask,
        }
        return self._encode(media, **options)

    def _encode(
        self,
        media: MediaArguments,
        *,
        names_filter: NamesFilter = None,
        fwd_hooks: Iterable[HookPair] | None = None,
        bwd_hooks: Iterable[HookPair] | None = None,
        incl_bwd: bool = False,
        device: torch.device | str | None = None,
    ) -> Encoded:
        if all(value is None for value in media.values()):
            raise ArgumentError(f"there is nothing to encode; wanted one of {', '.join(media)}")
        request = _C.Request()
        for chosen in selectors(names_filter):
            request.record(chosen)
        request.gradients = incl_bwd
        request.device = None if device is None else loading.find_device(device)
        made = core_media(media)
        self._add_registered(request, made, is_partial=True)
        own = self._own(fwd_hooks, bwd_hooks, Contexts())
        for hook in own:
            hook.add_to(request)
        features, cache = self._run_encoder(made, request, own)
        return Encoded(features, ActivationCache(cache, self))

    def _run_encoder(
        self, made: _C.Input, request: _C.Request, own: Sequence[RegisteredHook]
    ) -> tuple[torch.Tensor, _C.ActivationCache]:
        images, sound, cache = self._core.encode(made, request, self._path)
        features = sound if images is None else images
        assert features is not None
        return features, cache
