"""Text in place of ids: <bos> once, padding on the side asked for, no tokenizer said plainly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import bezel
from bezel.errors import ArgumentError
from support import checkpoint_forms
from support.lab import Lab

BOS, PAD = 2, 0


def ids(text: str) -> list[int]:
    return [BOS if c == "^" else ord(c) - ord("a") + 3 for c in text]


class Letters:
    """A tokenizer: one id for each letter; "^" spells <bos>."""

    def __call__(self, text: str, **wishes: bool) -> dict[str, list[int]]:
        assert wishes["add_special_tokens"] is wishes["truncation"] is wishes["padding"] is False
        return {"input_ids": ids(text)}


@pytest.fixture(scope="module")
def bridge(lab: Lab) -> Any:
    return bezel.Bridge.from_pretrained(lab.folder("e2b"), dtype=torch.float32, tokenizer=Letters())


@pytest.mark.parametrize(
    ("text", "prepend_bos", "want"),
    [
        ("abc", None, "^abc"),
        ("^abc", None, "^abc"),  # once, whether or not the text spells it out
        ("abc", True, "^abc"),
        ("^abc", True, "^abc"),  # asked for or not
        ("abc", False, "abc"),
        ("^abc", False, "^abc"),
        ("", None, "^"),
    ],
)
def test_bos_comes_first_as_asked(
    bridge: Any, text: str, prepend_bos: bool | None, want: str
) -> None:
    tokens = bridge.to_tokens(text, prepend_bos=prepend_bos)
    assert tokens.tolist() == [ids(want)]
    assert tokens.dtype == torch.int64
    assert torch.equal(bridge(text, prepend_bos=prepend_bos), bridge(tokens))


def test_a_model_without_bos_gets_none_and_says_so_when_asked(lab: Lab, tmp_path: Path) -> None:
    folder = checkpoint_forms.copy_of(lab.folder("e2b"), tmp_path / "e2b")
    config = checkpoint_forms.read_config(folder)
    checkpoint_forms.write_config(folder, config | {"bos_token_id": None})
    bridge = bezel.Bridge.from_pretrained(folder, dtype=torch.float32, tokenizer=Letters())
    for prepend_bos in (None, False):
        assert bridge.to_tokens("abc", prepend_bos).tolist() == [ids("abc")]
    with pytest.raises(ArgumentError, match="no bos token id"):
        bridge.to_tokens("abc", prepend_bos=True)


@pytest.mark.parametrize("side", [None, "right", "left"])
def test_texts_are_padded_on_the_side_asked_for(bridge: Any, side: Any) -> None:
    texts = ["abcde", "xy", "hgf"]
    tokens = bridge.to_tokens(texts, padding_side=side)
    want = [ids("^" + text) for text in texts]
    pads = [[PAD] * (6 - len(row)) for row in want]
    left = side == "left"
    assert tokens.tolist() == [
        pad + row if left else row + pad for row, pad in zip(want, pads, strict=True)
    ]


@pytest.mark.parametrize("side", [None, "right", "left"])
def test_padded_texts_get_the_logits_of_each_alone(bridge: Any, side: Any) -> None:
    texts = ["abcdefghijkl", "xy", "hgf"]
    logits = bridge(texts, padding_side=side)
    for row, text in enumerate(texts):
        alone = bridge(text)[0]
        place = slice(-len(alone), None) if side == "left" else slice(len(alone))
        torch.testing.assert_close(logits[row, place], alone, rtol=1e-4, atol=1e-4)
    losses = [bridge(text, return_type="loss", loss_per_token=True).flatten() for text in texts]
    loss = bridge(texts, padding_side=side, return_type="loss")
    torch.testing.assert_close(loss, torch.cat(losses).mean())


def test_an_attention_mask_goes_before_the_one_of_the_padding(bridge: Any) -> None:
    texts = ["abcde", "xy"]
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]])
    want = bridge(bridge.to_tokens(texts), attention_mask=mask)
    assert torch.equal(bridge(texts, attention_mask=mask), want)


def test_text_serves_every_kind_of_run(bridge: Any) -> None:
    tokens = bridge.to_tokens("abc")
    name = "blocks.3.attn.hook_z"
    logits, cache = bridge.run_with_cache("abc", name)
    want, other = bridge.run_with_cache(tokens, name)
    assert torch.equal(logits, want)
    assert torch.equal(cache[name], other[name])
    zero = [(name, lambda z, hook: 0 * z)]
    assert torch.equal(bridge.run_with_hooks("abc", zero), bridge.run_with_hooks(tokens, zero))
    assert bridge("abc", return_type="loss") == bridge(tokens, return_type="loss")


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ([], {}),
        (["abc", 3], {}),
        (["abc", ["x"]], {}),
        (3, {}),
        (None, {}),
        ([1, 2, 3], {}),
        ("", {"prepend_bos": False}),
        (["abc", ""], {"prepend_bos": False}),
        ("abc", {"padding_side": "middle"}),
    ],
)
def test_what_is_no_text_is_refused(bridge: Any, text: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        bridge(text, **arguments)


def test_without_a_tokenizer_text_is_refused_and_ids_work(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    assert bridge.tokenizer is None
    with pytest.raises(ArgumentError, match="no tokenizer"):
        bridge("abc")
    assert bridge(torch.tensor([BOS, 5, 6])).shape == (1, 3, 160)


def test_one_row_of_ids_needs_no_batch_axis(bridge: Any) -> None:
    row = torch.tensor([BOS, 5, 6, 7])
    assert torch.equal(bridge(row), bridge(row[None]))
    assert torch.equal(bridge(row, return_type="loss"), bridge(row[None], return_type="loss"))
    assert torch.equal(bridge(row.int()), bridge(row))
