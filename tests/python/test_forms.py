"""One model in every valid form of its checkpoint; what is not valid is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import bezel
from bezel.errors import (
    CheckpointError,
    FormatError,
    ModelMismatchError,
    UnsupportedError,
)
from support import checkpoint_forms, compare, fixtures, media
from support.lab import Lab
from support.media_fixtures import MEDIA_RECIPES

NAMES = tuple(fixtures.RECIPES)
FORMS = [(name, form) for name in NAMES for form in checkpoint_forms.forms_of(name)]
MEDIA_FORMS = [(name, form) for name in MEDIA_RECIPES for form in checkpoint_forms.forms_of(name)]


@pytest.fixture
def copy(lab: Lab, tmp_path: Path) -> Callable[[str], Path]:
    """A checkpoint of the given recipe to damage."""
    return lambda name: checkpoint_forms.copy_of(lab.folder(name), tmp_path / name)


def changed_config(folder: Path, **fields: object) -> Path:
    config = checkpoint_forms.read_config(folder)
    checkpoint_forms.text_part(config).update(fields)
    checkpoint_forms.write_config(folder, config)
    return folder


def changed_tensors(folder: Path, **tensors: torch.Tensor) -> Path:
    checkpoint_forms.save_tensors(folder, checkpoint_forms.load_tensors(folder) | tensors)
    return folder


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_every_form_gives_the_same_logits_bit_for_bit(lab: Lab, name: str, form: str) -> None:
    tokens = fixtures.tokens(33)
    assert torch.equal(lab.bridge(name, form)(tokens), lab.bridge(name)(tokens))


@pytest.mark.parametrize(("name", "form"), MEDIA_FORMS)
def test_every_form_sees_and_hears_the_same_bit_for_bit(lab: Lab, name: str, form: str) -> None:
    given = media.widest_case(name)
    got, want = (
        one(given.tokens, **given.media) for one in (lab.bridge(name, form), lab.bridge(name))
    )
    assert torch.equal(got, want)


def test_the_forms_differ_where_they_should(lab: Lab) -> None:
    """The test above compares different files, not one with itself."""
    for name, form in FORMS:
        files = [
            {
                file.name: file.read_bytes()
                for file in lab.folder(name, kind).iterdir()
                if file.name == "config.json" or "safetensors" in file.name
            }
            for kind in ("saved", form)
        ]
        # Without sharing layers there is nothing unused to add.
        no_sharing = not fixtures.RECIPES[name].text.get("num_kv_shared_layers")
        assert (files[0] == files[1]) == (form == "unused_keys_and_values" and no_sharing)


@pytest.mark.parametrize("name", ["e2b", "moe", "wrapped_e2b"])
def test_an_untied_head_is_its_own(lab: Lab, name: str) -> None:
    tokens = fixtures.tokens(9)
    with torch.no_grad():
        want = lab.reference(name, form="untied")(tokens).logits
    bridge = lab.bridge(name, "untied")
    assert (bridge(tokens) - want).abs().max() <= compare.logits_gate(want)
    assert not torch.allclose(bridge(tokens), lab.bridge(name)(tokens), atol=0.1)
    assert bridge.n_parameters == lab.bridge(name).n_parameters + bridge.cfg.d_vocab * (
        bridge.cfg.d_model
    )


def test_the_dtype_is_that_of_the_file_unless_another_is_asked_for(lab: Lab) -> None:
    folder = lab.folder("e2b", "bfloat16")
    assert bezel.Bridge.from_pretrained(folder).dtype == torch.bfloat16
    assert bezel.Bridge.from_pretrained(folder, dtype=torch.float32).dtype == torch.float32
    assert bezel.Bridge.from_pretrained(lab.folder("e2b")).dtype == torch.float32


@pytest.mark.parametrize("name", ["e2b", "wrapped_moe"])
def test_each_missing_tensor_is_named(copy: Callable[[str], Path], name: str) -> None:
    folder = copy(name)
    tensors = checkpoint_forms.load_tensors(folder)
    text = [key for key in tensors if "tower" not in key and "embed_vision" not in key]
    assert len(text) > 80
    for missing in text:
        kept = {key: value for key, value in tensors.items() if key != missing}
        checkpoint_forms.save_tensors(folder, kept)
        with pytest.raises(ModelMismatchError, match=missing.replace(".", r"\.")):
            bezel.Bridge.from_pretrained(folder)


@pytest.mark.parametrize("name", ["e2b", "wrapped_moe"])
def test_each_tensor_of_another_shape_is_named_with_both_shapes(
    copy: Callable[[str], Path], name: str
) -> None:
    folder = copy(name)
    tensors = checkpoint_forms.load_tensors(folder)
    text = [key for key in tensors if "tower" not in key and "embed_vision" not in key]
    for wrong in text:
        value = tensors[wrong]
        longer = torch.cat((value, value[:1]))
        checkpoint_forms.save_tensors(folder, tensors | {wrong: longer})
        with pytest.raises(ModelMismatchError) as caught:
            bezel.Bridge.from_pretrained(folder)
        for part in (wrong, str(list(longer.shape)), str(list(value.shape))):
            assert part in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.8.input_layernorm.weight",  # a layer that config.json does not have
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.7.mlp.down_proj.bias",
        "model.layers.0.router.proj.weight",  # experts in a dense model
        "model.norm.bias",
    ],
)
def test_an_extra_tensor_of_another_model_is_refused(
    copy: Callable[[str], Path], name: str
) -> None:
    folder = changed_tensors(copy("e2b"), **{name: torch.ones(48)})
    with pytest.raises(ModelMismatchError, match=name.replace(".", r"\.")):
        bezel.Bridge.from_pretrained(folder)


def test_fewer_layers_in_the_config_than_in_the_file_are_refused(
    copy: Callable[[str], Path],
) -> None:
    types = ["sliding_attention", "full_attention", "full_attention"]
    folder = changed_config(copy("mha"), num_hidden_layers=3, layer_types=types)
    with pytest.raises(ModelMismatchError, match=r"layers\.\d"):
        bezel.Bridge.from_pretrained(folder)


def test_float16_is_refused_with_the_reason(lab: Lab, copy: Callable[[str], Path]) -> None:
    with pytest.raises(UnsupportedError, match="float16 overflows"):
        bezel.Bridge.from_pretrained(lab.folder("e2b"), dtype=torch.float16)
    folder = copy("e2b")
    halves = {name: x.half() for name, x in checkpoint_forms.load_tensors(folder).items()}
    checkpoint_forms.save_tensors(folder, halves)
    with pytest.raises(UnsupportedError, match="float16 overflows"):
        bezel.Bridge.from_pretrained(folder)


def test_a_quantised_weight_is_refused_by_name(copy: Callable[[str], Path]) -> None:
    name = "model.layers.3.mlp.down_proj.weight"
    folder = copy("e2b")
    value = checkpoint_forms.load_tensors(folder)[name]
    changed_tensors(folder, **{name: value.to(torch.int8)})
    with pytest.raises(UnsupportedError, match=r"layers\.3\.mlp\.down_proj\.weight.*I8"):
        bezel.Bridge.from_pretrained(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_activation": "relu"}, "hidden_activation"),
        ({"attention_bias": True}, "attention_bias"),
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention"),
        ({"model_type": "llama"}, "llama"),
    ],
)
def test_what_is_not_computed_is_refused(
    copy: Callable[[str], Path], fields: dict[str, object], message: str
) -> None:
    with pytest.raises(UnsupportedError, match=message):
        bezel.Bridge.from_pretrained(changed_config(copy("mha"), **fields))


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_file_that_breaks_off_is_named(copy: Callable[[str], Path], file: str) -> None:
    folder = copy("mha")
    (folder / file).write_bytes((folder / file).read_bytes()[:-4])
    with pytest.raises(FormatError, match=file.replace(".", r"\.")):
        bezel.Bridge.from_pretrained(folder)


def test_a_folder_that_is_not_there_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"\./nowhere: no such folder"):
        bezel.Bridge.from_pretrained("./nowhere")


def test_a_hub_id_that_is_not_in_the_cache_never_asks_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked = []

    def snapshot_download(name: str, **arguments: object) -> str:
        asked.append(arguments["local_files_only"])
        raise huggingface_hub.errors.LocalEntryNotFoundError("not there")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(
        CheckpointError, match=r"nobody/nothing: the model is not .* in the Hugging Face cache"
    ):
        bezel.Bridge.from_pretrained("nobody/nothing", local_files_only=True)
    assert asked == [True]


def test_what_cannot_be_a_hub_id_is_told_what_one_looks_like() -> None:
    pytest.importorskip("huggingface_hub")
    for name in ("goo gle/bad id!", "-lab/model", "some--lab/model"):
        told = f"{name}: no such folder, and not a hub id.*organisation/repository.*letters"
        for local_files_only in (False, True):
            with pytest.raises(CheckpointError, match=told):
                bezel.Bridge.from_pretrained(name, local_files_only=local_files_only)


def test_every_refusal_is_a_bezel_error_and_a_value_error() -> None:
    for kind in (FormatError, UnsupportedError, ModelMismatchError):
        assert issubclass(kind, CheckpointError)
    assert issubclass(CheckpointError, bezel.Error)
    assert issubclass(CheckpointError, ValueError)
