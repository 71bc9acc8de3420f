"""Names of SAE values work wherever a name does: in hooks that stand, plans and caching hooks."""

from __future__ import annotations

import gc
import re
import threading
import weakref
from typing import Any

import pytest
import torch

from bezel.errors import (
    ArgumentError,
    HookNeverFiredError,
    HookNotApplicableError,
    UnknownHookError,
)
from support import fixtures, saes
from support.compare import relative_rms
from support.hook_functions import doubled, nothing, says
from support.saes import AT, POST, D

TOKENS = fixtures.tokens(9)
LATER = "blocks.4.attn.hook_z"


# --- hooks that stand ----------------------------------------------------------------------------


def test_a_standing_hook_at_a_feature_edits_every_kind_of_run(bridge: Any, sae: Any) -> None:
    want = bridge.run_with_hooks_with_saes(TOKENS, saes=sae, fwd_hooks=[(POST, doubled)])
    x = bridge.run_with_cache(TOKENS, AT)[1][AT]
    by_hand = sae.decode(2 * sae.encode(x))
    steered = bridge.run_with_hooks(TOKENS, [(AT, lambda value, hook: by_hand)])
    assert relative_rms(want, steered) <= 1e-5
    bridge.add_sae(sae)
    plain = bridge(TOKENS)
    bridge.add_hook(POST, doubled)
    for _ in range(2):
        assert torch.equal(bridge(TOKENS), want)
    logits, cache = bridge.run_with_cache(TOKENS, POST)
    assert torch.equal(logits, want)
    torch.testing.assert_close(cache[POST], 2 * sae.encode(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(bridge.run_with_hooks(TOKENS, [(POST, nothing)]), want)
    bridge.reset_hooks()
    assert torch.equal(bridge(TOKENS), plain)
    assert list(bridge.acts_to_saes) == [AT]


def test_standing_hooks_at_features_have_an_order_a_level_and_permanence(
    bridge: Any, sae: Any
) -> None:
    calls: list[str] = []

    bridge.add_sae(sae)
    bridge.add_hook(POST, says("second", calls), level=2)
    bridge.add_hook([POST, AT], says("first", calls), prepend=True)
    bridge.add_perma_hook(POST, says("third", calls))
    with bridge.hooks([(POST, says("fourth", calls))]):
        bridge.run_with_hooks(TOKENS, [(POST, says("fifth", calls))])
        assert calls == ["first", "second", "third", "fourth", "fifth", "first"]  # and at AT
        hooks = bridge.list_hooks()
        assert list(hooks) == [AT, POST]
        assert [hook.level for hook in hooks[POST]] == [None, 2, None, 1]
        assert [hook.is_permanent for hook in hooks[POST]] == [False, False, True, False]
    assert list(bridge.list_hooks("*.hook_sae_*")) == [POST]
    assert list(bridge.list_hooks(AT)) == [AT]
    bridge.reset_hooks(level=2)
    assert len(bridge.list_hooks()[POST]) == 2
    bridge.reset_hooks()
    assert list(bridge.list_hooks()) == [POST]
    calls.clear()
    bridge(TOKENS)
    assert calls == ["third"]


FORMS: dict[str, tuple[Any, list[str]]] = {
    "glob": ("*.hook_sae_acts_p*", [f"{AT}.hook_sae_acts_pre", POST]),
    "regex": (re.compile(r".*hook_(sae_acts_post|embed)"), ["hook_embed", POST]),
    "regex of the place alone": (re.compile(re.escape(AT)), [AT]),
    "callable": (lambda name: name in (POST, LATER), [POST, LATER]),
    "an iterator": (iter([POST, AT]), [POST, AT]),
    "an iterator of one": (iter([LATER]), [LATER]),
    "several that meet": ([POST, "*.hook_sae_acts_post", LATER], [POST, LATER]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_name_reaches_features_once(bridge: Any, sae: Any, form: str) -> None:
    names, found = FORMS[form]
    calls: list[str] = []
    bridge.add_sae(sae)
    bridge.add_hook(names, lambda value, hook: calls.append(hook.name))
    bridge(TOKENS)
    assert calls == found


def test_a_standing_hook_knows_where_it_is_and_keeps_its_ctx(bridge: Any, sae: Any) -> None:
    seen: list[Any] = []

    def look(features: torch.Tensor, hook: Any) -> None:
        hook.ctx["n"] = hook.ctx.get("n", 0) + 1
        seen.append((hook.name, hook.layer(), hook.dir, hook.step, hook.ctx["n"]))

    bridge.add_sae(sae)
    bridge.add_hook(POST, look)
    bridge(TOKENS)
    bridge(TOKENS)
    bridge.clear_contexts()
    bridge(TOKENS)
    assert seen == [(POST, 2, "fwd", 0, n) for n in (1, 2, 1)]


def test_a_standing_backward_hook_replaces_the_gradient_of_features(bridge: Any, sae: Any) -> None:
    inside = f"{AT}.hook_sae_input"
    bridge.add_sae(sae)

    def gradient() -> torch.Tensor:
        run = bridge.run_with_cache(TOKENS, inside, incl_bwd=True, return_type="loss")
        return run[1][f"{inside}_grad"]

    plain = gradient()
    bridge.add_hook(POST, doubled, dir="bwd")
    torch.testing.assert_close(gradient(), 2 * plain)
    bridge.reset_hooks(direction="fwd")
    torch.testing.assert_close(gradient(), 2 * plain)
    bridge.reset_hooks(direction="bwd")
    assert torch.equal(gradient(), plain)


def test_a_run_inside_a_standing_hook_is_without_that_hook(bridge: Any, sae: Any) -> None:
    depth: list[int] = []

    def rerun(features: torch.Tensor, hook: Any) -> None:
        depth.append(len(depth))
        bridge(TOKENS[:, :3])

    bridge.add_sae(sae)
    bridge.add_hook(POST, rerun)
    bridge(TOKENS)
    assert depth == [0]


def test_hooks_at_features_stand_for_every_thread_and_its_own_runs_alone_have_the_rest(
    bridge: Any, sae: Any
) -> None:
    bridge.add_sae(sae)
    bridge.add_hook(POST, doubled)
    here, there = bridge(TOKENS), []
    thread = threading.Thread(target=lambda: there.append(bridge(TOKENS)))
    with bridge.hooks([(POST, doubled)]):
        thread.start()
        thread.join()
        assert not torch.equal(bridge(TOKENS), here)
    assert torch.equal(there[0], here)


def test_a_result_of_another_dtype_is_cast_to_that_of_the_features(bridge: Any, sae: Any) -> None:
    bridge.add_sae(sae)
    want, _ = bridge.run_with_cache(TOKENS, POST, fwd_hooks=[(POST, doubled)])
    got, cache = bridge.run_with_cache(
        TOKENS, POST, fwd_hooks=[(POST, lambda value, hook: 2 * value.double())]
    )
    assert cache[POST].dtype == torch.float32
    assert torch.equal(got, want)


def test_a_run_holds_its_hooks_no_longer_than_it_lasts(bridge: Any, sae: Any) -> None:
    def look(features: torch.Tensor, hook: Any) -> None:
        assert features.any()

    held = weakref.ref(look)
    bridge.run_with_hooks_with_saes(TOKENS, saes=sae, fwd_hooks=[(POST, look)])
    with bridge.saes(sae), bridge.hooks([(POST, look)]):
        bridge.generate(TOKENS, 2, verbose=False)
    del look
    gc.collect()
    assert held() is None


# --- hooks that could not fire -------------------------------------------------------------------

REFUSED: list[tuple[str, type[Exception], str]] = [
    (f"{AT}.hook_sae_act_post", UnknownHookError, "hook_sae_acts_post"),
    (f"{AT}.hook_sae_error", HookNotApplicableError, "use_error_term=True"),
    ("blocks.1.hook_resid_post.hook_sae_acts_post", HookNotApplicableError, AT),
    ("blocks.1.hook_residpost.hook_sae_acts_post", UnknownHookError, "hook_resid_post"),
    ("blocks.6.attn.hook_k.hook_sae_acts_post", HookNotApplicableError, "keys"),
    ("*.hook_sae_features", UnknownHookError, "hook_sae_acts_post"),
]


@pytest.mark.parametrize(("name", "kind", "words"), REFUSED)
def test_hooks_at_values_that_no_sae_has_are_refused_when_they_are_registered(
    bridge: Any, sae: Any, name: str, kind: type[Exception], words: str
) -> None:
    bridge.add_sae(sae)
    for way in (
        lambda: bridge.add_hook(name, nothing),
        lambda: bridge.add_perma_hook([POST, name], nothing),
        lambda: bridge.hooks([(name, nothing)]),
        lambda: bridge.plan((1, 3), name),
        lambda: bridge.get_caching_hooks(name),
        lambda: bridge.generate(TOKENS, 2, return_cache=True, names_filter=name, verbose=False),
    ):
        with pytest.raises(kind, match=words):
            way()
    assert bridge.list_hooks() == {}


def test_without_any_sae_the_names_of_its_values_say_what_is_missing(bridge: Any) -> None:
    for names in (POST, [AT, POST]):
        for way in (
            lambda n=names: bridge.add_hook(n, nothing),
            lambda n=names: bridge.run_with_cache(TOKENS, n),
            lambda n=names: bridge.run_with_hooks(TOKENS, [(n, nothing)]),
            lambda n=names: bridge.plan((1, 3), n),
        ):
            with pytest.raises(HookNotApplicableError, match="no SAE is attached.*add_sae"):
                way()
    with pytest.raises(UnknownHookError, match="no SAE is attached"):
        bridge.add_hook("*.hook_sae_acts_post", nothing)
    with pytest.raises(UnknownHookError, match="hook_sae_acts_post"):
        bridge.add_hook(f"{AT}.hook_sae_act_post", nothing)
    assert bridge.list_hooks() == {}


@pytest.mark.parametrize("name", [POST, "*.hook_sae_acts_post"])
def test_a_hook_whose_sae_has_gone_stops_every_run_until_it_is_back(
    bridge: Any, sae: Any, name: str
) -> None:
    with bridge.saes(sae):
        bridge.add_hook(name, doubled)
        want = bridge(TOKENS)
    for way in (
        lambda: bridge(TOKENS),
        lambda: bridge(TOKENS, stop_at_layer=1),
        lambda: bridge.run_with_cache(TOKENS, AT),
        lambda: bridge.generate(TOKENS, 2, verbose=False),
        lambda: next(bridge.generate_stream(TOKENS, 2)),
        lambda: bridge.plan((1, 3), AT),
    ):
        with pytest.raises(HookNeverFiredError, match=f"{POST}.*add_sae.*reset_hooks"):
            way()
    assert list(bridge.list_hooks()) == [POST]
    with bridge.saes(sae):
        assert torch.equal(bridge(TOKENS), want)
    bridge.reset_hooks()
    bridge(TOKENS)


def test_a_standing_glob_is_content_with_one_of_its_saes_and_names_with_all(
    bridge: Any, sae: Any
) -> None:
    other = sae.at("blocks.5.hook_resid_post")
    name = "blocks.5.hook_resid_post.hook_sae_acts_post"
    with bridge.saes([sae, other]):
        bridge.add_hook("*.hook_sae_acts_post", nothing)
        bridge.add_hook([POST, name], nothing, level=3)
    with bridge.saes(sae):
        with pytest.raises(HookNeverFiredError, match=name):
            bridge(TOKENS)
        bridge.reset_hooks(level=3)
        bridge(TOKENS)


def test_a_run_that_ends_before_the_sae_goes_without_what_stands_and_refuses_its_own(
    bridge: Any, sae: Any
) -> None:
    calls: list[str] = []
    bridge.add_sae(sae)
    bridge.add_sae(sae.at("blocks.0.hook_resid_post"))
    plain = bridge(TOKENS, stop_at_layer=2)
    bridge.add_hook("*.hook_sae_acts_post", lambda value, hook: calls.append(hook.name))
    bridge.add_hook(POST, doubled)
    assert torch.equal(bridge(TOKENS, stop_at_layer=2), plain)
    assert calls == ["blocks.0.hook_resid_post.hook_sae_acts_post"]
    bridge.run_with_hooks(TOKENS, [("*.hook_sae_acts_post", nothing)], stop_at_layer=2)
    bridge.reset_saes("blocks.0.hook_resid_post")
    for names in (POST, "*.hook_sae_acts_post"):
        with pytest.raises(HookNeverFiredError, match=f"{POST}.*blocks 0 to 1"):
            bridge.run_with_hooks(TOKENS, [(names, nothing)], stop_at_layer=2)


# --- what else takes names -----------------------------------------------------------------------


def test_caching_hooks_keep_features(bridge: Any, sae: Any) -> None:
    bridge.add_sae(sae)
    names = [POST, "hook_embed", f"{AT}.hook_sae_output"]
    want = bridge.run_with_cache(TOKENS, names, pos_slice=(1, 4))[1]
    kept, fwd, bwd = bridge.get_caching_hooks(names, incl_bwd=True, pos_slice=(1, 4))
    bridge.run_with_hooks(TOKENS, fwd, bwd, return_type="loss").backward()
    assert sorted(kept) == sorted([*names, *(f"{name}_grad" for name in names)])
    for name in names:
        assert torch.equal(kept[name], want[name])
    kept, fwd, _ = bridge.get_caching_hooks(POST)
    bridge.run_with_hooks(TOKENS, fwd)
    assert list(kept) == [POST]


def test_names_given_once_are_not_lost_where_no_sae_is_meant(bridge: Any, sae: Any) -> None:
    bridge.add_sae(sae)
    names = (name for name in ("hook_embed", AT))
    assert list(bridge.run_with_cache(TOKENS, names)[1]) == ["hook_embed", AT]
    with pytest.raises(ArgumentError, match="names_filter is empty"):
        bridge.run_with_cache(TOKENS, [])
    with pytest.raises(ArgumentError, match="no name"):
        bridge.add_hook([], nothing)
    with pytest.raises(ArgumentError, match="NoneType"):
        bridge.run_with_hooks(TOKENS, [(None, nothing)])
    with pytest.raises(ArgumentError, match="wanted pairs"):
        bridge.run_with_hooks(TOKENS, [POST])


def test_features_alone_are_kept_in_runs_of_any_part(bridge: Any, sae: Any) -> None:
    bridge.add_sae(sae)
    bridge.add_sae(saes.random_sae("standard", D, "blocks.5.attn.hook_result"))
    later = "blocks.5.attn.hook_result.hook_sae_acts_post"
    glob = "*.hook_sae_acts_post"
    _, whole = bridge.run_with_cache(TOKENS)
    stream, rest = whole["blocks.2.hook_resid_pre"], {"tokens": TOKENS, "start_state": whole}
    runs: list[tuple[Any, dict[str, Any], list[str]]] = [
        (TOKENS, {}, [POST, later]),
        (TOKENS, {"stop_at_layer": 3}, [POST]),
        (stream, {"start_at_layer": 2, **rest}, [POST, later]),
        (stream, {"start_at_layer": -6, **rest}, [POST, later]),
        (stream, {"start_at_layer": 2, "stop_at_layer": 3, **rest}, [POST]),
        (whole["hook_full_embed"], {"tokens": TOKENS}, [POST, later]),
    ]
    for input, arguments, found in runs:
        _, cache = bridge.run_with_cache(input, glob, **arguments)
        assert list(cache) == found
        for name in found:
            torch.testing.assert_close(cache[name], whole[name], rtol=1e-4, atol=1e-5)
    embedding = sae.at("hook_full_embed")
    with bridge.saes(embedding):
        _, cache = bridge.run_with_cache(TOKENS, glob, stop_at_layer=0)
    assert list(cache) == ["hook_full_embed.hook_sae_acts_post"]
