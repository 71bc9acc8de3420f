"""The shipped miniature is the Gemma 4 that it claims to be, and can do what it claims."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma4ForCausalLM,
    PreTrainedTokenizerBase,
)

from support import nano_language

NANO = Path(__file__).resolve().parents[1] / "data" / "nano"
FACTS = json.loads((NANO / "accuracies.json").read_text())
COLUMNS = {"after_other_sentences": {}, "bare_prompt": {"max_sentences_before": 0}}
MIN_ACCURACY = 0.95
SLIDING_DONOR, FULL_DONOR, FIRST_SHARER = 5, 4, 6
INITIAL_SCALAR = 0.9  # of train_nano.py
PAIRS = {
    "indirect_object": r"(?:When|After|While) (\w+) and (\w+) went",
    "fact": r"(\w+) (?:knows ,|says that) the capital of (\w+)",
    "comparison": r"(?:Of|Between) (\d+) and (\d+) ,",
}


@pytest.fixture(scope="module")
def model() -> Gemma4ForCausalLM:
    return AutoModelForCausalLM.from_pretrained(NANO, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(NANO)


def scales(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Norm weights and layer scalars: what a reader may forget unnoticed while they are 1."""
    for name, tensor in model.state_dict().items():
        if "norm" in name or "layer_scalar" in name:
            yield name, tensor


def test_the_file_is_small() -> None:
    assert (NANO / "model.safetensors").stat().st_size <= 6e6
    assert sum(file.stat().st_size for file in NANO.iterdir()) <= 6e6


def test_it_is_a_text_only_gemma4_in_float32(model: Gemma4ForCausalLM) -> None:
    assert type(model) is Gemma4ForCausalLM
    assert model.config.model_type == "gemma4_text"
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert sum(p.numel() for p in model.parameters()) == FACTS["parameters"]


def test_four_sliding_layers_come_before_each_of_two_full_ones(model: Gemma4ForCausalLM) -> None:
    config = model.config
    assert config.layer_types == [*["sliding_attention"] * 4, "full_attention"] * 2
    assert config.num_hidden_layers == len(model.model.layers) == 10
    for layer, kind in zip(model.model.layers, config.layer_types, strict=True):
        assert layer.self_attn.head_dim == (64 if kind == "full_attention" else 32)
    assert config.num_attention_heads == 2 * config.num_key_value_heads


def test_sliding_and_full_layers_share_keys_and_values(model: Gemma4ForCausalLM) -> None:
    attentions = [layer.self_attn for layer in model.model.layers]
    sharers = [a.layer_idx for a in attentions if a.is_kv_shared_layer]
    donors = [a.layer_idx for a in attentions if a.store_full_length_kv]
    assert sharers == list(range(FIRST_SHARER, 10))
    assert donors == [FULL_DONOR, SLIDING_DONOR]
    for kinds in (sharers, donors):
        assert {model.config.layer_types[i] for i in kinds} == set(model.config.layer_types)
    assert not any(hasattr(attentions[i], "k_proj") for i in sharers)


def test_mlps_of_sharing_layers_are_twice_as_wide(model: Gemma4ForCausalLM) -> None:
    widths = [layer.mlp.gate_proj.out_features for layer in model.model.layers]
    assert widths == [192] * FIRST_SHARER + [384] * (10 - FIRST_SHARER)


def test_it_has_per_layer_embeddings_a_softcap_and_a_tied_head(model: Gemma4ForCausalLM) -> None:
    n_words = len(nano_language.VOCABULARY)
    assert model.model.embed_tokens_per_layer.weight.shape == (n_words, 10 * 16)
    assert model.config.final_logit_softcapping == 30.0
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("task", ["indirect_object", "induction"])
def test_typical_prompts_outgrow_the_window(model: Gemma4ForCausalLM, task: str) -> None:
    prompts = nano_language.held_out_prompts(task, 200)
    lengths = sorted(len(prompt.text.split()) + 1 for prompt in prompts)
    assert lengths[len(lengths) // 2] > model.config.sliding_window


def test_every_norm_and_scalar_moved_off_1(model: Gemma4ForCausalLM) -> None:
    close = {
        name: distance
        for name, tensor in scales(model)
        if (distance := (tensor - 1).square().mean().sqrt().item()) < 0.02
    }
    assert not close


def test_every_norm_and_scalar_was_trained(model: Gemma4ForCausalLM) -> None:
    scalars = []
    for name, tensor in scales(model):
        if tensor.numel() == 1:
            scalars.append(tensor.item())
        else:
            assert tensor.std() > 0.01 * tensor.abs().mean(), f"{name} is nearly constant"
    assert len(set(scalars)) == 10
    assert all(abs(scalar - INITIAL_SCALAR) > 1e-3 for scalar in scalars)


def test_the_tokenizer_has_one_id_per_word(tokenizer: PreTrainedTokenizerBase) -> None:
    words = nano_language.VOCABULARY
    assert len(set(words)) == len(words) == len(tokenizer)
    assert tokenizer.convert_tokens_to_ids(words) == list(range(len(words)))
    specials = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id)
    assert (*specials, tokenizer.unk_token_id) == (0, 1, 2, 3)
    assert tokenizer.model_max_length == 512


