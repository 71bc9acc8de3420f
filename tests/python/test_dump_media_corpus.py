"""Where documents with media come from, and what a dump of them refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import soundfile
import torch

from bezel.errors import ArgumentError, HookNeverFiredError, StoreError, UnknownHookError
from support.lab import Lab
from support.media_documents import (
    HEARD,
    IMAGE,
    RATE,
    SEEN,
    SQUARES,
    WAVES,
    bridges_with_processors,
    dumped,
)


@pytest.fixture(scope="module")
def bridges(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return bridges_with_processors(lab, tmp_path_factory)


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
