"""One layer of weights at a time gives the file of the whole model, byte for byte."""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from bezel.errors import FormatError, ModelMismatchError, UnsupportedError
from bezel.reference import capture_reference, capturing
from bezel.reference.layered import LayeredModel
from support import checkpoint_forms
from support.references import WITH_MEDIA, Bundles

FORMS = (
    ("e2b", "as_published"), ("e2b", "untied"), ("e2b", "bfloat16"), ("moe", "bfloat16"),
    ("wrapped_e2b", "sharded"), ("wrapped_moe", "as_published"), ("mha", "wrapped"),
    ("unified_media", "as_published"), ("sight_e2b", "as_published"),
    ("sound", "bfloat16"),
)  # fmt: skip


@pytest.mark.parametrize(("name", "form"), [*((name, "saved") for name in WITH_MEDIA), *FORMS])
def test_layer_by_layer_gives_the_bytes_of_the_whole_model(
    bundles: Bundles, name: str, form: str
) -> None:
    whole = bundles.file(name, form)
    layered = bundles.file(name, form, layer_by_layer=True)
    if "moe" not in name:
        assert layered.read_bytes() == whole.read_bytes()
        return
    # Products of an expert's few rows round otherwise where its weights lie at another address.
    want, got = bundles.read(name, form), bundles.read(name, form, layer_by_layer=True)
    for case, outcome in want.outcomes.items():
        for row, kept in outcome.acts.items():
            value = got.outcomes[case].acts[row].value
            torch.testing.assert_close(value, kept.value, rtol=1e-4, atol=1e-5)


def test_layer_by_layer_is_chosen_by_the_size_of_the_weights(
    bundles: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    original = LayeredModel.__init__

    def noted(self: LayeredModel, *arguments: Any) -> None:
        used.append(arguments)
        original(self, *arguments)

    monkeypatch.setattr(LayeredModel, "__init__", noted)
    small = capture_reference(bundles.folder("mha"), tmp_path / "a.h5", verbose=False)
    assert not used
    monkeypatch.setattr(capturing, "WHOLE_UP_TO_BYTES", 1000)
    large = capture_reference(bundles.folder("mha"), tmp_path / "b.h5", verbose=False)
    assert len(used) == 3
    assert small.read_bytes() == large.read_bytes()


def test_no_two_layers_of_one_run_are_in_memory_together(
    bundles: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three runs go side by side: as stored, rounded, in bfloat16."""
    alive: list[weakref.ref[Any]] = []
    most = []
    original = LayeredModel._layer

    def noted(self: LayeredModel, i: int) -> Any:
        layer = original(self, i)
        gc.collect()
        most.append(1 + sum(ref() is not None for ref in alive))
        alive.append(weakref.ref(layer))
        assert all(p.device.type == "cpu" for p in layer.parameters())
        return layer

    monkeypatch.setattr(LayeredModel, "_layer", noted)
    capture_reference(
        bundles.folder("mha"), tmp_path / "x.h5", layer_by_layer=True, new_tokens=2, verbose=False
    )
    n_layers = 4
    assert len(most) == (3 + 2) * n_layers
    assert max(most) == 3


def test_only_the_rows_of_tokens_at_hand_are_read_of_an_embedding(
    bundles: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, int] = {}
    original = LayeredModel.tensor

    def noted(self: LayeredModel, name: str, rows: Any = None) -> torch.Tensor:
        value = original(self, name, rows)
        asked[name] = max(asked.get(name, 0), len(value))
        return value

    monkeypatch.setattr(LayeredModel, "tensor", noted)
    monkeypatch.setattr("bezel.reference.layered._HEAD_ROWS_AT_ONCE", 50)
    folder = bundles.folder("e2b")
    capture_reference(folder, tmp_path / "x.h5", layer_by_layer=True, verbose=False)
    assert asked["model.embed_tokens_per_layer.weight"] <= 48
    assert asked["model.embed_tokens.weight"] == 50


# --- checkpoints that cannot be run --------------------------------------------------------------


def broken(bundles: Bundles, target: Path, edit: Any) -> Path:
    shutil.copytree(bundles.folder("mha"), target)
    edit(target)
    return target


def without(name: str) -> Any:
    def edit(folder: Path) -> None:
        tensors = checkpoint_forms.load_tensors(folder)
        del tensors[name]
        checkpoint_forms.save_tensors(folder, tensors)

    return edit


def misshapen(folder: Path) -> None:
    tensors = checkpoint_forms.load_tensors(folder)
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(3, 40)
    checkpoint_forms.save_tensors(folder, tensors)


def of_another_family(folder: Path) -> None:
    config = checkpoint_forms.read_config(folder)
    checkpoint_forms.write_config(folder, config | {"architectures": ["LlamaForCausalLM"]})


def cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-10])


BROKEN = {
    "missing layer tensor": (
        without("model.layers.1.mlp.up_proj.weight"), ModelMismatchError, "layers.1.mlp.up_proj"
    ),
    "missing norm": (without("model.norm.weight"), ModelMismatchError, "norm.weight"),
    "missing embedding": (
        without("model.embed_tokens.weight"), ModelMismatchError, "embed_tokens"
    ),
    "misshapen": (misshapen, ModelMismatchError, "layers.1.mlp.up_proj"),
    "another family": (of_another_family, UnsupportedError, "LlamaForCausalLM"),
    "cut": (cut, FormatError, "bytes"),
    "no config": (lambda f: (f / "config.json").unlink(), FormatError, "config.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), FormatError, "could not be read"),
    "config is a list": (
        lambda f: (f / "config.json").write_text("[]"), FormatError, "wanted an object"
    ),
}  # fmt: skip


@pytest.mark.parametrize("layered", [False, True])
@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_checkpoint_is_refused_and_leaves_no_file(
    bundles: Bundles, tmp_path: Path, what: str, layered: bool
) -> None:
    edit, error, message = BROKEN[what]
    folder = broken(bundles, tmp_path / "model", edit)
    with pytest.raises(error, match=message):
        capture_reference(folder, tmp_path / "x.h5", layer_by_layer=layered, verbose=False)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