@pytest.mark.parametrize("task", nano_language.TASKS)
def test_the_tokenizer_returns_what_it_was_given(
    tokenizer: PreTrainedTokenizerBase, task: str
) -> None:
    for prompt in nano_language.held_out_prompts(task, 20):
        ids = tokenizer(prompt.text).input_ids
        assert [nano_language.VOCABULARY[i] for i in ids] == prompt.text.split()
        assert tokenizer.decode(ids) == prompt.text
        assert tokenizer(f"<bos> {prompt.text}").input_ids == [2, *ids]


def test_the_tokenizer_file_stands_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "As Emma knows , the capital of Nowhere is"
    ids = Tokenizer.from_file(str(NANO / "tokenizer.json")).encode(text).ids
    assert ids == tokenizer(text).input_ids
    assert ids[-2] == tokenizer.unk_token_id


def asked_pairs(task: str, words: list[str]) -> list[tuple[str, ...]]:
    """The pairs that `task` keeps apart, read off the text itself."""
    text = " ".join(words)
    if task == "induction":
        repeated = [] if nano_language.EOS in words else text.rpartition(" . ")[2].split()
        return list(pairwise(repeated))
    pairs = re.findall(PAIRS[task], text)
    return pairs if task == "fact" else [tuple(sorted(pair)) for pair in pairs]


@pytest.mark.parametrize("task", nano_language.TASKS)
def test_training_never_shows_a_held_out_pair(task: str) -> None:
    rows = nano_language.training_rows(seed=0)
    shown = {pair for _ in range(5000) for pair in asked_pairs(task, next(rows).words)}
    prompts = nano_language.held_out_prompts(task, 500)
    asked = {asked_pairs(task, [*p.text.split(), p.answer])[-1] for p in prompts}
    assert len(shown) > 300
    assert len(asked) > 50
    assert not shown & asked


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("task", nano_language.TASKS)
def test_the_recorded_accuracy_is_high_and_in_the_readme(task: str, column: str) -> None:
    recorded = FACTS["held_out_accuracy"][column][task]
    assert recorded >= MIN_ACCURACY
    assert FACTS["prompts_per_task"] >= 200
    cells = [
        line.split("|")
        for line in (NANO / "README.md").read_text().splitlines()
        if line.startswith(f"| `{task}` |") and "%" in line
    ]
    assert [row[2 + list(COLUMNS).index(column)].strip() for row in cells] == [f"{recorded:.1%}"]


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("task", nano_language.TASKS)
def test_it_answers_held_out_prompts(
    model: Gemma4ForCausalLM, tokenizer: PreTrainedTokenizerBase, task: str, column: str
) -> None:
    prompts = nano_language.held_out_prompts(task, 200, seed=7, **COLUMNS[column])
    by_length = defaultdict(list)  # equal lengths need no padding
    for prompt in prompts:
        by_length[len(prompt.text.split())].append(prompt)
    n_correct = 0
    for group in by_length.values():
        ids = tokenizer([f"<bos> {p.text}" for p in group], return_tensors="pt").input_ids
        with torch.no_grad():
            best = model(input_ids=ids, use_cache=False).logits[:, -1].argmax(-1)
        guesses = tokenizer.convert_ids_to_tokens(best.tolist())
        n_correct += sum(guess == p.answer for guess, p in zip(guesses, group, strict=True))
    assert n_correct / len(prompts) >= MIN_ACCURACY


def test_it_answers_the_readme_whose_examples_are_held_out(
    model: Gemma4ForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    examples = re.findall(r"\| `(\w+)` \| `(.+)` → `(\w+)` \|", (NANO / "README.md").read_text())
    assert {task for task, _, _ in examples} == set(nano_language.TASKS)
    for task, prompt, answer in examples:
        pair = asked_pairs(task, [*prompt.split(), answer])[-1]
        assert nano_language.is_held_out(task, *pair), f"{prompt}: {pair} is taught"
        ids = tokenizer(f"<bos> {prompt}", return_tensors="pt").input_ids
        with torch.no_grad():
            best = model(input_ids=ids, use_cache=False).logits[0, -1].argmax()
        assert tokenizer.decode(best) == answer, prompt
