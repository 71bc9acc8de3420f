"""The demo of sight: what it says and draws."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from bezel import demo_vision
from bezel.patch_drawing import drawing

SVG = "{http://www.w3.org/2000/svg}"


def test_it_shows_patches_and_moves_features(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "patches.svg"
    assert demo_vision.run(out)
    printed = capsys.readouterr().out
    assert "gradient × value" in printed
    assert "the features alone carry the image: True" in printed
    titles = [one.text for one in ElementTree.parse(out).iter(f"{SVG}title")]
    assert len(titles) == 144
    shown = [line.split() for line in printed.splitlines() if line.startswith("      (")]
    largest = max(titles, key=lambda text: abs(float(str(text).split()[-1])))
    row, column = (int(part.strip("(,)")) for part in "".join(shown[0][:-3]).split(","))
    assert str(largest).startswith(f"row {row}, column {column}:")


def test_patches_are_squares_of_the_image_row_by_row() -> None:
    image = torch.rand(48, 48, 3)
    media = demo_vision.prompt([5], image, [6]).media
    pixels, positions = media["pixel_values"], media["image_position_ids"]
    assert pixels is not None
    assert positions is not None
    assert pixels.shape == (1, 144, 48)
    for patch, (column, row) in enumerate(positions[0].tolist()):
        square = image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert torch.equal(pixels[0, patch].view(4, 4, 3), square)


def test_a_drawing_colours_each_patch_by_its_number() -> None:
    text = drawing(torch.zeros(4, 8, 3), torch.tensor([[1.0, -0.5], [0.0, 0.25]]), "a < b")
    root = ElementTree.fromstring(text)
    coloured = [one for one in root.iter(f"{SVG}rect") if one.find(f"{SVG}title") is not None]
    facts = [
        (one.get("x"), one.get("y"), one.get("fill"), float(str(one.get("fill-opacity"))))
        for one in coloured
    ]
    red, blue = "#d62728", "#1f5fd6"
    assert facts[0] == ("0", "0", red, 0.85)
    assert facts[1] == ("40", "0", blue, 0.425)
    assert facts[2][3] == 0.0
    assert facts[3][:3] == ("40", "20", red)
    assert "a < b" in "".join(root.itertext())


def test_without_transformers_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr(sys, "argv", ["demo_vision", "--out", str(tmp_path / "x.svg")])
    assert demo_vision.main() == 2
    assert 'pip install "bezel[media]"' in capsys.readouterr().err
