"""Weights of all layers: one tensor where layers agree, else a list that says so when misused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import bezel
from bezel import FactoredMatrix
from bezel.errors import ArgumentError, NoSuchWeightError
from support import fixtures
from support.lab import Lab


@pytest.fixture(scope="module")
def uniform(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model whose sliding and full layers are alike, and share no keys."""
    recipe = fixtures.Recipe(
        "sfs",
        {
            **fixtures.RECIPES["e2b"].text,
            "head_dim": 8,
            "global_head_dim": 8,
            "num_kv_shared_layers": 0,
            "use_double_wide_mlp": False,
        },
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(fixtures.RECIPES, "uniform", recipe)
        folder = fixtures.make("uniform", tmp_path_factory.mktemp("uniform"))
    return bezel.Bridge.from_pretrained(folder, dtype=torch.float32)


SHAPES = {
    "W_Q": (3, 4, 48, 8), "W_K": (3, 1, 48, 8), "W_V": (3, 1, 48, 8), "W_O": (3, 4, 8, 48),
    "W_gate": (3, 48, 32), "W_in": (3, 48, 32), "W_out": (3, 32, 48), "layer_scalars": (3,),
    "w_ln1": (3, 48), "w_q_norm": (3, 8), "W_PLE_gate": (3, 48, 12), "W_PLE_out": (3, 12, 48),
    "W_PLE": (160, 3, 12), "W_PLE_context": (3, 48, 12), "W_E": (160, 48), "W_U": (48, 160),
    "QK": (3, 4, 48, 48), "OV": (3, 4, 48, 48),
}  # fmt: skip


def test_weights_are_stacked_where_layers_agree(uniform: Any) -> None:
    for name, shape in SHAPES.items():
        weight = getattr(uniform, name)
        assert isinstance(weight, FactoredMatrix if name in ("QK", "OV") else torch.Tensor)
        assert weight.shape == shape, name
    for layer in range(3):
        assert torch.equal(uniform.W_Q[layer], uniform.blocks[layer].attn.W_Q)
        torch.testing.assert_close(uniform.QK[layer].AB, uniform.blocks[layer].attn.QK.AB)
        torch.testing.assert_close(
            uniform.QK[layer, 2].AB, uniform.W_Q[layer, 2] @ uniform.W_K[layer, 0].mT
        )


def test_layers_that_differ_are_a_list_that_says_so(lab: Lab) -> None:
    bridge = lab.bridge("e2b")  # sssfsssf: heads of 8 and 16, MLPs of 32 and 64
    w = bridge.W_Q
    assert len(w) == 8
    assert w.shapes == [(4, 48, 8)] * 3 + [(4, 48, 16)] + [(4, 48, 8)] * 3 + [(4, 48, 16)]
    assert w[3].shape == w[-1].shape == (4, 48, 16)
    assert torch.equal(w[3, 2], w[3][2])
    assert torch.equal(w[3, 2, :, 5], w[3][2, :, 5])
    assert [x.shape for x in w] == w.shapes
    assert torch.equal(w.stack([0, 2]), torch.stack([w[0], w[2]]))
    assert "[4, 48, 16] in layers 3, 7" in repr(w)
    qk = bridge.QK
    assert isinstance(qk.stack([0, 1, 2]), FactoredMatrix)
    torch.testing.assert_close(qk.stack([0, 1])[1, 3].AB, qk[1, 3].AB)
    assert qk.shapes == [(4, 48, 48)] * 8


MISUSES: dict[str, Callable[[Any], Any]] = {
    "torch.stack": lambda w: torch.stack(w),
    "torch.cat": lambda w: torch.cat(w),
    "torch.einsum": lambda w: torch.einsum("lhmd->lh", w),
    "a keyword": lambda w: torch.nn.functional.linear(torch.zeros(8), weight=w),
    "x @ W": lambda w: torch.zeros(48) @ w,
    "W @ x": lambda w: w @ torch.zeros(8),
    "x * W": lambda w: torch.zeros(8) * w,
    "numpy": lambda w: np.asarray(w),
    "a range of layers": lambda w: w[:3],
    "a list of layers": lambda w: w[[0, 1]],
    "an ellipsis": lambda w: w[..., 0],
    "True": lambda w: w[True],
    "stack": lambda w: w.stack(),
    "stack of some": lambda w: w.stack([0, 3]),
    "stack of none": lambda w: w.stack([]),
}


@pytest.mark.parametrize("what", MISUSES)
def test_using_such_a_list_as_one_tensor_says_why_not(lab: Lab, what: str) -> None:
    with pytest.raises(ArgumentError, match=r"W_Q.*differ in shape.*\[4, 48, 16\] in layers 3, 7"):
        MISUSES[what](lab.bridge("e2b").W_Q)


def test_such_a_list_has_no_one_shape(lab: Lab) -> None:
    w = lab.bridge("e2b").W_O
    with pytest.raises(NoSuchWeightError, match="W_O.shape: layers differ in shape"):
        _ = w.shape
    assert not hasattr(w, "shape")
    for layer in (8, -9):
        with pytest.raises(IndexError, match="8 layers"):
            w[layer]
