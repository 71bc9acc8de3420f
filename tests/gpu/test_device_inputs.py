"""On a device: inputs from any device, padding, starts in the middle, where the cache is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import bezel
from bezel.errors import ArgumentError
from support import compare, fixtures
from support.devices import DEVICES, cases, on, to_cpu
from support.lab import Lab

NAMES = tuple(fixtures.RECIPES)
PATHS = ("automatic", "open")
ON_CPU = ("e2b", "moe", "mha")
LENGTHS = (3, 33, 20)  # of the rows; the second has no padding
LENGTH = max(LENGTHS)
TOKENS = fixtures.tokens(20)
IGNORED = -100
IMAGES = torch.tensor([[0, 1, 1, 1, 0] * 4, [1, 1, 0, 2, 2] * 4])


def mask_of(side: str) -> torch.Tensor:
    """attention_mask [batch pos]."""
    places = torch.arange(LENGTH)
    places = places.flip(0) if side == "left" else places
    return (places < torch.tensor(LENGTHS)[:, None]).long()


@pytest.mark.parametrize(("device", "name", "path"), cases(NAMES, PATHS, on_cpu=ON_CPU))
@pytest.mark.parametrize("side", ["left", "right"])
def test_valid_positions_are_those_of_the_unpadded_run(
    lab: Lab, device: str, name: str, path: str, side: str
) -> None:
    bridge, mask = lab.bridge(name, path=path, device=device), mask_of(side)
    tokens = fixtures.tokens(LENGTH, len(LENGTHS)).masked_fill(mask == 0, 0)
    plain = bridge(tokens, attention_mask=mask).cpu()
    logits, cache = bridge.run_with_cache(tokens, lab.names(name), attention_mask=mask)
    got, points = to_cpu(cache), lab.points(name)
    assert torch.isfinite(plain).all()
    for row, length in enumerate(LENGTHS):
        valid = mask[row].bool()
        alone, want = bridge.run_with_cache(tokens[row : row + 1, valid], lab.names(name))
        part = compare.valid_part(points, got, row, valid)
        assert not compare.disagreements(points, part, to_cpu(want))
        for padded in (plain, logits.cpu()):
            gap = (padded[row, valid] - alone[0].cpu()).abs().max()
            assert gap <= compare.logits_gate(alone), length


@pytest.mark.parametrize(("device", "name", "path"), cases(NAMES, PATHS, on_cpu=ON_CPU))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_queries_that_see_no_key_harm_nobody(
    lab: Lab, device: str, name: str, path: str, dtype: torch.dtype
) -> None:
    """Left padding in any dtype: a NaN there would come back through 0 * NaN in the next layer."""
    bridge, mask = lab.bridge(name, path=path, device=device, dtype=dtype), mask_of("left")
    logits, loss = bridge(
        fixtures.tokens(LENGTH, len(LENGTHS)), attention_mask=mask, return_type="both"
    )
    assert torch.isfinite(logits).all()
    assert torch.isfinite(loss)
    exact = lab.bridge(name, path="open", dtype=torch.float64)
    want = exact(fixtures.tokens(LENGTH, len(LENGTHS)), attention_mask=mask)
    valid = mask.bool()
    gate = 0.3 if dtype == torch.bfloat16 else 1e-10
    assert compare.relative_rms(logits.cpu()[valid], want[valid]) <= gate


@pytest.mark.parametrize(("device", "given_on"), cases(DEVICES))
def test_ids_masks_positions_and_labels_may_be_on_any_device(
    lab: Lab, device: str, given_on: str
) -> None:
    bridge = lab.bridge("wrapped_moe", path="open", device=device)
    mask = torch.ones_like(TOKENS)
    mask[0, :4] = 0
    given = {
        "attention_mask": mask,
        "position_ids": torch.arange(20).expand(2, -1) + 2,
        "mm_token_type_ids": IMAGES,
        "labels": TOKENS.flip(0).masked_fill(TOKENS % 3 == 0, IGNORED),
    }
    want = bridge(TOKENS.to(device), return_type="both", **_moved(given, device))
    got = bridge(TOKENS.to(given_on), return_type="both", **_moved(given, given_on))
    each = bridge(
        TOKENS.to(given_on), return_type="loss", loss_per_token=True, **_moved(given, given_on)
    )
    assert all(on(device, value) for value in (*got, each))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    counted = each != 0
    torch.testing.assert_close(each.sum() / counted.sum(), want[1])
    # Each of the arguments counts.
    for name in ("attention_mask", "mm_token_type_ids", "labels"):
        fewer = {key: value for key, value in given.items() if key != name}
        loss = bridge(TOKENS, return_type="loss", **_moved(fewer, given_on))
        assert not torch.equal(loss, want[1]), name


def _moved(given: dict[str, torch.Tensor], device: str) -> dict[str, torch.Tensor]:
    return {name: value.to(device) for name, value in given.items()}


@pytest.mark.parametrize(("device", "given_on"), cases(DEVICES))
@pytest.mark.parametrize("name", ["e2b", "mha"])
def test_a_run_may_start_from_values_kept_on_any_device(
    lab: Lab, device: str, given_on: str, name: str
) -> None:
    bridge = lab.bridge(name, path="open", device=device)
    logits, cache = bridge.run_with_cache(TOKENS)
    kept = cache.to(given_on)
    for layer in (1, bridge.cfg.n_layers - 1):
        got = bridge(
            kept["resid_pre", layer],
            start_at_layer=layer,
            tokens=TOKENS.to(given_on),
            start_state=kept,
        )
        assert on(device, got)
        assert (got - logits).abs().max() <= compare.logits_gate(logits)
    from_embeddings = bridge(kept["hook_embed"], tokens=TOKENS.to(given_on))
    assert torch.equal(from_embeddings, logits)


@pytest.mark.parametrize(("device", "name"), cases(ON_CPU))
def test_a_run_stops_and_keeps_the_last_logits(lab: Lab, device: str, name: str) -> None:
    bridge = lab.bridge(name, path="open", device=device)
    logits, cache = bridge.run_with_cache(TOKENS)
    stream = bridge(TOKENS, stop_at_layer=2)
    assert torch.equal(stream, cache["resid_pre", 2])
    last = bridge(TOKENS, logits_to_keep=3)
    assert last.shape[1] == 3
    assert (last - logits[:, -3:]).abs().max() <= compare.logits_gate(logits)


@pytest.mark.parametrize(("device", "kept_on"), cases(DEVICES))
@pytest.mark.parametrize("arguments", [{}, {"dtype": torch.bfloat16}, {"pos_slice": (2, 9, 3)}])
def test_the_cache_is_kept_on_the_device_that_was_asked_for(
    lab: Lab, device: str, kept_on: str, arguments: dict[str, Any]
) -> None:
    bridge = lab.bridge("e2b", device=device)
    logits, want = bridge.run_with_cache(TOKENS, **arguments)
    again, got = bridge.run_with_cache(TOKENS, device=kept_on, **arguments)
    assert torch.equal(logits, again)
    assert on(device, again)
    assert list(got) == list(want)
    for key, value in got.items():
        assert on(kept_on, value)
        assert on(device, want[key])
        assert value.dtype == want[key].dtype
        assert torch.equal(value.cpu(), want[key].cpu()), key
    names = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_pre")  # one value, one copy
    assert got[names[0]].data_ptr() == got[names[1]].data_ptr()


@pytest.mark.parametrize("device", cases())
def test_ids_outside_the_vocabulary_are_refused_before_the_device_reads_them(
    lab: Lab, device: str
) -> None:
    bridge = lab.bridge("e2b", device=device)
    for wrong in (-1, fixtures.VOCAB):
        with pytest.raises(ArgumentError, match="vocabulary"):
            bridge(torch.full((1, 4), wrong, device=device))
        with pytest.raises(ArgumentError, match="vocabulary"):
            bridge.run_with_hooks(TOKENS, [("hook_tokens", lambda x, hook, to=wrong: x.fill_(to))])
        with pytest.raises(ArgumentError, match="labels"):
            bridge(TOKENS, labels=torch.full((2, 20), wrong), return_type="loss")
    assert torch.isfinite(bridge(TOKENS)).all()  # the device is as it was


@pytest.mark.parametrize("device", ["cuda:63", "cuda" if not torch.cuda.is_available() else "mps"])
def test_a_device_that_is_not_there_is_refused(lab: Lab, device: str) -> None:
    with pytest.raises(ArgumentError, match=device):
        bezel.Bridge.from_pretrained(lab.folder("mha"), device=device)
    with pytest.raises(ArgumentError, match=device):
        lab.bridge("mha").run_with_cache(TOKENS, device=device)
