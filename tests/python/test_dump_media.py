"""Dumps of documents with images, videos and sound: rows against plain loops over tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import bezel
from bezel.cache_values import axes_of
from bezel.errors import ArgumentError
from support import saes
from support.lab import Lab
from support.media import TEXT, Shapes
from support.media_documents import (
    HEARD,
    NAMES,
    SEEN,
    WITH_EARS,
    batches_of,
    bridges_with_processors,
    documents_of,
    dumped,
    patches_of,
    points,
    same,
    wanted,
)
from support.media_fixtures import MEDIA_RECIPES


@pytest.fixture(scope="module")
def bridges(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return bridges_with_processors(lab, tmp_path_factory)


@pytest.mark.parametrize("name", NAMES)
def test_text_values_of_every_token(bridges: dict[str, Any], tmp_path: Path, name: str) -> None:
    b, documents = bridges[name], documents_of(name)
    names = [n for n in points(b, ("blocks.1.", "hook_")) if "k_pos" not in axes_of(n)]
    store = dumped(b, documents, tmp_path / "a", names)
    rows, labels = wanted(b, name, documents, names, (0, 1, 2, 3))
    assert {label[3] for label in labels} == ({0, 1, 2, 3} if name in WITH_EARS else {0, 1, 2})
    same(store, rows, labels)
    assert store.where(type="image").tolist() == store.where(type=1).tolist()
    with pytest.raises(ArgumentError, match="type is 'picture'; wanted whole numbers, or types"):
        store.where(type="picture")


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_the_vision_encoder(
    bridges: dict[str, Any], tmp_path: Path, name: str
) -> None:
    """The names of its values alone: tokens of images and videos are what is kept."""
    b, documents = bridges[name], documents_of(name)
    names = points(b, ("vision_",))
    assert len(names) > 8
    store = dumped(b, documents, tmp_path / "a", names, rows_per_shard=13)
    rows, labels = wanted(b, name, documents, names, (1, 2))
    same(store, rows, labels)
    n = Shapes(MEDIA_RECIPES[name]).pooling ** 2
    assert (store[names[0]].axes[0], store[names[0]].shape[1]) == ("patch", n)


@pytest.mark.parametrize("name", WITH_EARS)
def test_every_name_of_the_audio_encoder(
    bridges: dict[str, Any], tmp_path: Path, name: str
) -> None:
    b, documents = bridges[name], documents_of(name)
    names = points(b, ("audio_",))
    store = dumped(b, documents, tmp_path / "a", names)
    same(store, *wanted(b, name, documents, names, (3,)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("types", [("image",), ("video",), ("image", "video")])
def test_text_and_vision_side_by_side(
    bridges: dict[str, Any], tmp_path: Path, name: str, types: tuple[str, ...]
) -> None:
    b, documents = bridges[name], documents_of(name)
    names = ["vision_projector.hook_out", "hook_full_embed", "blocks.2.hook_resid_post"]
    positions = types[0] if len(types) == 1 else types[::-1]
    store = dumped(b, documents, tmp_path / "a", names, positions=positions)
    numbers = tuple(bezel.token_types.WORDS.index(word) for word in types)
    same(store, *wanted(b, name, documents, names, numbers))
    features = store["vision_projector.hook_out"][:]
    assert torch.equal(features, store["hook_full_embed"][:])  # the soft token of that very place


def test_text_and_sound_side_by_side(bridges: dict[str, Any], tmp_path: Path) -> None:
    for name in WITH_EARS:
        names = ["audio_projector.hook_out", "hook_full_embed"]
        store = dumped(bridges[name], HEARD, tmp_path / name, names, positions="audio")
        assert torch.equal(store[names[0]][:], store[names[1]][:])
        assert len(store.token_id) > 0


def test_text_alone_leaves_media_out(bridges: dict[str, Any], tmp_path: Path) -> None:
    b = bridges["sound"]
    names = ["blocks.1.hook_resid_post"]
    store = dumped(b, documents_of("sound"), tmp_path / "a", names, positions="text")
    same(store, *wanted(b, "sound", documents_of("sound"), names, (TEXT,)))


def test_reductions_of_an_encoder(bridges: dict[str, Any], tmp_path: Path) -> None:
    b, name = bridges["sight_moe"], "vision_encoder.hook_out"
    store = dumped(
        b,
        documents_of("sight_moe"),
        tmp_path / "a",
        name,
        reduce={name: ["mean", "norm"]},
        rows_per_shard=9,
    )
    rows = store[name][:]
    assert store.moments(name).count == len(rows)
    torch.testing.assert_close(store.moments(name).mean, rows.double().mean(0))
    torch.testing.assert_close(store[f"{name}:norm"][:], rows.norm(dim=-1))


def test_values_inside_an_sae_of_an_encoder(bridges: dict[str, Any], tmp_path: Path) -> None:
    b, place = bridges["sight_e2b"], "vision_encoder.blocks.1.hook_resid_post"
    inside = f"{place}.hook_sae_acts_post"
    with b.saes(saes=[saes.random_sae("standard", 24, place)]):
        store = dumped(b, SEEN, tmp_path / "a", inside)
        _, cache = b.run_with_cache(**batches_of(b, SEEN)[0], names_filter=inside)
    assert store[inside].axes == ("patch", "feature")
    first = patches_of(b, "sight_e2b", batches_of(b, SEEN)[0])[0]
    want = torch.stack([cache[inside][image, patch] for image, patch in first])
    assert torch.equal(store[inside][0], want)
