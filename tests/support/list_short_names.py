"""What TransformerLens makes of short names, as JSON: the table in tests/data.

    PYTHON_WITH_TRANSFORMER_LENS tests/support/list_short_names.py > \
        tests/data/transformer_lens_short_names.json

Needs an environment with transformer-lens; the tests need only the table.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json

from transformer_lens.utilities import get_act_name

NAMES = (
    *("q", "k", "v", "z", "rot_q", "rot_k", "result", "pattern", "attn_scores"),
    *("attn", "attn_logits", "key", "query", "value", "pre", "post", "mid", "pre_linear"),
    *("mlp_pre", "mlp_post", "mlp_mid", "scale", "normalized"),
    *("embed", "pos_embed", "tokens", "resid_pre", "resid_mid", "resid_post"),
    *("attn_out", "mlp_out", "attn_in", "mlp_in", "q_input", "k_input", "v_input"),
)
LAYERS = (None, 7)
LAYER_TYPES = (
    *(None, "", "a", "attn", "attention", "m", "mlp", "b", "block", "blocks"),
    *("ln1", "ln2", "ln1_post", "ln2_post", "ln_final"),
)
PACKED = (
    *("k6", "z11", "q0", "v3", "pattern4", "attn3", "embed", "pre5", "post0", "mid2", "result9"),
    *("scale4ln1", "scale4ln2", "normalized12ln2", "scale4ln2_post", "k6a", "pre5m", "k10attn"),
    *("resid_pre3", "attn_out3", "rot_k3", "mlp_post3", "attn_scores3", "scale", "normalized"),
    *("blocks.3.attn.hook_z", "hook_embed", "ln_final.hook_scale", "blocks.0.hook_resid_pre"),
)


def main() -> None:
    forms = [
        *itertools.product(NAMES, LAYERS, LAYER_TYPES),
        *((packed, None, None) for packed in PACKED if packed not in NAMES),
    ]
    table = {
        "made_by": "tests/support/list_short_names.py",
        "transformer_lens": importlib.metadata.version("transformer-lens"),
        "forms": ["name", "layer", "layer_type", "full name"],
        "table": [[*form, get_act_name(*form)] for form in forms],
    }
    lines = json.dumps(table, separators=(",", ":"))
    print(lines.replace("],[", "],\n["))


if __name__ == "__main__":
    main()
