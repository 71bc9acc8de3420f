"""Activations of a corpus on disk: `bezel.dump`, `bezel dump`, `torchrun -m bezel.dump`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from bezel import _C
from bezel.dump.asked import Asked, kept_types
from bezel.dump.batches import (
    Batches,
    Choice,
    Layout,
    Positions,
    SpecialIds,
    Types,
    checked_positions,
)
from bezel.dump.columns import has_keys
from bezel.dump.corpus import Corpus, Encoder, Source, open_corpus
from bezel.dump.corpus_media import prepared
from bezel.dump.fingerprint import model_fingerprint, sae_fingerprints, tokenizer_fingerprint
from bezel.dump.fingerprint import versions as versions_used
from bezel.dump.ranks import Rank, find_rank
from bezel.dump.reductions import Reduce
from bezel.dump.writing import Source as RowSource
from bezel.dump.writing import write
from bezel.errors import ArgumentError
from bezel.selection import NamesFilter
from bezel.store.progress import shard_bar
from bezel.text import encode

if TYPE_CHECKING:
    from bezel.bridge import Bridge

BATCH, LENGTH = 8, 1024
_SHARD_BYTES = 512 << 20  # about; sealing one takes some hundredths of a second
_QUEUE_BYTES = 16 << 20  # at least
_SECONDS_BEFORE_BAR = 1.0


@dataclass(frozen=True)
class DumpReport:
    """What a dump did.

    Attributes:
        path: The store.
        rows: Written by this process in this run; 0 for a store that was finished already.
        shards: Likewise.
        n_bytes: Likewise, of sealed files.
        total_rows: Of the whole store.
        seconds: From the first batch to the last sealed shard.

    Example:
        >>> name = "blocks.3.hook_resid_post"
        >>> report = bezel.dump(b, ["Emma knows"], "one_text", name, verbose=False)
        >>> report.rows, report.total_rows
        (3, 3)
    """

    path: Path
    rows: int
    shards: int
    n_bytes: int
    total_rows: int
    seconds: float


def dump(  # noqa: PLR0913  the settings of a dump
    b: Bridge,
    corpus: Source,
    out: str | Path,
    hooks: NamesFilter = (),
    *,
    reduce: Reduce | None = None,
    positions: Positions = None,
    dtype: torch.dtype | None = None,
    batch: int = BATCH,
    length: int = LENGTH,
    pack: bool = False,
    column: str | None = None,
    prepend_bos: bool | None = None,
    rows_per_shard: int | None = None,
    resume: bool = False,
    repair: bool = False,
    edits: str | None = None,
    rank: Rank | None = None,
    verbose: bool = True,
) -> DumpReport:
    """Runs a corpus through the model and stores what was named: labelled, checked, resumable.

    A row is a token: its values, its id, its document and its place there. A value is bit for bit
    what `run_with_cache` gives for the same batch. The same call makes the same bytes, also after
    any number of interruptions, and whichever rank writes them. The run ends behind the last block
    that is named, without logits unless one asks for them.

    Args:
        b: The model, with folded weights, SAEs or hooks as they are now.
        corpus: Token ids [document pos], an array or a tensor; a `.npy` of them; a `.npz` with
            "tokens", and "lengths" [document] where rows are padded; a `.jsonl` or the folder of a
            Hugging Face dataset, whose rows have "text", "tokens" or "input_ids"; a `.txt` with a
            text a line; or an iterable of texts, ids or such rows. Beside its text, which has the
            processor's mark for each, a row may have "images", "videos" (of frames) and "audio":
            as `prepare_multimodal_inputs` takes them, or paths of image and sound files. Or a row
            is what `prepare_multimodal_inputs` made. Such rows come from a list, a dataset or JSON
            lines: they are read once more when they run.
        out: The store's folder.
        hooks: As names_filter of `run_with_cache`. Scores and patterns have a row for each query.
            Values of an encoder have rows of the tokens in whose places its features stand: of the
            vision encoder the soft token, or its patches [row patch …], row by row; of the audio
            encoder the frame. They stand beside values of the text where positions name types.
        reduce: What to make of values before they leave the device, by name or glob, whether or not
            they are stored: of each row "norm" or "top:8" (the largest elements and their places
            along the last axis, "<name>:top" and "<name>:top_index"); of all rows "mean",
            "variance" or "covariance" (`ActivationStore.moments`).
        positions: Which tokens of a batch's row to keep: a slice, whole numbers (negative ones
            count from its end), "last", "not bos", or what they stand for, one or several of
            "text", "image", "video" and "audio"; None: all. Padding is never kept.
        dtype: In which floating values are stored; None leaves them.
        batch: Rows of a run.
        length: Tokens of a row at most; a longer document goes on in the next row.
        pack: Rows of full length whatever documents they join, as in pretraining: tokens see
            across. False: a document a row, padded.
        column: The field of JSON lines and datasets.
        prepend_bos: For texts, as in `to_tokens`.
        rows_per_shard: Rows of a file; None: about half a gigabyte.
        resume: Go on where an earlier run with the same settings stopped.
        repair: Read every byte of the store, and make again exactly the shards that are damaged or
            missing; by one process.
        edits: What hooks that are in force do, in words; it stands in the manifest, so that a run
            with others is not taken for the same. Wanted where there are any.
        rank: Which process this is; None: as torchrun or SLURM say.
        verbose: Show progress.

    Returns:
        What was done.

    Raises:
        UnknownHookError, HookNotApplicableError, HookNeverFiredError: Before the first run.
        ArgumentError: For a corpus or settings that cannot be; names the argument.
        StoreError: The folder holds another store, another writer is at work, the disk is too small
            or fails. Sealed shards stay; resume=True goes on.

    Example:
        >>> texts = ["Emma knows", "As Emma knows , the capital of France is"]
        >>> report = bezel.dump(b, texts, "stream", "blocks.*.hook_resid_post", verbose=False)
        >>> bezel.ActivationStore("stream")["blocks.3.hook_resid_post"].shape
        (13, 96)
    """
    want_store()
    _check_edits(b, edits)
    who = find_rank() if rank is None else rank
    asked = Asked(b, hooks, reduce or {}, dtype)
    kept, layout = checked_positions(positions), Layout(batch, length, pack)
    asked.check(length)  # before the corpus is read
    read = open_corpus(corpus, _encoder(b, prepend_bos), column, verbose)
    layout = layout.fitted_to(read)
    columns, reductions = asked.columns(read, layout.length)
    every = [*columns, *reductions.columns]
    kept = kept_types(every, kept)
    layout = replace(layout, is_wide=has_keys(every))
    media = b.cfg.media_ids
    ids = SpecialIds(b.cfg.bos_token_id, media.image, media.video, media.audio)
    batches = Batches(read, layout, kept, ids)
    settings = _settings(b, read, layout, kept, edits)
    source = RowSource(b, batches, columns, reductions, dtype)
    manifest = _manifest(source, layout, rows_per_shard, read.media is not None, settings)
    start = "repair" if repair else "resume" if resume else "new"
    return _run(source, manifest, Path(out), start, who, verbose)


def want_store() -> None:
    """Raises ArgumentError in a build without the store."""
    if not _C.has_store:
        raise ArgumentError(
            "this build left the store out; install HDF5, xtensor, nlohmann-json and xxHash "
            "(Debian: libhdf5-dev libxtensor-dev nlohmann-json3-dev libxxhash-dev) and build again"
        )


def _check_edits(b: Bridge, edits: str | None) -> None:
    in_force = b._held()
    if in_force and not edits:
        raise ArgumentError(
            f"{len(in_force)} hooks are in force, and the manifest must say what they do; give "
            'edits="…" in words, or take them away (b.reset_hooks())'
        )
    if edits and not in_force:
        raise ArgumentError(f"edits is {edits!r}, and no hook is in force")


def _encoder(b: Bridge, prepend_bos: bool | None) -> Encoder:
    def ids_of(text: str) -> list[int]:
        ids: list[int] = encode(text, b.tokenizer, b.cfg, prepend_bos, None).tokens[0].tolist()
        return ids

    media = b.cfg.media_ids
    return Encoder(
        ids_of,
        lambda document, text, folder: prepared(b, document, text, folder, prepend_bos),
        b.cfg.d_vocab,
        tuple(id for id in (media.image, media.video, media.audio) if id is not None),
    )


def _settings(
    b: Bridge, corpus: Corpus, layout: Layout, positions: Choice, edits: str | None
) -> dict[str, Any]:
    """All that the bytes follow from, besides the names."""
    cut: Any = positions
    if isinstance(positions, slice):
        cut = {"slice": [positions.start, positions.stop, positions.step]}
    if isinstance(positions, Types):
        cut = {"types": positions.words}
    return {
        "model": model_fingerprint(b),
        "tokenizer": tokenizer_fingerprint(b.tokenizer),
        "corpus": {
            "fingerprint": corpus.fingerprint,
            "documents": len(corpus.ends),
            "tokens": corpus.n_tokens,
        },
        "positions": cut,
        "batch": layout.batch,
        "length": layout.length,
        "pack": layout.pack,
        "edits": edits,
        "saes": sae_fingerprints(b),
        "path": b._path.name,
        "device": b.device.type,
        "versions": versions_used(),
    }


def _manifest(
    source: RowSource,
    layout: Layout,
    rows_per_shard: int | None,
    has_types: bool,
    settings: dict[str, Any],
) -> _C.StoreManifest:
    if rows_per_shard is not None and rows_per_shard < 1:
        raise ArgumentError(f"rows_per_shard is {rows_per_shard}; wanted at least 1")
    if rows_per_shard is None:
        whole = layout.batch * layout.length
        rows_per_shard = max(_SHARD_BYTES // source.row_bytes // whole, 1) * whole
    return _C.StoreManifest(
        total_rows=source.batches.n_rows,
        rows_per_shard=rows_per_shard,
        has_types=has_types,
        values=source.stored(),
        request=json.dumps(settings),
    )


def _run(
    source: RowSource,
    manifest: _C.StoreManifest,
    out: Path,
    start: str,
    who: Rank,
    verbose: bool,
) -> DumpReport:
    shown = verbose and who.local == 0
    begun = time.perf_counter()
    with shard_bar("reading the store", shown and start == "repair") as read:
        writer = _C.StoreWriter(
            out,
            manifest,
            start=start,
            rank=who.rank,
            n_ranks=who.n_ranks,
            run=who.run,
            queue_bytes=max(source.batches.most_rows * source.row_bytes, _QUEUE_BYTES),
            repair_progress=read,
        )
    try:
        n_rows = sum(writer.rows_of(shard)[1] for shard in writer.todo)
        with _bar(n_rows, writer, shown) as progress:
            write(source, writer, progress)
        shards, rows, n_bytes = writer.done
    finally:
        writer.close()
    return DumpReport(
        out, rows, shards, n_bytes, source.batches.n_rows, time.perf_counter() - begun
    )


@contextmanager
def _bar(n_rows: int, writer: _C.StoreWriter, shown: bool) -> Iterator[Any]:
    """Rows a second, time left, and the bytes of sealed files."""
    start = time.perf_counter()
    with tqdm(
        desc=f"{writer.bytes_needed / 1e6:.1f} MB to write",
        total=n_rows,
        unit=" rows",
        unit_scale=True,
        disable=not shown,
        delay=_SECONDS_BEFORE_BAR,
    ) as bar:

        def progress(n: int) -> None:
            bar.update(n)
            per_second = writer.done[2] / max(time.perf_counter() - start, 1e-9)
            bar.set_postfix_str(f"{per_second / 1e6:.0f} MB/s", refresh=False)

        yield progress
