"""Text and tokens: a word-level tokenizer (nano) and a byte-level one, through transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bezel
from bezel.errors import ArgumentError
from support import fixtures, small_tokenizers
from support.lab import Lab

NANO = Path(__file__).resolve().parents[1] / "data" / "nano"
BOS = 2
GREEK = "κόσμε ψ"
PROMPT = "When Hugo and Mary went to the shop , Mary gave a drink to"


@pytest.fixture(scope="module")
def nano() -> Any:
    return bezel.Bridge.from_pretrained(NANO)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with room for the byte-level tokenizer's vocabulary."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fixtures, "VOCAB", small_tokenizers.VOCAB)
        return fixtures.make("nosoftcap", tmp_path_factory.mktemp("wide"))


def load(checkpoint: Path, folder: Path, tokenizer: Any = None, **config: Any) -> Any:
    made = small_tokenizers.with_tokenizer(
        checkpoint, folder / "model", tokenizer or small_tokenizers.byte_level(), **config
    )
    return bezel.Bridge.from_pretrained(made, dtype=torch.float32)


@pytest.fixture(scope="module")
def bridge(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("bytes")
    return load(checkpoint, folder, chat_template=small_tokenizers.CHAT_TEMPLATE)


def raw(text: str) -> list[int]:
    """The ids by the tokenizers library alone."""
    return list(small_tokenizers.byte_level().encode(text, add_special_tokens=False).ids)


TEXTS = ["the cat", " the cat", "hat", GREEK, "<bos>the cat", "日本 🙂", "a\nb", "<turn>x<eos>"]


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_the_tokenizers_with_one_bos(bridge: Any, text: str) -> None:
    want = raw(text)
    with_bos = want if want[0] == BOS else [BOS, *want]
    assert bridge.to_tokens(text).tolist() == [with_bos]
    assert bridge.to_tokens(text, prepend_bos=True).tolist() == [with_bos]
    assert bridge.to_tokens(text, prepend_bos=False).tolist() == [want]


@pytest.mark.parametrize("adds_bos", [False, True])
def test_a_tokenizer_that_adds_bos_itself_adds_no_second_one(
    checkpoint: Path, tmp_path: Path, adds_bos: bool
) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = small_tokenizers.byte_level()
    if adds_bos:
        tokenizer.post_processor = TemplateProcessing(
            "<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
        )
    bridge = load(checkpoint, tmp_path, tokenizer)
    assert (bridge.tokenizer("hat")["input_ids"][0] == BOS) == adds_bos
    assert bridge.to_tokens("hat").tolist() == [[BOS, *raw("hat")]]
    assert bridge.to_tokens("hat", prepend_bos=False).tolist() == [raw("hat")]


@pytest.mark.parametrize("prepend_bos", [None, True, False])
def test_prepend_bos_is_honoured_wherever_text_goes_in(
    bridge: Any, prepend_bos: bool | None
) -> None:
    tokens = bridge.to_tokens("the cat", prepend_bos=prepend_bos)
    asked = {"prepend_bos": prepend_bos}
    assert (tokens[0, 0] == BOS) == (prepend_bos is not False)
    assert torch.equal(bridge("the cat", **asked), bridge(tokens))
    assert torch.equal(
        bridge("the cat", return_type="loss", **asked), bridge(tokens, return_type="loss")
    )
    logits, cache = bridge.run_with_cache("the cat", "hook_tokens", **asked)
    assert torch.equal(cache["hook_tokens"], tokens)
    assert torch.equal(bridge.run_with_hooks("the cat", [], **asked), logits)
    assert bridge.to_str_tokens("the cat", **asked) == bridge.to_str_tokens(tokens)
    place = bridge.get_token_position(" cat", "the cat", **asked)
    assert tokens[0, place] == bridge.to_single_token(" cat")


TRUNCATING = [
    {"model_max_length": 4},
    {"model_max_length": 4, "truncation": True, "max_length": 4},
    {"truncation_side": "left", "model_max_length": 3, "padding": "max_length", "max_length": 30},
]


@pytest.mark.parametrize("config", TRUNCATING)
@pytest.mark.parametrize("in_file", [False, True])
def test_nothing_is_cut_and_nothing_padded_whatever_the_files_set(
    checkpoint: Path, tmp_path: Path, config: dict[str, Any], in_file: bool
) -> None:
    tokenizer, text = small_tokenizers.byte_level(), "the cat sat on the mat" * 40
    want = [BOS, *raw(text)]
    if in_file:
        tokenizer.enable_truncation(4)
        tokenizer.enable_padding(length=200)
    bridge = load(checkpoint, tmp_path, tokenizer, **config)
    assert bridge.to_tokens(text).tolist() == [want]
    assert bridge.to_tokens("hat").tolist() == [[BOS, *raw("hat")]]
    assert bridge(text).shape[1] == len(want) > 200
    assert len(bridge.to_str_tokens(text)) == len(want)


def test_truncation_that_is_asked_for_cuts_at_the_models_positions(bridge: Any) -> None:
    text = "z" * (bridge.cfg.max_positions + 9)
    whole = bridge.to_tokens(text)
    assert whole.shape == (1, bridge.cfg.max_positions + 10)
    assert torch.equal(bridge.to_tokens(text, truncate=True), whole[:, :-10])


def test_tokens_come_to_the_models_device_unless_told_not_to(bridge: Any) -> None:
    class Elsewhere(bezel.Bridge):
        device = torch.device("meta")

    elsewhere = Elsewhere(bridge._core, bridge.tokenizer, "open", "x")
    assert elsewhere.to_tokens("hat").device.type == "meta"
    assert elsewhere.to_tokens("hat", move_to_device=False).device.type == "cpu"


@pytest.mark.parametrize("text", [*TEXTS, "  two  spaces ", "it 's , . tidy"])
def test_text_comes_back_as_it_was(bridge: Any, text: str) -> None:
    row = bridge.to_tokens(text, prepend_bos=False)[0]
    assert bridge.to_string(row) == text
    assert bridge.to_string(row.tolist()) == bridge.to_string(row.numpy()) == text
    assert bridge.to_string(row.int()) == text
    assert bridge.to_string(torch.stack([row, row])) == [text, text]
    assert bridge.to_string([row.tolist()]) == [text]


def test_spaces_are_not_tidied_whatever_the_tokenizer_would_do(
    nano: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nano.tokenizer, "clean_up_tokenization_spaces", True)
    assert nano.to_string(nano.to_tokens(PROMPT, prepend_bos=False)[0]) == PROMPT


def test_one_id_is_one_text(bridge: Any) -> None:
    for one in (BOS, torch.tensor(BOS), np.int64(BOS)):
        assert bridge.to_string(one) == "<bos>"


@pytest.mark.parametrize(
    "tokens", [torch.zeros(2), torch.zeros(1, 2, 3, dtype=torch.int64), [320], [-1], ["a"], "a", [],
               torch.tensor([True])]
)  # fmt: skip
def test_what_is_no_ids_is_refused(bridge: Any, tokens: Any) -> None:
    with pytest.raises(ArgumentError):
        bridge.to_string(tokens)


def test_str_tokens_are_the_text_of_each_token(bridge: Any) -> None:
    assert bridge.to_str_tokens("the cat sat") == ["<bos>", "the", " cat", " sat"]
    row = bridge.to_tokens("the cat sat")
    want = ["<bos>", "the", " cat", " sat"]
    for ids in (row, row[0], row.numpy(), row[0].tolist()):
        assert bridge.to_str_tokens(ids) == want
    assert bridge.to_str_tokens(["the cat sat", "hat"]) == [want, bridge.to_str_tokens("hat")]
    assert bridge.to_str_tokens([row[0], "the"]) == [want, ["<bos>", "the"]]
    assert bridge.to_str_tokens(torch.tensor(BOS)) == ["<bos>"]
    pieces = bridge.to_str_tokens("日", prepend_bos=False)
    assert pieces == ["\N{REPLACEMENT CHARACTER}"] * 3
    with pytest.raises(ArgumentError, match="wanted one row"):
        bridge.to_str_tokens(torch.stack([row[0], row[0]]))


def test_a_single_token_is_one_and_otherwise_its_pieces_are_told(bridge: Any) -> None:
    assert [bridge.to_single_token("the")] == raw("the")
    assert bridge.to_single_token("<bos>") == BOS
    with pytest.raises(ArgumentError, match=r"' xyz' is 4 tokens, \[' ', 'x', 'y', 'z'\]"):
        bridge.to_single_token(" xyz")
    for wrong in ("", 5, ["the"]):
        with pytest.raises(ArgumentError):
            bridge.to_single_token(wrong)


def test_an_unknown_word_is_no_single_token(nano: Any) -> None:
    assert (
        nano.to_single_token("Mary")
        == nano.to_single_token(" Mary")
        == nano.to_tokens("Mary")[0, 1]
    )
    assert nano.to_single_token("<unk>") == 3
    with pytest.raises(ArgumentError, match="'Nowhere' is no token"):
        nano.to_single_token("Nowhere")


def test_a_single_id_has_a_text(bridge: Any) -> None:
    for one in (
        bridge.to_single_token(" cat"),
        torch.tensor(raw(" cat")),
        torch.tensor([raw(" cat")]),
    ):
        assert bridge.to_single_str_token(one) == " cat"
    for wrong in (-1, 320, 1.5, True, "a", torch.tensor([1, 2])):
        with pytest.raises(ArgumentError):
            bridge.to_single_str_token(wrong)


def test_a_tokens_position_is_found(nano: Any) -> None:
    words = ["<bos>", *PROMPT.split()]
    mary = nano.to_single_token("Mary")
    for token in ("Mary", mary, torch.tensor(mary), torch.tensor([mary])):
        for text in (PROMPT, nano.to_tokens(PROMPT), nano.to_tokens(PROMPT)[0]):
            assert nano.get_token_position(token, text) == words.index("Mary")
            last = nano.get_token_position(token, text, mode="last")
            assert last == len(words) - 1 - words[::-1].index("Mary")
    assert nano.get_token_position("Mary", PROMPT, prepend_bos=False) == words.index("Mary") - 1
    with pytest.raises(
        ArgumentError, match=r"token 'Paris' .* not in the input: \['<bos>', 'When'"
    ):
        nano.get_token_position("Paris", PROMPT)
    with pytest.raises(ArgumentError, match='wanted "first" or "last"'):
        nano.get_token_position("Mary", PROMPT, mode="middle")
    with pytest.raises(ArgumentError, match="one row"):
        nano.get_token_position("Mary", nano.to_tokens([PROMPT, PROMPT]))
    for wrong in ("Mary Hugo", [4, 5], 1.5):
        with pytest.raises(ArgumentError):
            nano.get_token_position(wrong, PROMPT)


def test_residual_directions_are_columns_of_the_unembedding(nano: Any) -> None:
    hugo, mary = nano.to_single_token("Hugo"), nano.to_single_token("Mary")
    want, both = nano.W_E[hugo], nano.W_E[[hugo, mary]]
    for one in ("Hugo", hugo, torch.tensor(hugo), torch.tensor([hugo]), torch.tensor([[hugo]])):
        assert torch.equal(nano.tokens_to_residual_directions(one), want)
    for two in (["Hugo", "Mary"], [hugo, mary], torch.tensor([hugo, mary])):
        assert torch.equal(nano.tokens_to_residual_directions(two), both)
    square = torch.tensor([[hugo, mary], [mary, hugo]])
    assert torch.equal(nano.tokens_to_residual_directions(square), nano.W_E[square])
    for wrong in ("Hugo Mary", 209, torch.tensor([0.5, 1.0]), None):
        with pytest.raises(ArgumentError):
            nano.tokens_to_residual_directions(wrong)


def test_a_difference_of_directions_is_the_logit_difference(nano: Any) -> None:
    _, cache = nano.run_with_cache(PROMPT)
    hugo, mary = nano.tokens_to_residual_directions(["Hugo", "Mary"])
    normed = cache["ln_final.hook_normalized"][0, -1] * nano.w_ln_final
    raw_logits = cache["hook_unembed"][0, -1]
    want = raw_logits[nano.to_single_token("Hugo")] - raw_logits[nano.to_single_token("Mary")]
    torch.testing.assert_close(normed @ (hugo - mary), want, rtol=1e-4, atol=1e-4)
    hugo, mary = nano.folded().tokens_to_residual_directions(["Hugo", "Mary"])
    normalized = cache["ln_final.hook_normalized"][0, -1]
    torch.testing.assert_close(normalized @ (hugo - mary), want, rtol=1e-4, atol=1e-4)


CHAT = [{"role": "user", "content": "the cat"}, {"role": "model", "content": "sat"}]
LONGER = [{"role": "user", "content": "the cat sat on the mat"}]


def test_a_conversation_becomes_its_templates_tokens_with_one_bos(bridge: Any) -> None:
    text = "<turn>user the cat<turn>model sat"
    open_turn = bridge.to_chat_tokens(CHAT)
    assert open_turn.tolist() == [[BOS, *raw(text + "<turn>model")]]
    assert open_turn.dtype == torch.int64
    closed = bridge.to_chat_tokens(CHAT, add_generation_prompt=False)
    assert closed.tolist() == [[BOS, *raw(text)]]
    loud = bridge.to_chat_tokens(CHAT, shout=True)
    assert bridge.to_string(loud[0]) == "<bos><turn>user the cat!<turn>model sat!<turn>model"


@pytest.mark.parametrize("side", ["left", "right"])
def test_several_conversations_are_padded(bridge: Any, side: Any) -> None:
    tokens = bridge.to_chat_tokens([CHAT, LONGER], padding_side=side)
    rows = [bridge.to_chat_tokens(one)[0].tolist() for one in (CHAT, LONGER)]
    for got, want in zip(tokens.tolist(), rows, strict=True):
        pads = [0] * (tokens.shape[1] - len(want))
        assert got == (pads + want if side == "left" else want + pads)


def test_a_template_without_bos_gets_one(checkpoint: Path, tmp_path: Path) -> None:
    bare = "{% for m in messages %}{{ m.content }}{% endfor %}"
    bridge = load(checkpoint, tmp_path, chat_template=bare)
    assert bridge.to_chat_tokens(LONGER).tolist() == [[BOS, *raw("the cat sat on the mat")]]


@pytest.mark.parametrize(
    "messages", ["the cat", [], {}, [{"content": "x"}], ["the cat"], [CHAT, "x"], [[]], None]
)
def test_what_is_no_conversation_is_refused(bridge: Any, messages: Any) -> None:
    with pytest.raises(ArgumentError, match="messages are"):
        bridge.to_chat_tokens(messages)


def test_a_conversation_given_as_text_is_told_where_to_go(bridge: Any) -> None:
    for chat in (CHAT, [CHAT]):
        with pytest.raises(ArgumentError, match="to_chat_tokens"):
            bridge.to_tokens(chat)
        with pytest.raises(ArgumentError, match="to_chat_tokens"):
            bridge(chat)


def test_a_tokenizer_without_a_template_says_so(nano: Any) -> None:
    with pytest.raises(ArgumentError, match="no chat template"):
        nano.to_chat_tokens(CHAT)


WITHOUT_TOKENIZER = {
    "to_tokens": lambda b: b.to_tokens("a"),
    "to_chat_tokens": lambda b: b.to_chat_tokens(CHAT),
    "to_string": lambda b: b.to_string([5]),
    "to_str_tokens": lambda b: b.to_str_tokens("a"),
    "to_str_tokens of ids": lambda b: b.to_str_tokens([5]),
    "to_single_token": lambda b: b.to_single_token("a"),
    "to_single_str_token": lambda b: b.to_single_str_token(5),
    "get_token_position": lambda b: b.get_token_position("a", [5]),
    "tokens_to_residual_directions": lambda b: b.tokens_to_residual_directions("a"),
}


@pytest.mark.parametrize("helper", WITHOUT_TOKENIZER)
def test_without_a_tokenizer_each_helper_says_so(lab: Lab, helper: str) -> None:
    with pytest.raises(ArgumentError, match="no tokenizer"):
        WITHOUT_TOKENIZER[helper](lab.bridge("e2b"))


def test_without_a_tokenizer_ids_still_work(lab: Lab) -> None:
    bridge = lab.bridge("e2b")
    assert bridge.get_token_position(7, [5, 7, 7], mode="last") == 2
    with pytest.raises(ArgumentError, match=r"not in the input: \[5, 6\]"):
        bridge.get_token_position(7, [5, 6])
    assert torch.equal(bridge.tokens_to_residual_directions([5, 6]), bridge.W_E[5:7])
