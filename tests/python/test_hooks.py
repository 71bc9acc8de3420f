"""What a hook is given, what it may give back, in which order, and what it leaves behind."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from support import fixtures
from support.lab import Lab

LENGTH = 9
TOKENS = fixtures.tokens(LENGTH)
Z = "blocks.3.attn.hook_z"  # a full layer of e2b; 4 to 7 share keys and values


@pytest.fixture(scope="module")
def bridge(lab: Lab) -> Any:
    return lab.bridge("e2b")


def fired_names(bridge: Any, selector: Any, **arguments: Any) -> list[str]:
    """The names at which a forward hook given for `selector` is called."""
    names = []
    bridge.run_with_hooks(
        TOKENS, [(selector, lambda value, hook: names.append(hook.name))], **arguments
    )
    return names


def recorded_names(bridge: Any, selector: Any, **arguments: Any) -> list[str]:
    return list(bridge.run_with_cache(TOKENS, selector, **arguments)[1])


# --- names and filters ---------------------------------------------------------------------------

ALL_Z = [f"blocks.{layer}.attn.hook_z" for layer in range(8)]
SELECTORS = {
    "name": (Z, [Z]),
    "glob": ("blocks.*.attn.hook_z", ALL_Z),
    "glob of one digit": ("blocks.[23].attn.hook_z", ALL_Z[2:4]),
    "regex": (re.compile(r"blocks\.\d\.attn\.hook_z"), ALL_Z),
    "callable": (lambda name: name.endswith("hook_z"), ALL_Z),
    "glob that skips layers": (
        "blocks.*.attn.hook_k",
        [f"blocks.{i}.attn.hook_k" for i in range(4)],
    ),
    "glob of the sharing layers": (
        "*.hook_shared_v",
        [f"blocks.{i}.attn.hook_shared_v" for i in range(4, 8)],
    ),
    "on demand by a glob with a literal end": (
        "blocks.*.attn.hook_result",
        [f"blocks.{i}.attn.hook_result" for i in range(8)],
    ),
    "short glob": ("hook_logit*", ["hook_logits"]),
}


@pytest.mark.parametrize("kind", SELECTORS)
def test_every_form_of_a_name_serves_records_and_edits_alike(bridge: Any, kind: str) -> None:
    selector, names = SELECTORS[kind]
    assert recorded_names(bridge, selector) == names
    assert fired_names(bridge, selector) == names


def test_a_regex_matches_the_whole_name(bridge: Any) -> None:
    assert recorded_names(bridge, re.compile(r"hook_embed")) == ["hook_embed"]


@pytest.mark.parametrize("kind", [list, tuple, set, iter, lambda names: dict.fromkeys(names)])
def test_any_iterable_of_them_serves_as_a_filter(bridge: Any, kind: Any) -> None:
    got = recorded_names(bridge, kind([Z, "hook_embed", "blocks.*.hook_resid_mid"]))
    assert got == ["hook_embed", *sorted([Z, *(f"blocks.{i}.hook_resid_mid" for i in range(8))])]


def test_values_stand_in_the_order_of_the_run_whatever_the_order_of_the_filter(
    bridge: Any,
) -> None:
    names = [point.name for point in bridge.hook_points()]
    assert recorded_names(bridge, list(reversed(names))) == names
    assert fired_names(bridge, lambda name: True) == [
        point.name for point in bridge.hook_points() if point.access == "edit"
    ]


def test_no_filter_keeps_every_name_that_is_not_on_demand(bridge: Any) -> None:
    default = [point.name for point in bridge.hook_points() if point.access == "edit"]
    assert recorded_names(bridge, None) == default
    assert recorded_names(bridge, "*") == default
    assert recorded_names(bridge, lambda name: True) == default
    assert len(default) < len(bridge.hook_points())


def test_a_name_chosen_twice_is_kept_once(bridge: Any) -> None:
    assert recorded_names(bridge, [Z, Z, "blocks.3.attn.*_z"]) == [Z]


def test_a_name_given_twice_for_a_hook_calls_it_twice(bridge: Any) -> None:
    calls = []

    def look(value: torch.Tensor, hook: Any) -> None:
        calls.append(hook.name)

    bridge.run_with_hooks(TOKENS, [(Z, look), (Z, look)])
    assert calls == [Z, Z]


# --- what a hook is told -------------------------------------------------------------------------


def test_a_hook_is_told_where_it_is(bridge: Any) -> None:
    seen = []
    bridge.run_with_hooks(TOKENS, [(Z, lambda value, hook: seen.append(hook))])
    (hook,) = seen
    assert (hook.name, hook.layer(), hook.dir, hook.step) == (Z, 3, "fwd", 0)
    positions = torch.arange(LENGTH).expand(2, LENGTH)
    assert torch.equal(hook.positions, positions)
    assert torch.equal(hook.key_positions, positions)
    assert Z in repr(hook)


def test_a_value_of_the_model_has_no_layer(bridge: Any) -> None:
    def look(value: torch.Tensor, hook: Any) -> None:
        with pytest.raises(ValueError, match=r"hook_embed.*no layer"):
            hook.layer()

    bridge.run_with_hooks(TOKENS, [("hook_embed", look)])


def test_the_context_is_shared_by_the_hooks_of_one_name_in_one_call(bridge: Any) -> None:
    def write(value: torch.Tensor, hook: Any) -> None:
        assert hook.ctx == {}
        hook.ctx["seen"] = value.sum().item()

    def read(value: torch.Tensor, hook: Any) -> None:
        assert hook.ctx["seen"] == value.sum().item()

    for _ in range(2):  # the second call begins with an empty one
        bridge.run_with_hooks(TOKENS, [("blocks.*.hook_resid_mid", write), (Z, write),
                                       ("blocks.*.hook_resid_mid", read), (Z, read)])  # fmt: skip


# --- what a hook may give back -------------------------------------------------------------------


def kept(bridge: Any, name: str, hook: Any) -> torch.Tensor:
    _, cache = bridge.run_with_cache(TOKENS, name, fwd_hooks=[(name, hook)])
    return cache[name]


def test_what_is_kept_is_the_value_after_all_edits(bridge: Any) -> None:
    plain = bridge.run_with_cache(TOKENS, Z)[1][Z]
    assert torch.equal(kept(bridge, Z, lambda z, hook: 2 * z), 2 * plain)
    assert torch.equal(kept(bridge, Z, lambda z, hook: None), plain)


def test_writing_into_the_value_counts_as_an_edit(bridge: Any) -> None:
    def write(z: torch.Tensor, hook: Any) -> None:
        z[:, :, 2] = 0

    def write_and_return(z: torch.Tensor, hook: Any) -> torch.Tensor:
        z[:, :, 2] = 0
        return z

    assert torch.equal(kept(bridge, Z, write), kept(bridge, Z, write_and_return))
    edited = bridge.run_with_hooks(TOKENS, [(Z, write)])
    assert torch.equal(edited, bridge.run_with_hooks(TOKENS, [(Z, write_and_return)]))
    assert not torch.equal(edited, bridge(TOKENS))


def test_writing_into_a_value_without_edits_elsewhere_reaches_nothing_else(bridge: Any) -> None:
    """The stream has two names; writing at the second leaves the first as it was."""
    first, second = "blocks.2.hook_resid_post", "blocks.3.hook_resid_pre"
    _, plain = bridge.run_with_cache(TOKENS, [first, second])
    _, cache = bridge.run_with_cache(
        TOKENS, [first, second], fwd_hooks=[(second, lambda value, hook: value.zero_())]
    )
    assert torch.equal(cache[first], plain[first])
    assert not cache[second].any()


def test_hooks_at_a_name_run_as_given_and_each_sees_the_result_before(bridge: Any) -> None:
    plain = bridge.run_with_cache(TOKENS, Z)[1][Z]
    seen = []

    def plus(amount: float) -> Any:
        def add(z: torch.Tensor, hook: Any) -> torch.Tensor:
            seen.append(z)
            return (z + amount) * 2

        return add

    hooks = [(Z, plus(1.0)), ("blocks.3.*.hook_z", plus(3.0))]
    _, cache = bridge.run_with_cache(TOKENS, Z, fwd_hooks=hooks)
    assert torch.equal(seen[0], plain)
    assert torch.equal(seen[1], (plain + 1) * 2)
    assert torch.equal(cache[Z], ((plain + 1) * 2 + 3) * 2)


def test_another_dtype_is_cast_back(bridge: Any) -> None:
    got = kept(bridge, Z, lambda z, hook: z.double() + 1)
    assert got.dtype == torch.float32
    indices = "blocks.3.hook_resid_mid"
    assert kept(bridge, indices, lambda x, hook: torch.ones_like(x, dtype=torch.int64)).all()


def test_a_run_inside_a_hook_is_allowed(bridge: Any) -> None:
    other = fixtures.tokens(LENGTH, seed=4)

    def from_another_run(z: torch.Tensor, hook: Any) -> torch.Tensor:
        return bridge.run_with_cache(other, hook.name)[1][hook.name]

    want = bridge.run_with_cache(other, Z)[1][Z]
    assert torch.equal(kept(bridge, Z, from_another_run), want)


def test_patching_the_stream_and_all_that_runs_beside_it_gives_the_other_run(bridge: Any) -> None:
    """Per-layer embeddings and donated keys and values do not pass through the stream."""
    other = fixtures.tokens(LENGTH, seed=4)
    want, cache = bridge.run_with_cache(other)
    beside = ["ple.hook_inputs"]
    beside += [f"blocks.{i}.attn.hook_{x}" for i in (2, 3) for x in ("rot_k", "v_normed")]

    def patch(value: torch.Tensor, hook: Any) -> torch.Tensor:
        return cache[hook.name]

    stream_only = [("blocks.4.hook_resid_pre", patch)]
    torch.testing.assert_close(
        bridge.run_with_hooks(TOKENS, stream_only + [(name, patch) for name in beside]), want
    )
    gap = (bridge.run_with_hooks(TOKENS, stream_only) - want).abs().max()
    assert gap > 0.1


def test_an_edit_at_a_donor_reaches_the_sharers_and_an_edit_at_a_sharer_stays_there(
    bridge: Any,
) -> None:
    donor, sharers = "blocks.2.attn.hook_rot_k", [4, 5, 6]  # the sliding ones
    names = [f"blocks.{i}.attn.hook_shared_k" for i in sharers]
    _, plain = bridge.run_with_cache(TOKENS, [donor, *names])
    _, at_donor = bridge.run_with_cache(
        TOKENS, [donor, *names], fwd_hooks=[(donor, lambda k, hook: k + 1)]
    )
    for name in [donor, *names]:
        assert torch.equal(at_donor[name], plain[donor] + 1)
    _, at_sharer = bridge.run_with_cache(
        TOKENS, [donor, *names], fwd_hooks=[(names[1], lambda k, hook: k + 1)]
    )
    for name in [donor, *names]:
        assert torch.equal(at_sharer[name], plain[donor] + (1 if name == names[1] else 0))


def test_with_keys_equal_to_values_an_edit_of_v_leaves_the_keys_alone(lab: Lab) -> None:
    bridge = lab.bridge("twelve_b")  # layer 5 is full, and has K == V
    names = [f"blocks.5.attn.hook_{x}" for x in ("k", "v", "k_normed", "v_normed")]
    _, plain = bridge.run_with_cache(TOKENS, names)
    assert torch.equal(plain[names[0]], plain[names[1]])
    changed = {}
    for edited in names[:2]:
        hooks = [(edited, lambda x, hook: x.flip(-1))]
        _, cache = bridge.run_with_cache(TOKENS, names, fwd_hooks=hooks)
        changed[edited] = [not torch.equal(cache[name], plain[name]) for name in names]
    assert changed[names[0]] == [True, True, True, True]
    assert changed[names[1]] == [False, True, False, True]


def test_branch_inputs_leave_the_skip_path_alone(lab: Lab, bridge: Any) -> None:
    """hook_resid_mid is the stream itself; hook_mlp_in is only what the MLP sees of it."""
    parts = [f"blocks.1.hook_{x}" for x in ("resid_mid", "mlp_out", "ple_out", "resid_post")]
    scalar = lab.reference("e2b").model.layers[1].layer_scalar.detach()
    _, plain = bridge.run_with_cache(TOKENS, parts)
    for name, edits_stream in (("blocks.1.hook_resid_mid", True), ("blocks.1.hook_mlp_in", False)):
        _, cache = bridge.run_with_cache(
            TOKENS, parts, fwd_hooks=[(name, lambda x, hook: x.flip(-1))]
        )
        mid, mlp_out, ple_out, post = (cache[part] for part in parts)
        assert torch.equal(mid, plain[parts[0]].flip(-1) if edits_stream else plain[parts[0]])
        assert not torch.allclose(mlp_out, plain[parts[1]], atol=0.1)
        torch.testing.assert_close(post, scalar * (mid + mlp_out + ple_out))


READ_ATTN_IN = ["ln1.hook_normalized", *(f"attn.hook_{x}" for x in "qkv")]
READ_MLP_IN = [
    *("ln2.hook_scale", "mlp.hook_pre", "mlp.hook_pre_linear"),
    *("ln2_moe.hook_scale", "moe.hook_router_logits"),
]


@pytest.mark.parametrize(
    ("branch", "readers"),
    [
        ("hook_attn_in", READ_ATTN_IN),
        ("hook_q_input", ["attn.hook_q"]),
        ("hook_k_input", ["attn.hook_k"]),
        ("hook_v_input", ["attn.hook_v"]),
        ("hook_mlp_in", READ_MLP_IN),
    ],
)
def test_a_branch_input_reaches_all_that_read_it_and_nothing_else(
    lab: Lab, branch: str, readers: list[str]
) -> None:
    bridge, at = lab.bridge("moe", path="open"), "blocks.1."  # where keys are not values
    looked = READ_MLP_IN if branch == "hook_mlp_in" else READ_ATTN_IN
    _, plain = bridge.run_with_cache(TOKENS, "*")
    hooks = [(at + branch, lambda x, hook: x.flip(-1) + 1)]
    _, cache = bridge.run_with_cache(TOKENS, "*", fwd_hooks=hooks)
    changed = [row for row in looked if not torch.equal(cache[at + row], plain[at + row])]
    assert changed == [row for row in looked if row in readers]


def test_forced_experts_get_weights_from_the_probabilities(lab: Lab) -> None:
    bridge = lab.bridge("moe")
    at = "blocks.2.moe."
    names = [at + f"hook_{x}" for x in ("router_probs", "expert_indices", "expert_weights")]
    forced = torch.randint(0, 8, (2, LENGTH, 3), generator=torch.Generator().manual_seed(0))
    _, cache = bridge.run_with_cache(
        TOKENS, names, fwd_hooks=[(at + "hook_expert_indices", lambda x, hook: forced)]
    )
    assert torch.equal(cache[names[1]], forced)
    picked = cache[names[0]].gather(-1, forced)
    experts = lab.reference("moe").model.layers[2].router.per_expert_scale.detach()
    want = picked / picked.sum(-1, keepdim=True) * experts[forced]
    torch.testing.assert_close(cache[names[2]], want)


@pytest.mark.parametrize(("name", "layer"), [("e2b", 1), ("e2b", 5), ("moe", 2)])
def test_keeping_on_demand_values_leaves_every_edit_its_effect(
    lab: Lab, name: str, layer: int
) -> None:
    """A look at the copies for q, k and v, say, must not cut off an edit of ln1 or of hook_k."""
    bridge = lab.bridge(name, path="open")
    points = [point for point in bridge.hook_points() if point.layer == layer]
    on_demand = [point.name for point in points if point.access == "on_demand"]
    assert len(on_demand) >= 4
    for point in points:
        if point.name.endswith("expert_indices"):
            continue
        hooks = [(point.name, lambda value, hook: value.flip(1))]
        plain = bridge.run_with_hooks(TOKENS, hooks)
        logits, _ = bridge.run_with_cache(TOKENS, on_demand, fwd_hooks=hooks)
        assert torch.equal(logits, plain), point.name


def test_hooks_leave_nothing_behind(bridge: Any) -> None:
    plain, before = bridge(TOKENS), repr(bridge)
    bridge.run_with_hooks(TOKENS, [("*", lambda value, hook: value.zero_())])
    bridge.run_with_cache(TOKENS, fwd_hooks=[("*", lambda value, hook: value.zero_())])
    assert torch.equal(bridge(TOKENS), plain)
    assert repr(bridge) == before
