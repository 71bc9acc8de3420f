"""From a checkpoint to a bundle: runs the reference and gathers what it makes."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from bezel.loading import load_tokenizer
from bezel.reference.bundle import Bundle, Outcome, forward_order
from bezel.reference.cases import Case, make_cases
from bezel.reference.checkpoint import Checkpoint
from bezel.reference.greedy import Ends, continue_greedily
from bezel.reference.head import HEAD, Apart, Head, blocks_of
from bezel.reference.layered import LayeredModel
from bezel.reference.media_cases import make_media_cases
from bezel.reference.models import Part, ReferenceModel, Stream, WholeModel
from bezel.reference.sampling import Kept, Sample, keep_part

EVERYTHING_UP_TO_BYTES = 512 << 20  # of values in a bundle
WHOLE_UP_TO_BYTES = 1 << 30  # of weights as stored; larger models run layer by layer
ONE_THREAD_UP_TO_BYTES = 64 << 20  # small products gain nothing from more, and lose to waiting
_SECONDS_BEFORE_BAR = 1.0


class Options(NamedTuple):
    """How to run a reference; `capture_reference` explains them."""

    device: torch.device
    sample: Sample | None
    new_tokens: int
    layer_by_layer: bool | None
    verbose: bool


class Gatherer:
    """Takes values as they come; leaves parts of them where the whole would be too large."""

    def __init__(self, cases: list[Case], sample: Sample | None, d_vocab: int) -> None:
        """`sample` None keeps everything up to a limit, and beyond it what Sample() does."""
        self.outcomes = [Outcome(case) for case in cases]
        self.sample = sample
        self.n_bytes = 0
        # Known before they come: where they alone are too much, nothing is kept whole.
        self._count(sum(len(HEAD) * 4 * case.tokens.numel() * d_vocab for case in cases))
        self.head: Head  # of the case whose blocks are coming
        self.apart: tuple[Apart, Apart]  # bfloat16 from rounded weights, and from stored ones

    def take(self, stored: Part, rounded: Part, bfloat16: Part) -> None:
        """The same part of the runs of stored weights, of rounded ones, and in bfloat16."""
        outcome = self.outcomes[stored.stream]
        if stored.block is not None:
            self._take_head(outcome, stored, rounded, bfloat16)
            return
        masks = outcome.case.masks
        for name, value in stored.values.items():
            self._count(value.numel() * value.element_size())
            kept = self.sample and keep_part(name, value, masks, self.sample)
            outcome.acts[name] = kept or Kept(value)
        sample = self.sample or Sample()
        outcome.bfloat16.compare(bfloat16.values, rounded.values, masks, sample)
        if stored is not rounded:
            outcome.bfloat16_stored.compare(bfloat16.values, stored.values, masks, sample)

    def _take_head(self, outcome: Outcome, stored: Part, rounded: Part, bfloat16: Part) -> None:
        block, case = stored.block, outcome.case
        assert block is not None
        if block.begin == 0:
            self.head = Head(case, self.sample, stored.values["hook_logits"].shape[-1])
            self.apart = (Apart(), Apart())
        valid = case.valid[:, block.places]
        self.head.take(block, stored.values)
        self.apart[0].take(bfloat16.values, rounded.values, valid)
        if stored is not rounded:
            self.apart[1].take(bfloat16.values, stored.values, valid)
        if block.end < case.tokens.shape[1]:
            return
        outcome.acts |= {name: self.head.kept(name) for name in HEAD}
        outcome.logits = self.head.logits()
        outcome.loss, outcome.loss_per_token = self.head.loss()
        self.apart[0].put_into(outcome.bfloat16)
        if stored is rounded:
            outcome.bfloat16_stored = outcome.bfloat16
        else:
            self.apart[1].put_into(outcome.bfloat16_stored)

    def _count(self, n_bytes: int) -> None:
        """From the limit on, everything is sampled: what there is, and what comes."""
        self.n_bytes += n_bytes
        if self.sample is not None or self.n_bytes <= EVERYTHING_UP_TO_BYTES:
            return
        self.sample = Sample()
        for earlier in self.outcomes:
            for key, kept in earlier.acts.items():
                earlier.acts[key] = keep_part(key, kept.value, earlier.case.masks, self.sample)

    def finished(self) -> dict[str, Outcome]:
        """By case, with names in forward order."""
        for outcome in self.outcomes:
            order = forward_order(iter(outcome.acts))
            outcome.acts = {name: outcome.acts[name] for name in order}
            for found in (outcome.bfloat16, outcome.bfloat16_stored):
                found.settle(outcome.acts)
        return {outcome.case.name: outcome for outcome in self.outcomes}


class Runs:
    """The three runs of a reference: float32, of rounded weights, and bfloat16."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device, layered: bool) -> None:
        """Where rounding changes nothing, the first two are one."""

        def held(dtype: torch.dtype, rounded: bool = False) -> ReferenceModel:
            kind = LayeredModel if layered else WholeModel
            return kind(checkpoint, dtype, rounded, device)

        self.stored = held(torch.float32)
        self.rounded = None if checkpoint.is_bfloat16 else held(torch.float32, rounded=True)
        self.bfloat16 = held(torch.bfloat16)

    def values(self, cases: list[Case]) -> Iterator[tuple[Part, Part, Part]]:
        """The same values of the same case from all three, part by part."""
        streams = [Stream.of(case) for case in cases]
        if self.rounded is None:
            for stored, narrow in zip(
                self.stored.values(streams), self.bfloat16.values(streams), strict=True
            ):
                yield stored, stored, narrow
            return
        yield from zip(
            *(model.values(streams) for model in (self.stored, self.rounded, self.bfloat16)),
            strict=True,
        )


