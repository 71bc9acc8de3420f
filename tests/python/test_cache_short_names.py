"""Short names resolve as TransformerLens's own get_act_name did when the table was made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bezel.utils import get_act_name
from support import fixtures
from support.lab import Lab

FILE = Path(__file__).resolve().parents[1] / "data" / "transformer_lens_short_names.json"
FACTS = json.loads(FILE.read_text())
FORMS = {tuple(form): full for *form, full in FACTS["table"]}
NAMES = sorted({name for name, _, _ in FORMS})


def test_the_table_is_of_the_version_that_is_followed() -> None:
    assert FACTS["transformer_lens"] == "4.3.0"
    assert len(FORMS) == len(FACTS["table"]) > 1000


@pytest.mark.parametrize("name", NAMES)
def test_every_form_of_a_short_name_is_what_it_is_in_transformer_lens(name: str) -> None:
    ours = {form: get_act_name(*form) for form in FORMS if form[0] == name}
    assert ours == {form: full for form, full in FORMS.items() if form[0] == name}


def test_a_cache_finds_its_values_by_these_forms(lab: Lab) -> None:
    """With the layer also counted from the end, as far as the model has the name."""
    bridge = lab.bridge("e2b")
    _, cache = bridge.run_with_cache(fixtures.tokens(5), lab.names("e2b"))
    found = 0
    for (name, layer, layer_type), full in FORMS.items():
        if full not in set(cache):
            continue
        found += 1
        if layer is None:
            assert torch.equal(cache[name], cache[full])
            continue
        for number in (layer, layer - bridge.cfg.n_layers):
            assert torch.equal(cache[name, number, layer_type], cache[full])
            if layer_type is None:
                assert torch.equal(cache[name, number], cache[full])
    assert found > 250
