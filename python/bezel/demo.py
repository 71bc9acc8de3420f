"""`make demo`: look inside the trained miniature, or inside any Gemma 4 checkpoint.

python -m bezel.demo [MODEL] [--prompt TEXT]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from bezel import _C, errors
from bezel.bridge import Bridge
from bezel.dump import dump
from bezel.hooks import Hook, HookPair
from bezel.store import ActivationStore

_NANO = Path(__file__).resolve().parents[2] / "tests" / "data" / "nano"
_N_HEADS_SHOWN = 8
_LOGITS_GATE = 5e-5  # of the largest logit: what float32 rounding may move


class Question(NamedTuple):
    """An indirect-object prompt: the answer is the name that occurs once."""

    text: str
    answer: str
    wrong: str


_INDIRECT_OBJECT = Question(
    "When Hugo and Mary went to the shop , Mary gave a drink to", "Hugo", "Mary"
)


class Stopwatch:
    """Prints each part's title, and remembers how long it took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, title: str) -> Iterator[None]:
        """Times the body."""
        print(f"\n── {title} " + "─" * max(0, 76 - len(title)), flush=True)
        start = time.perf_counter()
        yield
        self.seconds[title] = time.perf_counter() - start

    def report(self) -> None:
        """How long each part took."""
        print("\n── time " + "─" * 71)
        for title, seconds in self.seconds.items():
            print(f"{seconds * 1e3:9.1f} ms  {title}")


def show_answer(b: Bridge, tokens: torch.Tensor) -> None:
    """Runs with a cache of every value, and prints the likeliest next tokens."""
    logits, cache = b.run_with_cache(tokens)
    assert isinstance(logits, torch.Tensor)
    chances = logits[0, -1].float().softmax(-1)
    for probability, token in zip(*chances.topk(min(5, len(chances))), strict=True):
        word = str(int(token)) if b.tokenizer is None else repr(b.tokenizer.decode(int(token)))
        print(f"{probability:7.1%}  {word}")
    print(f"{cache!r}; for example")
    for name in ("hook_embed", f"blocks.{b.cfg.n_layers - 1}.attn.hook_pattern"):
        print(f'  cache["{name}"]: {list(cache[name].shape)}')


def show_heads(b: Bridge, tokens: torch.Tensor, question: Question) -> None:
    """Zeroes the output of one head after another and lists the drops in logit difference."""
    answer, wrong = (int(b.to_tokens(w, prepend_bos=False)) for w in question[1:])

    def logit_difference(*hooks: HookPair) -> float:
        logits = b.run_with_hooks(tokens, fwd_hooks=list(hooks))
        assert isinstance(logits, torch.Tensor)
        return float(logits[0, -1, answer] - logits[0, -1, wrong])

    def without(layer: int, head: int) -> HookPair:
        def zero_head(z: torch.Tensor, hook: Hook) -> None:
            z[:, :, head] = 0

        return f"blocks.{layer}.attn.hook_z", zero_head

    whole = logit_difference()
    heads = [(i, head) for i in range(b.cfg.n_layers) for head in range(b.cfg.n_heads)]
    drops = {at: whole - logit_difference(without(*at)) for at in heads}
    print(
        f'logit difference "{question.answer}" - "{question.wrong}": {whole:.2f}; without a head:'
    )
    for layer, head in sorted(heads, key=lambda at: -abs(drops[at]))[:_N_HEADS_SHOWN]:
        drop = drops[layer, head]
        bar = "█" * max(1, round(30 * abs(drop) / max(map(abs, drops.values()))))
        print(f"  block {layer} head {head}  {whole - drop:7.2f}  ({-drop:+6.2f})  {bar}")


def check_against_transformers(b: Bridge, tokens: torch.Tensor, folder: Path) -> bool:
    """True when the logits agree with those of transformers."""
    import transformers

    transformers.logging.disable_progress_bar()
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=b.dtype).eval()
    with torch.no_grad():
        want = reference(tokens).logits
    got = b(tokens)
    assert isinstance(got, torch.Tensor)
    gap, size = float((got - want).abs().max()), float(want.abs().max())
    agrees = gap <= _LOGITS_GATE * max(1.0, size)
    print(
        f"transformers {transformers.__version__}: largest gap of {want.numel():,} logits "
        f"{gap:.1e}, largest logit {size:.2f}: {'the same model' if agrees else 'THEY DIFFER'}"
    )
    return agrees


def show_dump(b: Bridge, tokens: torch.Tensor) -> bool:
    """Dumps the stream behind every block, and checks the store; True when it is sound."""
    name = f"blocks.{b.cfg.n_layers - 1}.hook_resid_post"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "acts"
        report = dump(b, tokens, folder, "blocks.*.hook_resid_post", verbose=False)
        findings, n_rows, total = _C.store_check(folder, True, None)
        _, cache = b.run_with_cache(tokens, "blocks.*.hook_resid_post", return_type=None)
        rows = ActivationStore(folder, out="torch")[name][:]
        holds = not findings and n_rows == total and torch.equal(rows, cache[name].flatten(0, 1))
        print(
            f"{report.rows} rows of {b.cfg.n_layers} names, {report.n_bytes / 1e6:.2f} MB; "
            f"{'sound, and the values of the run' if holds else 'NOT WHAT THE RUN GAVE'}"
        )
    return bool(holds)


def run(model: str | None, prompt: str | None) -> bool:
    """The demonstration; True when everything that it checks holds."""
    watch = Stopwatch()
    with watch.part("load"):
        b = Bridge.from_pretrained(model or str(_NANO))
    with watch.part("the model: every value that has a name"):
        print(b)
    text = prompt or _INDIRECT_OBJECT.text
    if b.tokenizer is None:
        print("\n(no tokenizer in this folder: random token ids stand in for a prompt)")
        seeded = torch.Generator().manual_seed(0)
        tokens = torch.randint(b.cfg.d_vocab, (1, 16), generator=seeded)
    else:
        tokens = b.to_tokens(text)
    with watch.part(f"run_with_cache: {text}"):
        show_answer(b, tokens)
    holds = True
    if model is None:
        if prompt is None:
            with watch.part(
                "which heads matter: attn.hook_z of one head after another set to zero"
            ):
                show_heads(b, tokens, _INDIRECT_OBJECT)
        with watch.part("the same logits as transformers"):
            holds = check_against_transformers(b, tokens, _NANO)
    if _C.has_store:
        with watch.part("activations on disk: a dump, checked byte by byte"):
            holds &= show_dump(b, tokens)
    watch.report()
    return holds


def main() -> int:
    """The command line. 0: done; 1: the logits differ; 2: the model cannot be used."""
    parser = argparse.ArgumentParser(prog="bezel.demo", description="Look inside a Gemma 4 model.")
    parser.add_argument("model", nargs="?", help="folder or hub id; default: the miniature")
    parser.add_argument("--prompt", help="instead of the indirect-object prompt")
    arguments = parser.parse_args()
    try:
        return 0 if run(arguments.model, arguments.prompt) else 1
    except errors.Error as error:
        print(f"bezel.demo: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
