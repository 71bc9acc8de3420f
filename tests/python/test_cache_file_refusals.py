"""A file that is cut, damaged, foreign or not what a saved cache must be is refused."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import xxhash
from h5py import h5d, h5p, h5s, h5t

import bezel
from bezel.errors import Error, ModelMismatchError, StoreError
from support import fixtures
from support.lab import Lab

TOKENS = fixtures.tokens(9)
Load = bezel.ActivationCache.load


def seal(path: Path) -> None:
    """A right trailer behind whatever the file holds now."""
    content = path.read_bytes()
    digest = xxhash.xxh3_128(content).digest()
    path.write_bytes(content + b"bezel" + digest)


def unseal(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-21])


@pytest.fixture
def saved(lab: Lab, tmp_path: Path) -> Path:
    _, cache = lab.bridge("moe").run_with_cache(TOKENS, ["hook_embed", "*.hook_z", "*.hook_resid*"])
    cache.save(tmp_path / "run.h5")
    return tmp_path / "run.h5"


# --- damage --------------------------------------------------------------------------------------


def test_a_file_cut_short_anywhere_is_refused(saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes()
    cuts = {0, 1, 7, 8, 20, 21, 29, 100, *range(len(content) - 25, len(content))}
    rng = random.Random(1)
    for length in sorted(cuts | {rng.randrange(len(content)) for _ in range(40)}):
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(StoreError):
            Load(tmp_path / "cut")


def test_any_flipped_bit_is_refused(saved: Path, tmp_path: Path) -> None:
    content = bytearray(saved.read_bytes())
    rng = random.Random(2)
    places = [*range(64), *range(len(content) - 21, len(content))]
    for place in [*places, *(rng.randrange(len(content)) for _ in range(200))]:
        content[place] ^= 1 << rng.randrange(8)
        (tmp_path / "flipped").write_bytes(content)
        with pytest.raises(StoreError):
            Load(tmp_path / "flipped")
        content[:] = saved.read_bytes()


def test_bytes_behind_the_trailer_are_refused(saved: Path) -> None:
    with saved.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(StoreError, match="trailer"):
        Load(saved)


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["acts/hook_embed"] = np.zeros((1, 2, 3))
    torch.save({"hook_embed": torch.zeros(3)}, tmp_path / "other.pt")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    for name, message in (
        ("other.h5", "trailer"), ("other.pt", "no HDF5"), ("empty", "no HDF5"),
        ("folder", "is no regular file"), ("absent", "No such file"),
    ):  # fmt: skip
        with pytest.raises(StoreError, match=message) as caught:
            Load(tmp_path / name)
        assert isinstance(caught.value, OSError)
        assert isinstance(caught.value, Error)
        assert name in str(caught.value)


# --- sealed files that are not what they should be -----------------------------------------------


def change(path: Path, edit: Callable[[Any], None]) -> None:
    unseal(path)
    with h5py.File(path, "r+") as file:
        edit(file)
    seal(path)


def replace(file: Any, name: str, **arguments: Any) -> None:
    labels = file["acts"][name].attrs["DIMENSION_LABELS"]
    del file["acts"][name]
    made = file["acts"].create_dataset(name, **arguments)
    made.attrs.create("DIMENSION_LABELS", list(labels), dtype=h5py.string_dtype())


Z = "blocks.1.attn.hook_z"
SHAPE = (2, 9, 4, 8)
WRONG: dict[str, tuple[Callable[[Any], None], str]] = {
    "another schema": (
        lambda f: f["meta"].attrs.modify("schema", np.int64(2)), "schema 2.*reads 1",
    ),
    "another kind": (
        lambda f: f["meta"].attrs.modify("kind", b"bezel.Reference"), "bezel.Reference",
    ),
    "no meta": (lambda f: f.__delitem__("meta"), "not a cache"),
    "no values": (lambda f: f.__delitem__("acts"), "not a cache"),
    "no schema": (lambda f: f["meta"].attrs.__delitem__("schema"), "not a cache"),
    "a model that is no JSON": (lambda f: f["meta"].attrs.modify("model", b"{"), "not a cache"),
    "a model without layers": (lambda f: f["meta"].attrs.modify("model", b"{}"), "of the model"),
    "a number as kind": (lambda f: f["meta"].attrs.modify("kind", np.float64(3)), "wanted"),
    "an unknown dtype": (lambda f: f["meta"].attrs.modify("dtype", b"float8"), "dtype is 'float8'"),
    "several rows without batch": (
        lambda f: f["meta"].attrs.modify("has_batch_dim", np.int8(0)), "2 rows",
    ),
    "other axis words": (
        lambda f: f[f"acts/{Z}"].attrs.modify("DIMENSION_LABELS", np.array(
            ["pos", "batch", "head", "d_head"], dtype=h5py.string_dtype())), "the axes of",
    ),
    "fewer axis words": (
        lambda f: f[f"acts/{Z}"].attrs.create(
            "DIMENSION_LABELS", ["batch"], dtype=h5py.string_dtype()), "the axes of",
    ),
    "no axis words": (
        lambda f: f[f"acts/{Z}"].attrs.__delitem__("DIMENSION_LABELS"), "the axes of",
    ),
    "big-endian": (lambda f: replace(f, Z, shape=SHAPE, dtype=">f4"), "type of"),
    "complex": (lambda f: replace(f, Z, shape=SHAPE, dtype="c8"), "type of"),
    "text": (lambda f: replace(f, Z, shape=SHAPE, dtype=h5py.string_dtype()), "type of"),
    "bfloat16 by attribute alone": (
        lambda f: f[f"acts/{Z}"].attrs.create("dtype", np.bytes_(b"bfloat16")), "type of",
    ),
    "compressed": (
        lambda f: replace(f, Z, shape=SHAPE, dtype="<f4", compression="gzip"), "in pieces",
    ),
    "in another file": (
        lambda f: replace(f, Z, shape=SHAPE, dtype="<f4", external=[("other", 0, 2304)]),
        "in pieces or elsewhere",
    ),
    "never written": (lambda f: replace(f, Z, shape=(2**40, 1, 1, 1), dtype="<f4"), "more than"),
    "overflowing": (lambda f: replace(f, Z, shape=(2**31, 2**31, 4, 8), dtype="<f4"), "more than"),
    "a soft link": (
        lambda f: f["acts"].__setitem__("link", h5py.SoftLink(f"/acts/{Z}")), "link to elsewhere",
    ),
    "an external link": (
        lambda f: f["acts"].__setitem__("link", h5py.ExternalLink("other.h5", "/x")),
        "link to elsewhere",
    ),
    "a group": (lambda f: f["acts"].create_group("x"), "wanted a dataset"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_sealed_file_that_is_no_cache_is_refused(saved: Path, case: str) -> None:
    edit, message = WRONG[case]
    change(saved, edit)
    with pytest.raises(StoreError, match=message):
        Load(saved)


def test_an_empty_dataspace_is_refused(saved: Path) -> None:
    def edit(file: Any) -> None:
        h5d.create(file["acts"].id, b"x", h5t.IEEE_F32LE, h5s.create(h5s.NULL), h5p.create(
            h5p.DATASET_CREATE))  # fmt: skip

    change(saved, edit)
    with pytest.raises(StoreError):
        Load(saved)


def test_values_at_one_place_may_not_be_larger_than_the_file_together(saved: Path) -> None:
    """A small file must not fill the memory: each value fits, all of them do not."""
    n, crowd = 50_000, saved.with_name("crowd.h5")
    late = h5p.create(h5p.DATASET_CREATE)
    late.set_alloc_time(h5d.ALLOC_TIME_LATE)
    with h5py.File(saved) as old, h5py.File(crowd, "w", libver="earliest") as file:
        old.copy("meta", file)
        acts = file.create_group("acts")
        acts["whole"] = np.ones(n, np.float32)
        acts.create_dataset("again", (n,), "<f4", dcpl=late)
        for name in ("whole", "again"):
            acts[name].attrs.create("DIMENSION_LABELS", ["x"], dtype=h5py.string_dtype())
        place = acts["whole"].id.get_offset()
    content = crowd.read_bytes()
    nowhere = b"\xff" * 8 + struct.pack("<Q", 4 * n)  # the address and size of "again"
    assert content.count(nowhere) == 1
    crowd.write_bytes(content.replace(nowhere, struct.pack("<QQ", place, 4 * n)))
    with h5py.File(crowd) as file:  # HDF5 itself sees nothing wrong
        assert file["acts/again"][...].all()
    seal(crowd)
    assert crowd.stat().st_size < 8 * n
    with pytest.raises(StoreError, match="/acts/whole claims .* more than the file has"):
        Load(crowd)


@pytest.mark.parametrize("seed", range(60))
def test_sealed_rubbish_never_does_more_than_refuse(saved: Path, seed: int) -> None:
    """Flipped metadata under a right trailer: refused, or a cache of tensors no larger than it."""
    rng = random.Random(seed)
    unseal(saved)
    content = bytearray(saved.read_bytes())
    for _ in range(rng.choice((1, 4, 40))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    saved.write_bytes(content)
    seal(saved)
    try:
        cache = Load(saved)
    except StoreError:
        return
    distinct = {value.data_ptr(): value.nbytes for value in cache.values()}
    assert sum(distinct.values()) <= len(content)


# --- the model of a loaded cache -----------------------------------------------------------------


def test_a_model_of_another_kind_is_refused(lab: Lab, saved: Path) -> None:
    assert Load(saved, lab.bridge("moe")).model is lab.bridge("moe")
    with pytest.raises(ModelMismatchError, match=r"n_layers 6 \(model: 4\)"):
        Load(saved, lab.bridge("mha"))


def test_values_that_the_model_cannot_have_are_refused(lab: Lab, tmp_path: Path) -> None:
    bridge = lab.bridge("e2b")
    for name, shape, message in (
        ("blocks.3.attn.hook_z", (1, 2, 4, 8), r"wants \[None, None, 4, 16\]"),
        ("blocks.8.hook_resid_pre", (1, 2, 48), "has no such value"),
        ("blocks.7.attn.hook_k", (1, 2, 1, 16), "has no such value"),
        ("blocks.0.moe.hook_out_grad", (1, 2, 48), "has no such value"),
    ):
        bezel.ActivationCache({name: torch.zeros(shape)}, bridge).save(tmp_path / "x.h5")
        Load(tmp_path / "x.h5")
        with pytest.raises(ModelMismatchError, match=message):
            Load(tmp_path / "x.h5", bridge)
    own = {"blocks.3.hook_mlp_out.hook_sae_acts_post": torch.zeros(1, 2, 99)}
    bezel.ActivationCache(own, bridge).save(tmp_path / "x.h5")
    assert list(Load(tmp_path / "x.h5", bridge)) == list(own)
