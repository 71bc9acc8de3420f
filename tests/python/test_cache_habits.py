"""The methods of a cache are called as in TransformerLens 4.3, and their examples run."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

import bezel

NANO = Path(__file__).resolve().parents[1] / "data" / "nano"
# inspect.signature of transformer_lens.ActivationCache's methods, version 4.3.0. Left out: the
# batch_size of remove_batch_dim, a guess that our caches need not make.
SIGNATURES = {
    "remove_batch_dim": "",
    "to": "device",
    "toggle_autodiff": "mode=False",
    "apply_slice_to_batch_dim": "batch_slice",
    "accumulated_resid": "layer=None, incl_mid=False, apply_ln=False, pos_slice=None, "
    "mlp_input=False, return_labels=False",
    "logit_attrs": "residual_stack, tokens, incorrect_tokens=None, pos_slice=None, "
    "batch_slice=None, has_batch_dim=True",
    "decompose_resid": "layer=None, mlp_input=False, mode='all', apply_ln=False, pos_slice=None, "
    "incl_embeds=True, return_labels=False",
    "compute_head_results": "",
    "stack_head_results": "layer=-1, return_labels=False, incl_remainder=False, pos_slice=None, "
    "apply_ln=False",
    "stack_activation": "activation_name, layer=-1, sublayer_type=None",
    "get_neuron_results": "layer, neuron_slice=None, pos_slice=None, project_output_onto=None",
    "stack_neuron_results": "layer, pos_slice=None, neuron_slice=None, return_labels=False, "
    "incl_remainder=False, apply_ln=False, project_output_onto=None, mlp_input=False",
    "apply_ln_to_stack": "residual_stack, layer=None, mlp_input=False, pos_slice=None, "
    "batch_slice=None, has_batch_dim=True, recompute_ln=False",
    "get_full_resid_decomposition": "layer=None, mlp_input=False, expand_neurons=True, "
    "apply_ln=False, pos_slice=None, return_labels=False, project_output_onto=None",
}
OURS = {"to": "device=None, dtype=None"}
METHODS = [
    name
    for name, value in inspect.getmembers(bezel.ActivationCache)
    if callable(value) and not name.startswith("_") and inspect.getdoc(value)
]


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_method_takes_what_it_takes_in_transformer_lens(name: str) -> None:
    parameters = list(inspect.signature(getattr(bezel.ActivationCache, name)).parameters.values())
    got = ", ".join(
        one.name if one.default is one.empty else f"{one.name}={one.default!r}"
        for one in parameters[1:]
    )
    assert got == OURS.get(name, SIGNATURES[name])


@pytest.mark.parametrize("name", METHODS)
def test_the_example_of_a_method_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    b = bezel.Bridge.from_pretrained(str(NANO))
    _, cache = b.run_with_cache("As Emma knows , the capital of France is")
    cache.save("run.h5")
    known: dict[str, Any] = {"b": b, "cache": cache, "bezel": bezel, "torch": torch}
    doc = inspect.getdoc(getattr(bezel.ActivationCache, name)) or ""
    examples = doctest.DocTestParser().get_examples(doc)
    assert examples or name not in {*SIGNATURES, "save", "load"} - NO_EXAMPLE
    for example in examples:
        exec(example.source, known)


NO_EXAMPLE = {"to", "remove_batch_dim", "toggle_autodiff"}
