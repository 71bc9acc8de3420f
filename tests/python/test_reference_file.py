"""The file of a reference: its layout for other readers, and what is refused."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import transformers
import xxhash

import bezel
from bezel.cache_values import axes_of
from bezel.errors import ArgumentError, CheckpointError, StoreError
from bezel.reference import Sample, capture_reference, capturing
from support.limits import no_file_beyond
from support.references import N_NEW, Bundles

NAME = "mha"
read = bezel.reference.read


@pytest.fixture
def copied(bundles: Bundles, tmp_path: Path) -> Path:
    (tmp_path / "ref.h5").write_bytes(bundles.file(NAME).read_bytes())
    return tmp_path / "ref.h5"


# --- layout ---------------------------------------------------------------------------------------


def test_equal_references_are_equal_bytes(bundles: Bundles, tmp_path: Path) -> None:
    first = bundles.file(NAME).read_bytes()
    time.sleep(1.1)  # a time in the file would show
    again = capture_reference(
        bundles.folder(NAME), tmp_path / "other name.h5", new_tokens=N_NEW, verbose=False
    )
    assert again.read_bytes() == first


def test_any_hdf5_reader_finds_what_it_needs(bundles: Bundles) -> None:
    with h5py.File(bundles.file(NAME), "r") as file:
        meta = file["meta"].attrs
        assert bytes(meta["kind"]) == b"bezel.Reference"
        assert meta["schema"] == 2
        assert meta["schema"].dtype == np.int64
        assert bytes(meta["dtype"]) == b"float32"
        assert bytes(meta["device"]) == b"cpu"
        assert set(json.loads(meta["versions"])) == {"transformers", "torch", "python"}
        assert file["weights/hash"].dtype == np.uint64
        assert file["weights/shape"][0].decode() == "160 40"
        assert list(file["cases"]) == [*bundles.read(NAME).outcomes]
        for group in file["cases"].values():
            assert group.attrs["required"].dtype == np.int8
            assert group.attrs["required"] == 1
            assert bytes(group.attrs["phase"]) == b"P1"
            length = group["tokens"].shape[1]
            assert group["attention_mask"].shape == group["tokens"].shape
            assert group["loss"].shape == ()
            assert group["loss"].dtype == np.float64
            assert group["loss_per_token"].shape[1] == length - 1
            assert group["bfloat16/relative_rms"].shape == group["bfloat16/name"].shape
            for part in ("", "stored/"):
                for key in ("logits_relative_rms", "logits_kl", "top1"):
                    assert group[f"bfloat16/{part}{key}"].dtype == np.float64
            assert group["greedy/gap"].dtype == np.float32


def test_values_lie_in_one_piece_with_the_words_of_their_axes(bundles: Bundles) -> None:
    with h5py.File(bundles.file(NAME), "r") as file:
        n_datasets = 0
        for group in file["cases"].values():
            for name, dataset in group["acts"].items():
                labels = [dim.label for dim in dataset.dims]
                assert tuple(labels) == axes_of(name)
                assert dataset.chunks is None
                assert dataset.dtype in (np.dtype("<f4"), np.dtype("<i8"))
                assert not {"positions", "dims", "norm", "sum"} & set(dataset.attrs)
                n_datasets += 1
        assert n_datasets > 1000


def test_parts_say_what_was_kept(bundles: Bundles) -> None:
    with h5py.File(bundles.file(NAME, sample=Sample(3, 4)), "r") as file:
        acts = file["cases/long/acts"]
        n_positions = file["cases/long/tokens"].shape[1]
        for name, n_dims in (
            ("hook_embed", 4), ("blocks.1.attn.hook_pattern", n_positions),
            ("blocks.1.mlp.hook_pre", 4), ("hook_tokens", 3),
        ):  # fmt: skip
            attributes = acts[name].attrs
            assert attributes["positions"].dtype == attributes["dims"].dtype == np.int64
            assert len(attributes["positions"]) == 3
            assert len(attributes["dims"]) == n_dims == acts[name].shape[-1]
            assert attributes["norm"].dtype == attributes["sum"].dtype == np.float64


def test_names_of_one_value_share_one_dataset(bundles: Bundles) -> None:
    with h5py.File(bundles.file(NAME), "r") as file:
        acts = file["cases/prose/acts"]
        assert acts["blocks.0.hook_resid_post"] == acts["blocks.1.hook_resid_pre"]
        assert acts["blocks.0.hook_resid_post"] != acts["blocks.0.hook_resid_pre"]


def test_what_is_read_is_written_as_it_was(bundles: Bundles, tmp_path: Path) -> None:
    from bezel.reference import writer

    for options in ({}, {"sample": Sample(3, 4)}):
        original = bundles.file(NAME, **options)
        writer.write(tmp_path / "again.h5", read(original))
        assert (tmp_path / "again.h5").read_bytes() == original.read_bytes()


def test_a_file_of_earlier_code_is_read_and_its_contents_are_written_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tests/data/sealed was written through h5py, which packs small datasets otherwise."""
    from bezel.reference import writer

    old = Path(__file__).parents[1] / "data" / "sealed" / "bundle.h5"
    bundle = read(old)
    assert bundle.outcomes["padded_left"].acts["hook_embed"].is_part
    assert bundle.versions["h5py"] == "3.16.0"
    monkeypatch.setattr(bezel._C, "__version__", "0.1.0")  # which wrote it
    writer.write(tmp_path / "again.h5", bundle)
    assert contents(tmp_path / "again.h5") == contents(old)


