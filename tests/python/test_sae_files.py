"""SAEs come from SAELens' folders and those of Gemma Scope 2; neither is trusted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import bezel
from bezel.errors import (
    ArgumentError,
    CheckpointError,
    FormatError,
    ModelMismatchError,
    ResourceLimitError,
    UnsupportedError,
)
from support import saes

X = torch.randn(7, 6, generator=torch.Generator().manual_seed(1))
AT = "blocks.3.hook_resid_post"
D_SAE = 15


def load(folder: Path, **arguments: Any) -> Any:
    return bezel.SAE.load_from_disk(folder, **arguments)


def saved(folder: Path, kind: str = "standard", /, **changes: Any) -> Any:
    """An SAE as a folder of SAELens, with changes to its cfg.json."""
    sae = saes.random_sae(kind, 6, AT)
    sae.save_model(folder)
    change(folder / "cfg.json", changes)
    return sae


def change(path: Path, changes: dict[str, Any]) -> None:
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in fields.items() if v is not ...}))


def change_weights(path: Path, **changes: Any) -> None:
    weights = load_file(path) | changes
    save_file({name: w.contiguous() for name, w in weights.items() if w is not ...}, path)


def gemma_scope_2(folder: Path, **changes: Any) -> Any:
    """The same numbers in the layout of google/gemma-scope-2-*."""
    sae = saes.random_sae("jumprelu", 6, AT, apply_b_dec_to_input=False)
    folder.mkdir()
    weights = {n.replace("W_", "w_"): w.detach() for n, w in sae.named_parameters()}
    save_file(weights, folder / "params.safetensors")
    site = "model.layers.3.output"
    fields = {
        "hf_hook_point_in": site,
        "hf_hook_point_out": site,
        "width": D_SAE,
        "model_name": "google/gemma-3-4b-it",
        "architecture": "jump_relu",
        "l0": 20,
        "affine_connection": False,
        "type": "sae",
    }
    (folder / "config.json").write_text(json.dumps(fields))
    change(folder / "config.json", changes)
    return sae


# --- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", saes.ARCHITECTURES)
@pytest.mark.parametrize("centred", [True, False])
def test_a_saved_sae_comes_back(tmp_path: Path, architecture: str, centred: bool) -> None:
    sae = saes.random_sae(architecture, 6, AT, apply_b_dec_to_input=centred)
    sae.save_model(tmp_path / "sae")
    again = load(tmp_path / "sae")
    assert again.cfg.hook_name == AT
    assert torch.equal(again.encode(X), sae.encode(X))
    assert torch.equal(again(X), sae(X))


def test_weights_that_are_views_of_one_memory_are_saved_each_for_itself(tmp_path: Path) -> None:
    weights = dict(saes.random_sae("standard", 6).named_parameters())
    weights["W_dec"] = torch.nn.Parameter(weights["W_enc"].detach().T, False)
    sae = bezel.SAE(bezel.SAEConfig("standard", 6, D_SAE), weights)
    sae.save_model(tmp_path)
    assert torch.equal(load(tmp_path).W_dec, sae.W_enc.T)


def test_saelens_is_told_where_heads_stand_side_by_side(tmp_path: Path) -> None:
    for name, told in ((AT, "none"), ("blocks.3.attn.hook_z", "hook_z")):
        saes.random_sae("standard", 6, name).save_model(tmp_path)
        assert json.loads((tmp_path / "cfg.json").read_text())["reshape_activations"] == told
        assert load(tmp_path).cfg.hook_name == name


def test_the_fields_of_older_versions_are_understood(tmp_path: Path) -> None:
    """Everything at the top level, no architecture, ones beside the weights."""
    sae = saved(tmp_path, metadata=..., architecture=..., hook_name=AT, hook_layer=3, prepend_bos=1)
    change_weights(tmp_path / "sae_weights.safetensors", scaling_factor=torch.ones(D_SAE))
    again = load(tmp_path)
    assert (again.cfg.architecture, again.cfg.hook_name) == ("standard", AT)
    assert again.cfg.metadata["hook_layer"] == 3
    assert torch.equal(again(X), sae(X))


def test_top_k_as_an_activation_function_is_understood(tmp_path: Path) -> None:
    sae = saved(
        tmp_path, "topk", architecture="standard", k=..., activation_fn_str="topk",
        activation_fn_kwargs={"k": 3}, rescale_acts_by_decoder_norm=...,
    )  # fmt: skip
    again = load(tmp_path)
    assert (again.cfg.architecture, again.cfg.k) == ("topk", 3)
    assert torch.equal(again(X), sae(X))
    change(tmp_path / "cfg.json", {"activation_fn_kwargs": {}, "k": 2})
    assert load(tmp_path).cfg.k == 2
    change(tmp_path / "cfg.json", {"k": ...})
    with pytest.raises(FormatError, match="k is None"):
        load(tmp_path)


def test_a_logarithm_of_thresholds_is_understood(tmp_path: Path) -> None:
    sae = saved(tmp_path, "jumprelu")
    logs = {"threshold": ..., "log_threshold": sae.threshold.detach().log()}
    change_weights(tmp_path / "sae_weights.safetensors", **logs)
    torch.testing.assert_close(load(tmp_path).threshold, sae.threshold)


def test_a_fixed_scale_of_inputs_is_folded_into_the_weights(tmp_path: Path) -> None:
    sae = saved(tmp_path, normalize_activations="expected_average_only_in")
    again = load(tmp_path, norm_scaling_factor=0.25)
    torch.testing.assert_close(again.encode(X), sae.encode(0.25 * X))
    torch.testing.assert_close(again(X), sae(0.25 * X) / 0.25)
    with pytest.raises(UnsupportedError, match="norm_scaling_factor="):
        load(tmp_path)
    for factor in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UnsupportedError, match="norm_scaling_factor="):
            load(tmp_path, norm_scaling_factor=factor)
    change(tmp_path / "cfg.json", {"norm_scaling_factor": 0.25})
    assert torch.equal(load(tmp_path).W_enc, again.W_enc)
    saved(tmp_path / "none")
    with pytest.raises(ArgumentError, match="not scaled"):
        load(tmp_path / "none", norm_scaling_factor=2.0)


def test_gemma_scope_2_is_a_jumprelu_that_reads_its_input_as_it_is(tmp_path: Path) -> None:
    sae = gemma_scope_2(tmp_path / "layer_3")
    again = load(tmp_path / "layer_3")
    assert (again.cfg.architecture, again.cfg.hook_name) == ("jumprelu", AT)
    assert torch.equal(again.encode(X), sae.encode(X))
    assert torch.equal(again(X), sae(X))
    assert again.cfg.metadata["l0"] == 20


@pytest.mark.parametrize(
    ("site", "name"),
    [
        ("model.layers.11.self_attn.o_proj.input", "blocks.11.attn.hook_z"),
        ("model.layers.0.post_feedforward_layernorm.output", "blocks.0.hook_mlp_out"),
        ("model.language_model.layers.17.output", "blocks.17.hook_resid_post"),
    ],
)
def test_the_sites_of_gemma_scope_2_have_their_names_here(
    tmp_path: Path, site: str, name: str
) -> None:
    gemma_scope_2(tmp_path / "sae", hf_hook_point_in=site, hf_hook_point_out=...)
    assert load(tmp_path / "sae").cfg.hook_name == name


def test_the_dtype_asked_for_is_that_of_the_weights(tmp_path: Path) -> None:
    saved(tmp_path)
    assert load(tmp_path, dtype=torch.float64).dtype == torch.float64
    with pytest.raises(ArgumentError, match="float16"):
        load(tmp_path, dtype=torch.float16)


# --- what is refused -----------------------------------------------------------------------------

CFG = {
    "no such architecture": ({"architecture": "temporal"}, UnsupportedError, "temporal"),
    "a number for a name": ({"architecture": 3}, FormatError, "architecture is 3"),
    "layer norm": ({"normalize_activations": "layer_norm"}, UnsupportedError, "layer_norm"),
    "one head": ({"metadata": {"hook_head_index": 2}}, UnsupportedError, "hook_head_index"),
    "one head of an old version": ({"hook_head_index": 2}, UnsupportedError, "hook_head_index"),
    "another shape of inputs": ({"reshape_activations": "q"}, UnsupportedError, "reshape_act"),
    "a transcoder": ({"metadata": {"hook_name_out": "x"}}, UnsupportedError, "hook_name_out"),
    "a trained scale": ({"finetuning_scaling_factor": True}, UnsupportedError, "finetuning"),
    "another activation": ({"activation_fn": "gelu"}, UnsupportedError, "gelu"),
    "no width": ({"d_in": ...}, FormatError, "d_in is None"),
    "a width below one": ({"d_sae": 0}, FormatError, "d_sae is 0"),
    "a width that is no int": ({"d_sae": True}, FormatError, "d_sae is True"),
    "another width": ({"d_in": 7}, ModelMismatchError, "d_in=7"),
    "a huge width": ({"d_sae": 1 << 62}, ModelMismatchError, "d_sae=4611686018427387904"),
    "no k": ({"architecture": "topk"}, FormatError, "k is None"),
    "a name that is none": ({"metadata": {"hook_name": 4}}, FormatError, "hook_name is 4"),
    "weights of another kind": ({"architecture": "jumprelu"}, ModelMismatchError, "threshold"),
}


@pytest.mark.parametrize("case", CFG)
def test_a_cfg_that_asks_for_something_else_is_refused(tmp_path: Path, case: str) -> None:
    changes, kind, word = CFG[case]
    saved(tmp_path, **changes)
    with pytest.raises(kind) as caught:
        load(tmp_path)
    assert type(caught.value) is kind
    assert word in str(caught.value)


SCOPE = {
    "another architecture": ({"architecture": "topk"}, UnsupportedError, "topk"),
    "an affine connection": ({"affine_connection": True}, UnsupportedError, "affine"),
    "a transcoder": ({"type": "transcoder"}, UnsupportedError, "transcoder"),
    "another output": ({"hf_hook_point_out": "y"}, UnsupportedError, "hf_hook_point_out"),
    "no site": (
        {"hf_hook_point_in": ..., "hf_hook_point_out": ...},
        UnsupportedError,
        "hf_hook_point_in is ''",
    ),
    "a site of no name": (
        {"hf_hook_point_in": "model.layers.3.x", "hf_hook_point_out": ...},
        UnsupportedError,
        "model.layers.3.x",
    ),
    "another width": ({"width": 16}, ModelMismatchError, "width is 16"),
}


@pytest.mark.parametrize("case", SCOPE)
def test_a_gemma_scope_config_that_asks_for_something_else_is_refused(
    tmp_path: Path, case: str
) -> None:
    changes, kind, word = SCOPE[case]
    gemma_scope_2(tmp_path / "sae", **changes)
    with pytest.raises(kind, match=word):
        load(tmp_path / "sae")


@pytest.mark.parametrize("shape", [(), (6,), (6, 0), (0, D_SAE)])
def test_gemma_scope_weights_without_a_width_are_refused(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    gemma_scope_2(tmp_path / "sae", width=...)
    change_weights(tmp_path / "sae" / "params.safetensors", w_enc=torch.ones(shape))
    with pytest.raises(ModelMismatchError, match=re.escape(f'"w_enc" is {list(shape)}; wanted')):
        load(tmp_path / "sae")


WEIGHTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "missing": ({"b_dec": ...}, ModelMismatchError, '"b_dec" is missing'),
    "one too many": ({"b_gate": torch.ones(D_SAE)}, ModelMismatchError, '"b_gate" is no weight'),
    "transposed": ({"W_dec": torch.ones(6, D_SAE)}, ModelMismatchError, r'"W_dec" is \[6, 15\]'),
    "integers": ({"b_dec": torch.ones(6, dtype=torch.int64)}, FormatError, '"b_dec" is I64'),
    "a scale": (
        {"scaling_factor": 2 * torch.ones(D_SAE)},
        UnsupportedError,
        '"scaling_factor" is not 1 everywhere',
    ),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, case: str) -> None:
    changes, kind, words = WEIGHTS[case]
    saved(tmp_path)
    change_weights(tmp_path / "sae_weights.safetensors", **changes)
    with pytest.raises(kind, match=f"sae_weights.safetensors: {words}"):
        load(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '"a"', "\udcff", "[" * 100_000, '{"d_in": 1e999}']
)
def test_a_damaged_cfg_is_refused(tmp_path: Path, text: str) -> None:
    saved(tmp_path)
    (tmp_path / "cfg.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(FormatError, match="cfg.json"):
        load(tmp_path)


def test_a_cfg_beyond_all_measure_is_not_read(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "cfg.json").write_text('{"a": "' + "x" * (1 << 20) + '"}')
    with pytest.raises(ResourceLimitError, match="1 MiB"):
        load(tmp_path)


def test_weights_cut_anywhere_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    path = tmp_path / "sae_weights.safetensors"
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError, match="sae_weights.safetensors"):
            load(tmp_path)


def test_a_folder_of_neither_layout_says_what_was_wanted(tmp_path: Path) -> None:
    saved(tmp_path / "sae")
    (tmp_path / "sae" / "sae_weights.safetensors").unlink()
    for folder in (tmp_path / "sae", tmp_path / "nowhere"):
        with pytest.raises(FormatError, match="SAELens.*Gemma Scope 2"):
            load(folder)
    assert issubclass(FormatError, CheckpointError)
