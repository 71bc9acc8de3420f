"""Trains the miniature of tests/data/nano: a genuine Gemma4ForCausalLM, on one CPU core.

    python tests/support/train_nano.py --out tests/data/nano     # about 20 minutes
    python tests/support/train_nano.py --out /tmp/nano --quick   # seconds: does the script run?

Ten layers hold everything the text model of E2B has: sliding and full attention (4 + 1), four
layers that read the keys and values of a sliding donor (5) and a full donor (4), double-wide MLPs
in those layers, per-layer embeddings, layer scalars, a final softcap and a tied head. Writes
config, weights (float32), tokenizer, accuracies.json with what the prompts of
`nano_language.held_out_prompts` measured, and that table into the folder's README.md. The same
machine and torch give the same weights bit for bit; others differ in rounding, not in the skills.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from nano_language import (
    BOS,
    EOS,
    PAD,
    TASKS,
    UNK,
    VOCABULARY,
    Prompt,
    build_tokenizer,
    held_out_prompts,
    training_rows,
)
from torch import nn
from transformers import AutoTokenizer, Gemma4ForCausalLM, Gemma4TextConfig, PreTrainedTokenizerFast

WINDOW_TOKENS = 24
BATCH_ROWS = 32
PEAK_LR = 3e-3
MIN_DISTANCE_FROM_1 = 0.02  # of norm weights and layer scalars
TABLE_BEGIN, TABLE_END = "<!-- accuracies: written by train_nano.py -->\n", "<!-- end -->\n"
IDS = {word: i for i, word in enumerate(VOCABULARY)}


def nano_config() -> Gemma4TextConfig:
    pattern = (["sliding_attention"] * 4 + ["full_attention"]) * 2
    return Gemma4TextConfig(
        vocab_size=len(VOCABULARY),
        vocab_size_per_layer_input=len(VOCABULARY),
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=len(pattern),
        layer_types=pattern,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        global_head_dim=64,
        sliding_window=WINDOW_TOKENS,
        num_kv_shared_layers=4,
        use_double_wide_mlp=True,
        hidden_size_per_layer_input=16,
        final_logit_softcapping=30.0,
        max_position_embeddings=512,
        pad_token_id=IDS[PAD],
        eos_token_id=IDS[EOS],
        bos_token_id=IDS[BOS],
    )


def new_model() -> Gemma4ForCausalLM:
    model = Gemma4ForCausalLM(nano_config())
    with torch.no_grad():
        # Stream and logits of unit size at the start; attention is unscaled, so q.k starts small.
        model.model.embed_tokens.weight.normal_(std=model.config.hidden_size**-0.5)
        for layer in model.model.layers:
            layer.self_attn.q_norm.weight.fill_(layer.self_attn.head_dim**-0.25)
            if not layer.self_attn.is_kv_shared_layer:
                layer.self_attn.k_norm.weight.fill_(layer.self_attn.head_dim**-0.25)
    for name, weight in model.named_parameters():
        if weight.dim() == 2 and "embed" not in name:
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    return model


def make_layer_scalars_trainable(model: Gemma4ForCausalLM) -> None:
    for layer in model.model.layers:
        del layer._buffers["layer_scalar"]
        layer.layer_scalar = nn.Parameter(torch.full((1,), 0.9))


def make_layer_scalars_buffers(model: Gemma4ForCausalLM) -> None:
    for layer in model.model.layers:
        value = layer.layer_scalar.detach().clone()
        del layer._parameters["layer_scalar"]
        layer.layer_scalar = nn.Buffer(value)


def batches(seed: int):
    """Yields ids [batch pos] and loss weights [batch pos]."""
    rows = training_rows(seed)
    while True:
        batch = [next(rows) for _ in range(BATCH_ROWS)]
        ids = torch.tensor([[IDS[word] for word in row.words] for row in batch])
        yield ids, torch.tensor([row.weights for row in batch])


def weighted_loss(model: nn.Module, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    targets, weights = ids[:, 1:].flatten(), weights[:, 1:].flatten()
    losses = nn.functional.cross_entropy(logits.flatten(0, 1), targets, reduction="none")
    return (losses * weights).sum() / weights.sum()


def train(model: Gemma4ForCausalLM, steps: int, seed: int, evaluate_every: int) -> None:
    make_layer_scalars_trainable(model)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    groups = [{"params": matrices, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LR, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, steps, pct_start=0.15)
    data, started = batches(seed), time.perf_counter()
    for step in range(1, steps + 1):
        loss = weighted_loss(model, *next(data))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps:
            seconds = time.perf_counter() - started
            print(f"step {step}/{steps}  loss {loss:.4f}  {seconds:.0f} s", flush=True)
        if step % evaluate_every == 0 and step < steps:
            print("  held out:", measure(model, n=100, seed=1), flush=True)
    make_layer_scalars_buffers(model)


@torch.no_grad()
def accuracy(model: nn.Module, prompts: Sequence[Prompt]) -> float:
    """Share of prompts whose most likely next word, of the whole vocabulary, is the answer."""
    by_length: dict[int, list[Prompt]] = {}  # equal lengths need no padding
    for prompt in prompts:
        by_length.setdefault(len(prompt.text.split()), []).append(prompt)
    correct = 0
    for group in by_length.values():
        ids = torch.tensor([[IDS[w] for w in (BOS, *prompt.text.split())] for prompt in group])
        guesses = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1].argmax(-1)
        correct += sum(int(g) == IDS[p.answer] for g, p in zip(guesses, group, strict=True))
    return correct / len(prompts)


def measure(model: nn.Module, n: int, seed: int, **options: int) -> dict[str, float]:
    model.eval()
    result = {task: accuracy(model, held_out_prompts(task, n, seed, **options)) for task in TASKS}
    model.train()
    return result


def assert_nothing_neutral(model: Gemma4ForCausalLM) -> None:
    """A test that forgets a norm weight or a layer scalar must not pass on this model."""
    for name, tensor in model.state_dict().items():
        if "norm" in name or "layer_scalar" in name:
            distance = (tensor - 1).square().mean().sqrt().item()
            if distance < MIN_DISTANCE_FROM_1:
                raise SystemExit(
                    f"{name}: RMS distance from 1 is {distance:.4f} after training, expected at "
                    f"least {MIN_DISTANCE_FROM_1}. Train longer or with another seed."
                )


def save(model: Gemma4ForCausalLM, out: Path) -> None:
    """Saves model and tokenizer, and refuses if they do not load again as they were."""
    model.eval()
    model.save_pretrained(out)
    PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer(),
        pad_token=PAD,
        eos_token=EOS,
        bos_token=BOS,
        unk_token=UNK,
        model_max_length=model.config.max_position_embeddings,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(out)
    ids = next(batches(seed=123))[0]
    again = Gemma4ForCausalLM.from_pretrained(out).eval()
    with torch.no_grad():
        assert torch.equal(model(ids).logits, again(ids).logits), "the saved model differs"
    tokenizer = AutoTokenizer.from_pretrained(out)
    for task in TASKS:
        text = held_out_prompts(task, 1)[0].text
        assert tokenizer(text).input_ids == [IDS[word] for word in text.split()]
        assert tokenizer.decode(tokenizer(text).input_ids) == text, "the tokenizer loses text"


def report(model: Gemma4ForCausalLM, out: Path, steps: int, n: int, seconds: float) -> None:
    """Prints what was measured; writes accuracies.json and the table of the folder's README."""
    facts = {
        "written_by": "tests/support/train_nano.py",
        "prompts_per_task": n,
        "held_out_accuracy": {
            "after_other_sentences": measure(model, n, seed=0),
            "bare_prompt": measure(model, n, seed=0, max_sentences_before=0),
        },
        "parameters": sum(p.numel() for p in model.parameters()),
        "megabytes": round((out / "model.safetensors").stat().st_size / 1e6, 2),
        "training_steps": steps,
        "training_seconds": round(seconds),
    }
    (out / "accuracies.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(accuracy_table(facts))
    readme = out / "README.md"
    if readme.exists():
        before, rest = readme.read_text().split(TABLE_BEGIN)
        _, after = rest.split(TABLE_END)
        readme.write_text(before + TABLE_BEGIN + accuracy_table(facts) + TABLE_END + after)


def accuracy_table(facts: dict) -> str:
    """What accuracies.json says, as markdown."""
    columns = facts["held_out_accuracy"]
    titles = [name.replace("_", " ") for name in columns]
    rows = [
        f"| `{task}` |" + "".join(f" {c[task]:.1%} |" for c in columns.values()) for task in TASKS
    ]
    prompts, parameters = facts["prompts_per_task"], facts["parameters"]
    note = (
        f"{prompts:,} prompts per cell; {parameters:,} parameters in {facts['megabytes']} MB; "
        f"{facts['training_steps']:,} steps in {facts['training_seconds']} s on one CPU core."
    )
    head = [f"| held-out accuracy | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    return "\n".join([*head, *rows, "", note, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--steps", type=int, default=2500, help="optimizer steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few steps, to try the script")
    args = parser.parse_args()
    steps, n = (20, 50) if args.quick else (args.steps, 1000)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # the same sums in the same order on every run
    model = new_model()
    started = time.perf_counter()
    train(model, steps, args.seed, evaluate_every=max(10, math.ceil(steps / 10)))
    seconds = time.perf_counter() - started
    if not args.quick:
        assert_nothing_neutral(model)
    save(model, args.out)
    report(model, args.out, steps, n, seconds)


if __name__ == "__main__":
    main()
