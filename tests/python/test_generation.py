"""Text goes on as transformers lets it go on: greedy tokens, padded batches, ends of rows."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import bezel
from support import fixtures, nano_language
from support.lab import Lab
from support.prompts import PAD, Prompts

NAMES = tuple(fixtures.RECIPES)
NANO = Path(__file__).resolve().parents[1] / "data" / "nano"
LENGTHS = (3, 33, 20, 9)
PROMPTS = Prompts(LENGTHS)
N_NEW = 200


@functools.cache
def continued(lab: Lab, name: str) -> torch.Tensor:
    """What transformers makes of the prompts [batch pos]."""
    with torch.no_grad():
        return lab.reference(name, attention="sdpa").generate(
            PROMPTS.tokens(), attention_mask=PROMPTS.mask(), do_sample=False, max_new_tokens=N_NEW,
            eos_token_id=None, pad_token_id=PAD,
        )  # fmt: skip


def before_media(row: torch.Tensor) -> torch.Tensor:
    """A row up to the first media id in its new part, that id too: the classes with towers read it
    as a place for features, and look up <pad> there."""
    new = row[max(LENGTHS) :]
    media = (new >= fixtures.FIRST_SPECIAL_ID).nonzero()
    return row if len(media) == 0 else row[: max(LENGTHS) + int(media[0]) + 1]


@pytest.mark.parametrize("name", NAMES)
def test_greedy_tokens_are_those_of_transformers(lab: Lab, name: str) -> None:
    want = continued(lab, name)
    got = PROMPTS.generated(lab.bridge(name), N_NEW, verbose=False)
    assert got.shape == (len(LENGTHS), max(LENGTHS) + N_NEW)
    if name in fixtures.TEXT_ONLY:
        assert torch.equal(got, want)
        return
    whole = 0
    for row, wanted in zip(got, want, strict=True):
        kept = before_media(wanted)
        assert torch.equal(row[: len(kept)], kept)
        whole += len(kept) == len(wanted)
    assert whole >= 2


@pytest.mark.parametrize("name", NAMES)
def test_without_the_cache_of_keys_the_tokens_are_the_same(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name)
    got, logits = PROMPTS.generated(bridge, 30, use_past_kv_cache=False, output_logits=True)
    want, cached = PROMPTS.generated(bridge, 30, output_logits=True)
    assert torch.equal(got, want)
    torch.testing.assert_close(logits, cached, rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("name", ["e2b", "moe"])
def test_a_row_goes_on_as_it_does_alone(lab: Lab, name: str) -> None:
    bridge = lab.bridge(name)
    together = PROMPTS.generated(bridge, 30)
    for row, length in enumerate(LENGTHS):
        prompt = PROMPTS.tokens()[row, -length:]
        alone = bridge.generate(prompt, 30, stop_at_eos=False)
        assert alone.shape == (1, length + 30)
        assert torch.equal(alone[0], together[row, -length - 30 :])


def test_padding_ids_on_the_left_are_padding_without_a_mask(lab: Lab) -> None:
    bridge, tokens = lab.bridge("e2b"), PROMPTS.tokens()
    want = PROMPTS.generated(bridge, 12)
    assert torch.equal(bridge.generate(tokens, 12, stop_at_eos=False), want)
    unmasked = bridge.generate(
        tokens, 12, attention_mask=torch.ones_like(tokens), stop_at_eos=False
    )
    assert not torch.equal(unmasked, want)


def test_positions_go_on_from_those_that_are_given(lab: Lab) -> None:
    bridge, tokens = lab.bridge("e2b"), fixtures.tokens(9)
    positions = torch.stack([torch.arange(9) + 40, torch.arange(9) * 3])
    seen = []

    def look(value: torch.Tensor, hook: bezel.Hook) -> None:
        seen.append(hook.positions)

    with bridge.hooks([("hook_embed", look)]):
        bridge.generate(tokens, 3, position_ids=positions, stop_at_eos=False)
    assert torch.equal(seen[0], positions)
    assert [one.tolist() for one in seen[1:]] == [[[49], [25]], [[50], [26]]]


@pytest.fixture(scope="module")
def nano() -> bezel.Bridge:
    return bezel.Bridge.from_pretrained(NANO)


@functools.cache
def sentences() -> tuple[str, ...]:
    texts = []
    for task in ("indirect_object", "induction", "fact", "comparison"):
        texts.append(nano_language.held_out_prompts(task, 3)[0].text)
    return tuple(texts)


def test_greedy_tokens_of_nano_are_those_of_transformers(nano: bezel.Bridge) -> None:
    tokens = nano.to_tokens(list(sentences()), padding_side="left")
    mask = (tokens != nano.tokenizer.pad_token_id).long()
    assert not mask.all()
    reference = AutoModelForCausalLM.from_pretrained(NANO, attn_implementation="sdpa").eval()
    with torch.no_grad():
        want = reference.generate(
            tokens, attention_mask=mask, do_sample=False, max_new_tokens=N_NEW, eos_token_id=None
        )
    assert torch.equal(nano.generate(tokens, N_NEW, stop_at_eos=False, verbose=False), want)


def test_text_gives_text_and_ids_give_ids(nano: bezel.Bridge) -> None:
    first, second = sentences()[:2]
    tokenizer = AutoTokenizer.from_pretrained(NANO)
    ids = nano.generate(first, 6, stop_at_eos=False, return_type="tokens")
    assert ids[0, 0] == nano.cfg.bos_token_id
    text = nano.generate(first, 6, stop_at_eos=False)
    assert text == tokenizer.decode(ids[0], skip_special_tokens=True)
    assert text.startswith(first)
    both = nano.generate([first, second], 6, stop_at_eos=False)
    assert both[0] == text
    assert both[1] == nano.generate(second, 6, stop_at_eos=False)
    assert torch.equal(nano.generate(nano.to_tokens(first), 6, stop_at_eos=False), ids)
    from_ids = nano.generate(nano.to_tokens(first), 6, stop_at_eos=False, return_type="str")
    assert from_ids == [text]


def test_prepend_bos_is_honoured(nano: bezel.Bridge) -> None:
    text = sentences()[0]
    without = nano.generate(text, 3, stop_at_eos=False, prepend_bos=False, return_type="tokens")
    ids = nano.to_tokens(text, prepend_bos=False)
    assert nano.cfg.bos_token_id not in ids
    assert torch.equal(without, nano.generate(ids, 3, stop_at_eos=False))
    assert without.shape[1] == ids.shape[1] + 3


def ended(tokens: torch.Tensor, n_prompt: int, eos: list[int]) -> torch.Tensor:
    """What greedy tokens become when rows end behind eos: a slow loop."""
    rows = []
    for row in tokens.tolist():
        kept = row[:n_prompt]
        for token in row[n_prompt:]:
            kept.append(token)
            if token in eos:
                break
        rows.append(kept)
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("name", ["e2b", "twelve_b"])
def test_a_row_ends_behind_eos_and_disturbs_no_other(lab: Lab, name: str, cached: bool) -> None:
    bridge, n_prompt = lab.bridge(name), max(LENGTHS)
    free = PROMPTS.generated(bridge, 24)
    first, last = int(free[0, n_prompt + 4]), int(free[2, n_prompt + 9])
    for eos in (first, [first], [first, last], torch.tensor([first, last]).tolist()):
        got = PROMPTS.generated(bridge, 24, eos_token_id=eos, use_past_kv_cache=cached)
        wanted = [eos] if isinstance(eos, int) else eos
        assert torch.equal(got, ended(free, n_prompt, wanted))
    assert torch.equal(PROMPTS.generated(bridge, 24, eos_token_id=[]), free)


def test_generation_stops_when_all_rows_have_ended(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    free = PROMPTS.generated(bridge, 24)
    every = sorted(set(free[:, max(LENGTHS) + 2].tolist()))
    got = PROMPTS.generated(bridge, 24, eos_token_id=every)
    assert torch.equal(got, ended(free, max(LENGTHS), every))
    assert got.shape[1] <= max(LENGTHS) + 3


def test_eos_comes_from_the_files(lab: Lab, tmp_path: Path) -> None:
    """generation_config.json goes before config.json."""
    tokens = fixtures.tokens(9)
    free = lab.bridge("e2b").generate(tokens, 24, stop_at_eos=False)
    from_config, others = int(free[0, 13]), [int(free[0, 11]), int(free[1, 15])]
    folder = tmp_path / "model"
    shutil.copytree(lab.folder("e2b"), folder)
    config = json.loads((folder / "config.json").read_text()) | {"eos_token_id": from_config}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").unlink(missing_ok=True)
    got = bezel.Bridge.from_pretrained(folder).generate(tokens, 24)
    assert torch.equal(got, ended(free, 9, [from_config]))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": others}))
    bridge = bezel.Bridge.from_pretrained(folder)
    assert torch.equal(bridge.generate(tokens, 24), ended(free, 9, others))
    assert torch.equal(bridge.generate(tokens, 24, stop_at_eos=False), free)
    assert torch.equal(
        bridge.generate(tokens, 24, eos_token_id=from_config), ended(free, 9, [from_config])
    )


def test_a_row_ends_at_a_stop_string(nano: bezel.Bridge) -> None:
    tokens = nano.to_tokens(list(sentences()), padding_side="left")
    n_prompt = tokens.shape[1]
    free = nano.generate(tokens, 24, stop_at_eos=False)
    texts = [nano.to_string(row[n_prompt:]) for row in free]
    words = [nano.to_string(row[n_prompt + 3 : n_prompt + 5]) for row in free[:2]]
    for stops in (words[0], words):
        got = nano.generate(tokens, 24, stop_at_eos=False, stop_strings=stops)
        wanted = [stops] if isinstance(stops, str) else stops
        for row, text in enumerate(texts):
            new = got[row, n_prompt:]
            kept = [int(one) for one in new if one != PAD]
            assert kept == free[row, n_prompt : n_prompt + len(kept)].tolist()
            ends = any(stop in text for stop in wanted)
            assert ends == any(stop in nano.to_string(kept) for stop in wanted)
            before = nano.to_string(kept[:-1])
            assert not any(stop in before for stop in wanted)
            assert ends or len(kept) == 24


def test_special_tokens_are_no_part_of_the_text_that_a_stop_string_stands_in(
    nano: bezel.Bridge,
) -> None:
    eos, word = nano.tokenizer.eos_token_id, nano.to_single_token("Paris")
    forced = [word, eos, word]

    def force(logits: torch.Tensor, hook: bezel.Hook) -> None:
        logits[..., forced[hook.step]] = 1e4

    with nano.hooks([("hook_logits", force)]):
        tokens = nano.generate(
            sentences()[0], 3, stop_at_eos=False, stop_strings="eos", return_type="tokens"
        )
    assert tokens[0, -3:].tolist() == forced


def test_a_generation_takes_the_path_of_its_bridge(lab: Lab) -> None:
    """To the bit: the paths round differently."""
    tokens = fixtures.tokens(9)
    for path in ("open", "automatic"):
        bridge = lab.bridge("e2b", path=path)
        _, logits = bridge.generate(tokens, 1, output_logits=True)
        assert torch.equal(logits, bridge(tokens, logits_to_keep=1)), path


class Bar:
    """In the place of tqdm."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given, self.n = given, 0

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self) -> None:
        self.n += 1