def contents(path: Path) -> dict[str, Any]:
    """All that h5py sees: members in their order, attributes, types, shapes, bytes."""
    found: dict[str, Any] = {}

    def note(name: str, thing: Any) -> None:
        for key, value in thing.attrs.items():
            found[f"{name}@{key}"] = (np.asarray(value).dtype, np.asarray(value).tolist())
        if isinstance(thing, h5py.Group):
            found[name] = list(thing)
            for key in thing:
                note(f"{name}/{key}", thing[key])
        else:
            found[name] = (thing.dtype, thing.shape, thing[()].tolist())

    with h5py.File(path, "r") as file:
        note("", file)
    return found


# --- damage ---------------------------------------------------------------------------------------


def test_a_file_cut_short_anywhere_is_refused(copied: Path) -> None:
    content = copied.read_bytes()
    rng = random.Random(1)
    for length in [0, 1, 8, 21, 100, len(content) - 1, *(rng.randrange(10**6) for _ in range(5))]:
        copied.write_bytes(content[:length])
        with pytest.raises(StoreError, match=r"cut short|no HDF5"):
            read(copied)


def test_any_flipped_bit_is_refused(copied: Path) -> None:
    content = bytearray(copied.read_bytes())
    rng = random.Random(2)
    for place in [0, len(content) - 1, *(rng.randrange(len(content)) for _ in range(20))]:
        content[place] ^= 1 << rng.randrange(8)
        copied.write_bytes(content)
        with pytest.raises(StoreError, match=r"damaged|trailer|HDF5"):
            read(copied)


def change(path: Path, edit: Callable[[Any], None]) -> None:
    """The file after an edit, with a right trailer."""
    path.write_bytes(path.read_bytes()[:-21])
    with h5py.File(path, "r+") as file:
        edit(file)
    content = path.read_bytes()
    path.write_bytes(content + b"bezel" + xxhash.xxh3_128(content).digest())


def replace(place: str, value: Any, **attributes: Any) -> Callable[[Any], None]:
    def edit(file: Any) -> None:
        labels = file[place].attrs.get("DIMENSION_LABELS")
        del file[place]
        made = file.create_dataset(place, data=value)
        if labels is not None:
            made.attrs.create("DIMENSION_LABELS", list(labels), dtype=h5py.string_dtype())
        for key, attribute in attributes.items():
            made.attrs[key] = attribute

    return edit


def link_outside(file: Any) -> None:
    del file["cases/prose/tokens"]
    file["cases/prose/tokens"] = h5py.ExternalLink("other.h5", "/tokens")


def relabel(file: Any) -> None:
    labels = ["batch", "pos", "d_head"]
    attributes = file["cases/prose/acts/hook_embed"].attrs
    attributes.create("DIMENSION_LABELS", labels, dtype=h5py.string_dtype())