def capture(folder: Path, options: Options) -> Bundle:
    """Runs the reference of a folder."""
    checkpoint = Checkpoint(folder)
    layered = options.layer_by_layer
    if layered is None:
        layered = checkpoint.n_bytes > WHOLE_UP_TO_BYTES
    tokenizer = load_tokenizer(folder)
    cases = make_cases(checkpoint.config, tokenizer, checkpoint.pad_id)
    cases += make_media_cases(checkpoint.config, tokenizer, checkpoint.pad_id)
    n_parts = n_parts_of(cases, checkpoint, layered)
    gatherer = Gatherer(cases, options.sample, checkpoint.text["vocab_size"])
    n_threads = 1 if checkpoint.n_bytes <= ONE_THREAD_UP_TO_BYTES else torch.get_num_threads()
    with (
        quiet_transformers(),
        threads(n_threads),
        tqdm(
            desc=f"reference of {folder.name}",
            total=n_parts + options.new_tokens + 1,
            delay=_SECONDS_BEFORE_BAR,
            disable=None if options.verbose else True,
            leave=False,
        ) as bar,
    ):
        runs = Runs(checkpoint, options.device, layered)
        for part in runs.values(cases):
            gatherer.take(*part)
            bar.update()
        outcomes = gatherer.finished()
        ends = Ends(checkpoint.eos_ids, checkpoint.pad_id)
        texts = continue_greedily(runs.stored, cases, options.new_tokens, ends, bar.update)
        for outcome, text in zip(outcomes.values(), texts, strict=True):
            outcome.greedy = text
        weights = checkpoint.fingerprints()
        bar.update()
    return Bundle(
        checkpoint.config_text, checkpoint.generation_text, versions(), options.device.type,
        weights, outcomes,
    )  # fmt: skip


def n_parts_of(cases: list[Case], checkpoint: Checkpoint, layered: bool) -> int:
    """How many parts the values of all cases come in."""
    d_vocab = checkpoint.text["vocab_size"]
    of_body = checkpoint.text["num_hidden_layers"] + 2 if layered else 1
    shapes = [case.tokens.shape for case in cases]
    return sum(of_body + len(blocks_of(batch, length, d_vocab)) for batch, length in shapes)


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """So many of torch's own in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No bars and no warnings of transformers in the block."""
    import transformers

    had_bar = transformers.logging.is_progress_bar_enabled()
    level = transformers.logging.get_verbosity()
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if had_bar:
            transformers.logging.enable_progress_bar()


def versions() -> dict[str, str]:
    """Of what the values depend on."""
    import transformers

    return {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
