"""The methods of a cache are called as in TransformerLens 4.3."""

from __future__ import annotations

import inspect

import pytest

import bezel

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


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_method_takes_what_it_takes_in_transformer_lens(name: str) -> None:
    parameters = list(inspect.signature(getattr(bezel.ActivationCache, name)).parameters.values())
    got = ", ".join(
        one.name if one.default is one.empty else f"{one.name}={one.default!r}"
        for one in parameters[1:]
    )
    assert got == OURS.get(name, SIGNATURES[name])