WRONG: dict[str, tuple[Callable[[Any], None], str]] = {
    "another kind": (
        lambda f: f["meta"].attrs.create("kind", np.bytes_(b"bezel.ActivationCache")),
        "is a bezel.ActivationCache; wanted a bezel.Reference",
    ),
    "another schema": (
        lambda f: f["meta"].attrs.modify("schema", np.int64(1)), "schema 1.*reads 2",
    ),
    "no meta": (lambda f: f.__delitem__("meta"), "not a reference"),
    "no cases": (lambda f: f.__delitem__("cases"), "not a reference"),
    "tokens of one axis": (
        replace("cases/prose/tokens", np.zeros(4, "<i8")), r"tokens.*\[4\].*any",
    ),
    "a mask of another length": (
        replace("cases/prose/attention_mask", np.zeros((1, 4), "<i8")), r"mask.*\[1, 4\].*wanted",
    ),
    "a value of another length": (
        replace("cases/prose/acts/hook_embed", np.zeros((1, 4, 40), "<f4")), "hook_embed.*wanted",
    ),
    "axes exchanged": (relabel, "axes of.*hook_embed.*d_head"),
    "positions without dims": (
        replace("cases/prose/acts/hook_embed", np.zeros((1, 1, 40), "<f4"), positions=[0]),
        "one of positions and dims",
    ),
    "a loss per token too many": (
        replace("cases/prose/loss_per_token", np.zeros((1, 99), "<f4")), "loss_per_token.*99",
    ),
    "gaps of another length": (
        replace("cases/prose/greedy/gap", np.zeros((1, 1), "<f4")), "gap.*wanted",
    ),
    "errors without names": (
        replace("cases/prose/bfloat16/relative_rms", np.zeros(3)), "relative_rms.*wanted",
    ),
    "hashes without names": (replace("weights/hash", np.zeros(2, "<u8")), "/weights"),
    "a link outside": (link_outside, "link to elsewhere"),
    "a name that no model has": (
        lambda f: f["cases/prose/acts"].create_dataset("hook_nothing", data=np.zeros(3, "<f4")),
        "hook_nothing",
    ),
    "values in chunks": (
        lambda f: (
            f.__delitem__("cases/prose/loss_per_token"),
            f["cases/prose"].create_dataset(
                "loss_per_token", data=np.zeros((1, 9), "<f4"), chunks=True
            ),
        ),
        "in pieces",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_sealed_file_that_is_not_what_it_should_be_is_refused(copied: Path, what: str) -> None:
    edit, message = WRONG[what]
    change(copied, edit)
    with pytest.raises(StoreError, match=message) as caught:
        read(copied)
    assert "ref.h5" in str(caught.value)


def test_a_saved_cache_is_no_reference(bundles: Bundles, tmp_path: Path) -> None:
    _, cache = bezel.Bridge.from_pretrained(bundles.folder(NAME)).run_with_cache(
        torch.tensor([[5, 6]]), "hook_embed"
    )
    cache.save(tmp_path / "run.h5")
    with pytest.raises(StoreError, match="is a bezel.ActivationCache"):
        read(tmp_path / "run.h5")
    with pytest.raises(StoreError, match="is a bezel.Reference; wanted a bezel.ActivationCache"):
        bezel.ActivationCache.load(bundles.file(NAME))


# --- captures that fail ---------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    bundles: Bundles, tmp_path: Path
) -> None:
    (tmp_path / "ref.h5").write_bytes(b"old")
    with no_file_beyond(10_000), pytest.raises(StoreError, match=r"ref\.h5 could not.*too large"):
        capture_reference(bundles.folder(NAME), tmp_path / "ref.h5", new_tokens=1, verbose=False)
    assert [path.name for path in tmp_path.iterdir()] == ["ref.h5"]
    assert (tmp_path / "ref.h5").read_bytes() == b"old"


def test_a_build_without_the_store_says_what_it_lacks(
    bundles: Bundles, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bezel._C, "has_store", False)
    with pytest.raises(ArgumentError, match="left the store out; install HDF5"):
        read(copied)
    with pytest.raises(ArgumentError, match="left the store out; install HDF5"):
        capture_reference(bundles.folder(NAME), copied, verbose=False)


@pytest.mark.parametrize("layered", [False, True])
def test_an_interrupted_capture_leaves_no_file(
    bundles: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layered: bool
) -> None:
    taken = []
    original = capturing.Gatherer.take

    def interrupted(self: Any, *arguments: Any) -> None:
        taken.append(arguments[0])
        if len(taken) == 4:
            raise KeyboardInterrupt
        original(self, *arguments)

    monkeypatch.setattr(capturing.Gatherer, "take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        capture_reference(
            bundles.folder(NAME), tmp_path / "ref.h5", layer_by_layer=layered, verbose=False
        )
    assert not list(tmp_path.iterdir())


def test_the_caller_s_threads_and_transformers_settings_come_back(
    bundles: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: dict[int, set[int]] = {}
    original = capturing.Gatherer.take

    def noted(self: Any, *arguments: Any) -> None:
        used.setdefault(capturing.ONE_THREAD_UP_TO_BYTES, set()).add(torch.get_num_threads())
        original(self, *arguments)

    monkeypatch.setattr(capturing.Gatherer, "take", noted)
    level = transformers.logging.get_verbosity()
    torch.set_num_threads(2)
    transformers.logging.set_verbosity(transformers.logging.INFO)
    transformers.logging.enable_progress_bar()
    try:
        usual = capturing.ONE_THREAD_UP_TO_BYTES
        for limit in (usual, 10):
            monkeypatch.setattr(capturing, "ONE_THREAD_UP_TO_BYTES", limit)
            capture_reference(bundles.folder(NAME), tmp_path / "x.h5", verbose=False, new_tokens=1)
            assert torch.get_num_threads() == 2
            assert transformers.logging.get_verbosity() == transformers.logging.INFO
            assert transformers.logging.is_progress_bar_enabled()
        assert used == {usual: {1}, 10: {2}}
    finally:
        torch.set_num_threads(1)
        transformers.logging.set_verbosity(level)
        transformers.logging.disable_progress_bar()


def test_bad_arguments_are_refused_before_the_model_is_read(
    bundles: Bundles, tmp_path: Path
) -> None:
    folder = bundles.folder(NAME)
    with pytest.raises(ArgumentError, match="new_tokens is 0"):
        capture_reference(folder, tmp_path / "x.h5", new_tokens=0)
    for place in (tmp_path, tmp_path / "absent" / "x.h5"):
        with pytest.raises(ArgumentError, match="folder that exists"):
            capture_reference(folder, place)
    with pytest.raises(ArgumentError, match="mps"):
        capture_reference(folder, tmp_path / "x.h5", device="mps")
    with pytest.raises(CheckpointError, match="no such folder"):
        capture_reference(tmp_path / "absent", tmp_path / "x.h5")
    assert not list(tmp_path.iterdir())
