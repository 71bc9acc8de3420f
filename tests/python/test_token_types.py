"""Which token is text, and which stands for an image, a frame or a clip."""

from __future__ import annotations

import pytest
import torch

from bezel.errors import ArgumentError
from support import fixtures, media
from support.lab import Lab
from support.media_fixtures import MEDIA_RECIPES

CASES = [(name, case) for name in MEDIA_RECIPES for case in media.cases(name) if case != "touching"]


def numbers(types: torch.Tensor, kind: int) -> list[list[int]]:
    """Counted token by token."""
    count, rows = -1, []
    for row in types.tolist():
        numbered, before = [], 0
        for one in row:
            count += one == kind != before
            numbered.append(count if one == kind else -1)
            before = one
        rows.append(numbered)
    return rows


@pytest.mark.parametrize(("name", "case"), CASES)
def test_each_token_is_counted(lab: Lab, name: str, case: str) -> None:
    given = media.cases(name)[case]
    types = lab.bridge(name).token_types(given.tokens)
    want = given.inputs["mm_token_type_ids"]
    assert torch.equal(types.type, want)
    assert types.image.tolist() == numbers(want, media.IMAGE)
    assert types.frame.tolist() == numbers(want, media.VIDEO)
    assert types.clip.tolist() == numbers(want, media.AUDIO)
    sounds = given.inputs.get("input_features")
    assert int(types.clip.max()) + 1 == (0 if sounds is None else len(sounds))
    images = given.inputs.get("pixel_values")
    assert int(types.image.max()) + 1 == (0 if images is None else len(images))
    videos = given.inputs.get("pixel_values_videos")
    n_frames = 0 if videos is None else videos.shape[0] * videos.shape[1]
    assert int(types.frame.max()) + 1 == n_frames


def test_it_prints_what_it_counts(lab: Lab) -> None:
    given = media.cases("sight_e2b")["images_and_videos"]
    types = lab.bridge("sight_e2b").token_types(given.tokens)
    assert repr(types) == f"TokenTypes({list(given.tokens.shape)}: images 3, frames 4, clips 0)"


def test_a_model_of_text_has_text_alone(lab: Lab) -> None:
    types = lab.bridge("e2b").token_types(fixtures.tokens(9)[0])
    assert types.type.shape == (1, 9)
    assert not types.type.any()
    assert (types.image == -1).all()


def test_what_is_no_ids_is_refused(lab: Lab) -> None:
    with pytest.raises(ArgumentError, match=r"float32 \[2, 3\]; wanted ids"):
        lab.bridge("e2b").token_types(torch.zeros(2, 3))