def test_a_progress_bar_counts_the_steps_and_can_be_left_out(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """disable: None leaves it out where nobody looks, True always; delay: seconds before it."""
    bars: list[Bar] = []

    def made(**given: Any) -> Bar:
        bars.append(Bar(given))
        return bars[-1]

    monkeypatch.setattr("bezel.generating.tqdm", made)
    bridge, tokens = lab.bridge("e2b"), fixtures.tokens(9)
    bridge.generate(tokens, 4, stop_at_eos=False)
    bridge.generate(tokens, 4, stop_at_eos=False, verbose=False)
    list(bridge.generate_stream(tokens, 4, stop_at_eos=False))
    assert [bar.given["disable"] for bar in bars] == [None, True, True]
    assert [bar.n for bar in bars] == [4, 4, 4]
    assert bars[0].given["total"] == 4
    assert bars[0].given["delay"] == 1.0


def test_streaming_gives_the_tokens_of_generate(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    eos = int(PROMPTS.generated(bridge, 12)[0, max(LENGTHS) + 4])
    want = PROMPTS.generated(bridge, 12, eos_token_id=eos)
    steps = list(
        bridge.generate_stream(
            PROMPTS.tokens(), 12, eos_token_id=eos, attention_mask=PROMPTS.mask()
        )
    )
    assert torch.equal(torch.stack(steps, 1), want[:, max(LENGTHS) :])


def test_a_stream_can_be_left_early(lab: Lab) -> None:
    bridge, tokens = lab.bridge("e2b"), fixtures.tokens(9)
    want = bridge(tokens)
    calls = []
    with bridge.hooks([("hook_embed", lambda value, hook: calls.append(hook.step))]):
        for step, new in enumerate(bridge.generate_stream(tokens, 50, stop_at_eos=False)):
            assert new.shape == (2,)
            if step == 2:
                break
    assert calls == [0, 1, 2]
    assert torch.equal(bridge(tokens), want)
