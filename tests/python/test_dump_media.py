"""Dumps of documents with images, videos and sound: rows against plain loops over tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import bezel
from bezel.cache_values import axes_of
from bezel.errors import ArgumentError, HookNeverFiredError, StoreError, UnknownHookError
from support import saes, small_processors
from support.lab import Lab
from support.media import TEXT, Shapes
from support.media_fixtures import MEDIA_RECIPES
from support.recipe import MEDIA_IDS

NAMES = tuple(MEDIA_RECIPES)
WITH_EARS = tuple(name for name in NAMES if MEDIA_RECIPES[name].audio)
RANDOM = np.random.default_rng(0)
SIZES = ((40, 40), (30, 44), (44, 30))  # rows, columns
PICTURES, SQUARES = (
    [Image.fromarray(RANDOM.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
    for sizes in (SIZES, SIZES[:1] * 3)
)
WIDE = ("sight_moe", "unified_media")  # whose tables of positions are long enough for these
FRAMES = RANDOM.integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
WAVES = [RANDOM.standard_normal(n).astype(np.float32) for n in (5000, 3210)]
RATE = 16_000


def seen(pictures: list[Any]) -> list[Any]:
    return [
        {"text": "w5 <|image|> w7 w8 <|image|> w9", "images": pictures[:2]},
        {"text": "w4 w6 w11 w12"},
        "w8 w9 w10",
        {"text": "<|video|> w20 <|image|>", "video": FRAMES, "image": pictures[2]},
        {"text": "w3 w3", "images": []},
        {"text": "w30 <|video|>", "videos": [FRAMES[::-1].copy()]},
    ]


SEEN = seen(SQUARES)
HEARD: list[Any] = [
    {"text": "w5 <|audio|> w7", "audio": WAVES[0]},
    "w8 w9 w10",
    {"text": "<|audio|> w20 w21 <|audio|>", "audio": WAVES[::-1]},
    {"text": "<|image|> w3 <|audio|>", "image": SQUARES[0], "audio": [WAVES[1]]},
]
BATCH = 2
IMAGE = MEDIA_IDS["image_token_id"]


@pytest.fixture(scope="module")
def bridges(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """With processors in their folders; on the open path, on which records change no bit."""
    made = {}
    for name in NAMES:
        folder = tmp_path_factory.mktemp("processors") / name
        shutil.copytree(lab.folder(name), folder)
        small_processors.processor(name).save_pretrained(folder)
        made[name] = bezel.Bridge.from_pretrained(str(folder), path="open")
    return made


def documents_of(name: str) -> list[Any]:
    sights = seen(PICTURES) if name in WIDE else SEEN
    return sights + (HEARD if name in WITH_EARS else [])


def several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def batches_of(b: Any, documents: list[Any]) -> list[dict[str, Any]]:
    """Forward arguments of two documents each, as a user would make them."""
    made = []
    for at in range(0, len(documents), BATCH):
        some = [d if isinstance(d, dict) else {"text": d} for d in documents[at : at + BATCH]]
        images = [several(d["images"] if "images" in d else d.get("image", [])) for d in some]
        videos = [[d["video"]] if "video" in d else d.get("videos", []) for d in some]
        audio = [wave for d in some for wave in several(d.get("audio", []))]
        made.append(b.prepare_multimodal_inputs(
            [d["text"] for d in some],
            images=images if any(images) else None,
            videos=[video for row in videos for video in row] or None,
            audio=audio or None,
            padding_side="right",
        ))  # fmt: skip
    return made


def patches_of(b: Any, name: str, inputs: dict[str, Any]) -> list[list[tuple[int, int]]]:
    """(image, patch) of the patches of each soft token, found by looking for each square."""
    pool = Shapes(MEDIA_RECIPES[name]).pooling
    found = []
    all_positions = [*inputs.get("image_position_ids", [])]
    for video in inputs.get("video_position_ids", []):
        all_positions += [*video]
    for image, positions in enumerate(all_positions):
        squares = {(y // pool, x // pool) for x, y in positions.tolist() if x >= 0}
        for row, column in sorted(squares) if pool > 1 else ():
            inside = [
                (y, x, patch)
                for patch, (x, y) in enumerate(positions.tolist())
                if x >= 0 and (y // pool, x // pool) == (row, column)
            ]
            found.append([(image, patch) for _, _, patch in sorted(inside)])
        if pool == 1:
            found += [[(image, p)] for p, (x, _) in enumerate(positions.tolist()) if x >= 0]
    return found


def frames_of(name: str, inputs: dict[str, Any]) -> list[tuple[int, int]]:
    """(clip, frame) of each soft token of sound."""
    step = 1 if MEDIA_RECIPES[name].wrapper == "unified" else 4
    return [
        (clip, at // step)
        for clip, mask in enumerate(inputs.get("input_features_mask", []))
        for at in range(0, len(mask), step)
        if mask[at]
    ]


def entry(value: torch.Tensor, axes: tuple[str, ...], at: dict[str, int]) -> torch.Tensor:
    """A value at some places of some axes."""
    for axis in sorted(at, key=axes.index, reverse=True):
        value = value.select(axes.index(axis), at[axis])
    return value


def row_of_sound(value: torch.Tensor, axes: tuple[str, ...], clip: int, frame: int) -> Any:
    if "q_frame" in axes:
        n = value.shape[axes.index("q_frame")]
        return entry(value, axes, {"audio": clip, "chunk": frame // n, "q_frame": frame % n})
    for axis, n in (("half_frame", 2), ("mel_frame", 4)):
        if axis not in axes:
            continue
        places = range(frame * n, frame * n + n)
        whole = value.shape[1]
        zero = torch.zeros_like(value[0, 0])
        return torch.stack([value[clip, p] if p < whole else zero for p in places])
    return entry(value, axes, {"audio": clip, "frame": frame})


def wanted(
    b: Any, fixture: str, documents: list[Any], names: list[str], types: tuple[int, ...]
) -> Any:
    """Rows by name, and labels (token, document, position, type), by loops over tokens."""
    rows: dict[str, list[Any]] = {name: [] for name in names}
    labels = []
    for number, inputs in enumerate(batches_of(b, documents)):
        mask = inputs.get("attention_mask", torch.ones_like(inputs["input"]))
        kinds = inputs.get("mm_token_type_ids", torch.zeros_like(mask))
        soft, heard = patches_of(b, fixture, inputs), frames_of(fixture, inputs)
        n_images = int((kinds == 1).sum())
        order = {1: iter(range(n_images)), 2: iter(range(n_images, len(soft))), 3: iter(heard)}
        places = [(r, p) for r, row in enumerate(mask.tolist()) for p, m in enumerate(row) if m]
        kept = [(r, p, int(kinds[r, p])) for r, p in places if int(kinds[r, p]) in types]
        if not kept:
            continue
        _, cache = b.run_with_cache(**inputs, names_filter=names, return_type=None)
        for row, pos, kind in kept:
            labels.append((int(inputs["input"][row, pos]), number * BATCH + row, pos, kind))
            unit = next(order[kind]) if kind else None
            for name in names:
                rows[name].append(row_at(cache[name], axes_of(name), row, pos, unit, soft))
    return {name: torch.stack(found) for name, found in rows.items()}, labels


def row_at(value: Any, axes: Any, row: int, pos: int, unit: Any, soft: Any) -> torch.Tensor:
    if axes[0] == "soft":
        return value[unit]
    if axes[0] == "image":
        axis = "q_patch" if "q_patch" in axes else "patch"
        return torch.stack([entry(value, axes, {"image": i, axis: p}) for i, p in soft[unit]])
    if axes[0] == "audio":
        return row_of_sound(value, axes, *unit)
    axis = next(a for a in ("pos", "q_pos", "k_pos") if a in axes)
    return entry(value, axes, {"batch": row, axis: pos})


def dumped(b: Any, documents: Any, out: Path, hooks: Any, **settings: Any) -> Any:
    options = {"batch": BATCH, "length": 400, "verbose": False} | settings
    bezel.dump(b, documents, out, hooks, **options)
    return bezel.ActivationStore(out, out="torch", checksum="always")


def same(store: Any, rows: dict[str, torch.Tensor], labels: list[tuple[int, ...]]) -> None:
    found = [store.label(label).tolist() for label in ("token_id", "document", "position", "type")]
    assert list(zip(*found, strict=True)) == labels
    for name, want in rows.items():
        assert torch.equal(store[name][:], want), name


def points(b: Any, start: tuple[str, ...]) -> list[str]:
    return [point.name for point in b.hook_points() if point.name.startswith(start)]


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


def as_files(folder: Path) -> list[Any]:
    """The documents with a picture or clips of their own, in files."""
    for number, picture in enumerate(SQUARES):
        picture.save(folder / f"{number}.png")
    for number, wave in enumerate(WAVES):
        soundfile.write(folder / f"{number}.wav", wave, RATE, subtype="FLOAT")
    return [
        {"text": "w5 <|image|> w7 w8 <|image|> w9", "images": ["0.png", "1.png"]},
        {"text": "<|audio|> w20 w21 <|audio|>", "audio": ["1.wav", "0.wav"]},
        {"tokens": [4, 5]},
    ]


def test_files_and_lists_are_one_corpus(bridges: dict[str, Any], tmp_path: Path) -> None:
    b, hooks = bridges["sound"], "blocks.1.hook_resid_post"
    rows = as_files(tmp_path)
    (tmp_path / "a.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    documents: list[Any] = [SEEN[0], HEARD[2], [4, 5]]
    ready = [
        b.prepare_multimodal_inputs(rows[0]["text"], images=SQUARES[:2]),
        b.prepare_multimodal_inputs(rows[1]["text"], audio=WAVES[::-1], sampling_rate=RATE),
        torch.tensor([4, 5]),
    ]
    ids = [
        dumped(b, some, tmp_path / f"{i}", hooks).id for i, some in enumerate([documents, ready])
    ]
    assert ids[0] == ids[1]
    rows[2] = {"text": "w4 w5"}
    (tmp_path / "a.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    documents[2] = "w4 w5"
    stores = [dumped(b, source, tmp_path / f"text{i}", hooks) for i, source in
              enumerate([documents, tmp_path / "a.jsonl"])]  # fmt: skip
    assert stores[0].id == stores[1].id
    assert torch.equal(stores[0][hooks][:], stores[1][hooks][:])


def test_a_dataset_with_images(bridges: dict[str, Any], tmp_path: Path) -> None:
    b, hooks = bridges["sight_e2b"], "vision_encoder.hook_out"
    texts = ["w5 <|image|>", "<|image|> w6 w7", "w3"]
    pictures = [[SQUARES[0]], [SQUARES[1]], []]
    features = datasets.Features({"text": datasets.Value("string"), "images": [datasets.Image()]})
    rows = datasets.Dataset.from_dict({"text": texts, "images": pictures}, features=features)
    rows.save_to_disk(tmp_path / "rows")
    plain = [{"text": t, "images": p} for t, p in zip(texts, pictures, strict=True)]
    found = [dumped(b, source, tmp_path / f"{i}", hooks) for i, source in
             enumerate([tmp_path / "rows", plain])]  # fmt: skip
    assert found[0].id == found[1].id
    assert torch.equal(found[0][hooks][:], found[1][hooks][:])


def test_a_document_that_changes_is_noticed(bridges: dict[str, Any], tmp_path: Path) -> None:
    class Changing(list[Any]):
        def __getitem__(self, at: Any) -> Any:
            return SEEN[3] if at == 0 else super().__getitem__(at)

    with pytest.raises(ArgumentError, match="document 0 of the corpus changed while the dump ran"):
        dumped(bridges["sight_e2b"], Changing(SEEN), tmp_path / "a", "blocks.1.hook_resid_post")


REFUSED: list[tuple[str, Any, Any, dict[str, Any], str]] = [
    ("sight_e2b", (d for d in SEEN), "hook_embed", {}, "the corpus is an iterator"),
    ("sight_e2b", SEEN, "hook_embed", {"pack": True}, "document 0 has media and .* cannot be cut"),
    ("sight_e2b", SEEN, "hook_embed", {"length": 5}, "document 0 has media and .* cannot be cut"),
    ("sight_e2b", [[4], [4, IMAGE, 5]], "hook_embed", {}, "document 1 .* which stands for"),
    ("sight_e2b", SEEN, ["vision_encoder.hook_out", "hook_embed"], {},
     r"positions are None, and .vision_encoder.hook_out. has rows of tokens that stand for image "
     r"or video alone; wanted positions=\['image', 'video'\]"),
    ("sight_e2b", SEEN, "vision_encoder.hook_out", {"positions": "last"}, "positions are 'last'"),
    ("sight_e2b", SEEN, "vision_encoder.hook_out", {"positions": "text"}, r"positions are \['text"),
    ("sight_e2b", SEEN, "hook_embed", {"positions": "audio"}, "no token of the corpus is kept"),
    ("sight_e2b", SEEN, "hook_embed", {"positions": ["image", "sound"]}, "or types of tokens"),
    ("sound", SEEN + HEARD, ["vision_encoder.hook_out", "audio_encoder.hook_out"], {},
     "has rows of images and .* of sound, and no token has both; make a store of each"),
    ("sight_e2b", [{"text": "w5 <|image|>", "image": "absent.png"}], "hook_embed", {},
     "document 0 of the corpus: the image absent.png could not be read"),
    ("sound", [{"text": "<|audio|>", "audio": ["absent.wav"]}], "hook_embed", {},
     "document 0 of the corpus: the clip absent.wav could not be read"),
    ("sight_e2b", [{"text": "<|video|>", "video": "film.mp4"}], "hook_embed", {},
     "the video film.mp4 is a file; wanted its frames"),
    ("sight_e2b", [{"text": "w5", "image": SQUARES[0]}], "hook_embed", {}, "document 0 of the"),
    ("sight_e2b", [{"image": SQUARES[0]}], "hook_embed", {}, 'has .image.; wanted "text"'),
    ("sight_e2b", [{"tokens": [4], "image": SQUARES[0]}], "hook_embed", {}, "its text is a list"),
    ("sound", [{"text": "<|audio|> <|audio|>", "audio": [{"array": WAVES[0], "sampling_rate": 8000},
     {"array": WAVES[1], "sampling_rate": 16000}]}], "hook_embed", {}, "wanted one"),
    ("sound", [{"text": "<|audio|>", "audio": {"array": WAVES[0], "sampling_rate": 8000}}],
     "hook_embed", {}, "sampling_rate is 8000 Hz"),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_refusals(bridges: dict[str, Any], tmp_path: Path, case: Any) -> None:
    name, documents, hooks, settings, why = case
    with pytest.raises(ArgumentError, match=why):
        dumped(bridges[name], documents, tmp_path / "a", hooks, **settings)
    assert not (tmp_path / "a").exists()


def test_names_that_cannot_be(bridges: dict[str, Any], tmp_path: Path) -> None:
    b = bridges["sight_e2b"]
    with pytest.raises(HookNeverFiredError):
        dumped(b, ["w5 w6"], tmp_path / "a", "vision_encoder.hook_out")
    with pytest.raises(UnknownHookError):
        dumped(b, SEEN, tmp_path / "a", "vision_encoder.hook_outt")


def test_prepared_documents_are_checked(bridges: dict[str, Any], tmp_path: Path) -> None:
    b = bridges["sight_e2b"]
    ready = b.prepare_multimodal_inputs("w5 <|image|>", images=SQUARES[:1])
    for change, why in (
        ({"labels": ready["input"]}, "it has labels; wanted what prepare_multimodal_inputs makes"),
        ({"attention_mask": torch.zeros_like(ready["input"])}, "it has padding"),
        ({"mm_token_type_ids": ready["mm_token_type_ids"] * 0}, "are not those of its ids"),
        ({"input": "w5"}, 'its "input" is no tensor of ids'),
        ({"input": ready["input"][:, :-3], "mm_token_type_ids": None}, "pixel_values makes"),
    ):
        with pytest.raises(ArgumentError, match=why):
            dumped(b, [ready | change], tmp_path / "a", "hook_embed")


def test_patches_of_other_numbers(bridges: dict[str, Any], tmp_path: Path) -> None:
    """Rows of scores are as wide as there are patches."""
    b = bridges["sight_e2b"]
    ready = [b.prepare_multimodal_inputs("<|image|>", images=[one]) for one in SQUARES]
    ready[2]["pixel_values"] = ready[2]["pixel_values"][:, :-1]
    ready[2]["image_position_ids"] = ready[2]["image_position_ids"][:, :-1]
    name = "vision_encoder.blocks.0.attn.hook_pattern"
    with pytest.raises(ArgumentError, match="pad the media of all documents"):
        dumped(b, ready, tmp_path / "a", name)
    name = "vision_encoder.hook_out"
    found = dumped(b, ready, tmp_path / "b", name, batch=3)[name][:]
    alone = [dumped(b, [one], tmp_path / f"{i}", name)[name][:] for i, one in enumerate(ready)]
    torch.testing.assert_close(found, torch.cat(alone))


def test_other_pictures_are_another_corpus(bridges: dict[str, Any], tmp_path: Path) -> None:
    b, name = bridges["sight_e2b"], "vision_encoder.hook_out"
    dumped(b, [{"text": "<|image|>", "image": SQUARES[0]}], tmp_path / "a", name)
    other = [{"text": "<|image|>", "image": SQUARES[1]}]
    with pytest.raises(StoreError, match="/request/corpus/fingerprint"):
        dumped(b, other, tmp_path / "a", name, resume=True)
    assert dumped(b, other, tmp_path / "b", name).n_rows > 0
