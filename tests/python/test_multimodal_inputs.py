"""From PIL images, arrays and waves to forward arguments, through transformers' processor."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bezel.errors import ArgumentError
from support import compare, exact_towers, small_processors
from support.lab import Lab
from support.media_documents import bridges_with_processors
from support.media_fixtures import MEDIA_RECIPES

NAMES = tuple(MEDIA_RECIPES)
WITH_EARS = tuple(name for name in NAMES if MEDIA_RECIPES[name].audio)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
FRAMES = RNG.integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
WAVES = [RNG.standard_normal(n).astype(np.float32) for n in (5000, 3200)]
RATE = 16_000
ROUNDING = 1e-10


@pytest.fixture(scope="module")
def bridges(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return bridges_with_processors(lab, tmp_path_factory, torch.float64)


def pictures() -> list[Any]:
    return [Image.fromarray(pixels) for pixels in PIXELS]


def agrees(lab: Lab, name: str, bridge: Any, inputs: dict[str, Any]) -> None:
    """In float64: long rows of soft tokens amplify the rounding of float32."""
    given = {("input_ids" if key == "input" else key): value for key, value in inputs.items()}
    want = exact_towers.capture_media(lab.media_oracle(name), given)["hook_logits"]
    valid = inputs.get("attention_mask", torch.ones_like(inputs["input"])).bool()
    assert compare.relative_rms(bridge(**inputs)[valid], want[valid]) <= ROUNDING


@pytest.mark.parametrize("name", NAMES)
def test_images_in_a_text(lab: Lab, bridges: dict[str, Any], name: str) -> None:
    bridge = bridges[name]
    inputs = bridge.prepare_multimodal_inputs(
        "w5 <|image|> w7 w8 <|image|> w9", images=pictures()
    )  # fmt: skip
    assert set(inputs) == {"input", "mm_token_type_ids", "pixel_values", "image_position_ids"}
    assert inputs["input"][0, 0] == 2  # <bos>
    assert len(inputs["pixel_values"]) == 2
    agrees(lab, name, bridge, inputs)
    types = bridge.token_types(inputs["input"])
    assert torch.equal(types.type, inputs["mm_token_type_ids"])
    assert int(types.image.max()) == 1


@pytest.mark.parametrize("name", NAMES)
def test_several_texts_are_padded_on_the_left(lab: Lab, bridges: dict[str, Any], name: str) -> None:
    bridge, (first, second) = bridges[name], pictures()
    inputs = bridge.prepare_multimodal_inputs(
        ["w5 <|image|> w7 w8 w9 w10", "<|image|> w7"], images=[[first], [second]]
    )
    assert not inputs["attention_mask"].all()
    assert inputs["attention_mask"][:, -1].all()
    agrees(lab, name, bridge, inputs)
    tokens = bridge.generate(**inputs, max_new_tokens=2, verbose=False, stop_at_eos=False)
    assert tokens.shape == (2, inputs["input"].shape[1] + 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_video(lab: Lab, bridges: dict[str, Any], name: str) -> None:
    inputs = bridges[name].prepare_multimodal_inputs("w5 <|video|> w7", videos=[FRAMES])
    assert inputs["pixel_values_videos"].shape[:2] == (1, 2)
    agrees(lab, name, bridges[name], inputs)
    types = bridges[name].token_types(inputs["input"])
    assert torch.equal(types.type, inputs["mm_token_type_ids"])
    assert int(types.frame.max()) == 1


@pytest.mark.parametrize("name", WITH_EARS)
def test_waves(lab: Lab, bridges: dict[str, Any], name: str) -> None:
    inputs = bridges[name].prepare_multimodal_inputs(
        "w5 <|audio|> w7 <|audio|>", audio=WAVES, sampling_rate=RATE
    )
    assert len(inputs["input_features"]) == 2
    agrees(lab, name, bridges[name], inputs)
    types = bridges[name].token_types(inputs["input"])
    assert torch.equal(types.type, inputs["mm_token_type_ids"])
    assert int(types.clip.max()) == 1


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_images_are_arrays_and_tensors_too(bridges: dict[str, Any], kind: str) -> None:
    bridge = bridges["sight_e2b"]
    want = bridge.prepare_multimodal_inputs("<|image|>", images=pictures()[0])
    array = PIXELS[0] if kind == "numpy" else torch.from_numpy(PIXELS[0]).movedim(-1, 0)
    got = bridge.prepare_multimodal_inputs("<|image|>", images=array)
    assert set(got) == set(want)
    assert torch.equal(got["image_position_ids"], want["image_position_ids"])
    torch.testing.assert_close(got["pixel_values"], want["pixel_values"])


def test_the_beginning_is_written_once_or_not_at_all(bridges: dict[str, Any]) -> None:
    prepare = bridges["sight_e2b"].prepare_multimodal_inputs
    want = [[2, 5, 6]]
    assert prepare("w5 w6")["input"].tolist() == want
    assert prepare("<bos>w5 w6")["input"].tolist() == want
    assert prepare("w5 w6", prepend_bos=False)["input"].tolist() == [[5, 6]]


def test_what_the_processor_refuses_is_an_argument_error(bridges: dict[str, Any]) -> None:
    prepare = bridges["sound"].prepare_multimodal_inputs
    with pytest.raises(ArgumentError, match="the processor refused .* 1 <|image|> tokens and 2"):
        prepare("w5 <|image|>", images=pictures())
    with pytest.raises(ArgumentError, match=r"sampling_rate is 8000 Hz .* 16000 Hz"):
        prepare("w5 <|audio|>", audio=WAVES[:1], sampling_rate=8000)
    with pytest.raises(ArgumentError, match="wanted a text or a list of texts"):
        prepare(torch.tensor([1]))


def test_a_processor_can_be_given(lab: Lab) -> None:
    import bezel

    own = small_processors.processor("sight_moe")
    bridge = bezel.Bridge.from_pretrained(lab.folder("sight_moe"), processor=own)
    assert bridge.processor is own
    assert bridge.folded().processor is own
    assert "pixel_values" in bridge.prepare_multimodal_inputs("<|image|>", images=pictures()[0])


def test_without_a_processor_the_reason_is_told(lab: Lab) -> None:
    bridge = lab.bridge("sight_e2b")
    assert bridge.processor is None
    with pytest.raises(ArgumentError, match=r"neither processor_config.json nor preprocessor"):
        bridge.prepare_multimodal_inputs("w5")


def test_without_transformers_the_reason_is_told(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bezel

    folder = tmp_path / "checkpoint"
    shutil.copytree(lab.folder("sight_e2b"), folder)
    small_processors.processor("sight_e2b").save_pretrained(folder)
    bridge = bezel.Bridge.from_pretrained(str(folder))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ArgumentError, match=r'pip install "bezel\[media\]"'):
        bridge.prepare_multimodal_inputs("w5")


def test_the_example_of_the_readme_runs(bridges: dict[str, Any]) -> None:
    import bezel

    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    section = readme.split("### Images, videos, sound")[1]
    code = section.split("```python\n")[1].split("```")[0]
    for ours, theirs in {
        'bezel.Bridge.from_pretrained("google/gemma-4-E2B-it")': "bridge",
        'PIL.Image.open("cat.png")': "picture",
        "What is this?": "w5 w6",
        '"cat"': '"w9"',
    }.items():
        assert ours in code
        code = code.replace(ours, theirs)
    found = {"bezel": bezel, "bridge": bridges["sight_e2b"], "picture": pictures()[0]}
    exec(code, found)
    assert found["reach"].shape == found["inputs"]["pixel_values"].shape[:2]
    assert found["reach"].abs().max() > 0
    assert found["features"].shape == (64, 48)
