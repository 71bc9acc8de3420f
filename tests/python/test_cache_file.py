"""A saved cache comes back bit for bit, reads in any HDF5 tool, and refuses to be anything else."""

from __future__ import annotations

import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xxhash
from h5py import h5d, h5s

import bezel
from bezel.errors import ArgumentError, StoreError
from support import fixtures
from support.lab import Lab
from support.limits import no_file_beyond

TOKENS = fixtures.tokens(9)
Load = bezel.ActivationCache.load


def bits(value: torch.Tensor) -> torch.Tensor:
    return value.contiguous().flatten().view(torch.uint8)


def same(got: bezel.ActivationCache, want: bezel.ActivationCache) -> None:
    assert list(got) == list(want)
    assert got.has_batch_dim == want.has_batch_dim
    for name, value in want.items():
        assert (got[name].dtype, got[name].shape) == (value.dtype, value.shape), name
        assert torch.equal(bits(got[name]), bits(value)), name


@pytest.fixture
def saved(lab: Lab, tmp_path: Path) -> Path:
    _, cache = lab.bridge("moe").run_with_cache(TOKENS, ["hook_embed", "*.hook_z", "*.hook_resid*"])
    cache.save(tmp_path / "run.h5")
    return tmp_path / "run.h5"


# --- what is saved comes back --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", fixtures.RECIPES)
def test_a_cache_comes_back_bit_for_bit(
    lab: Lab, tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    path = "open" if dtype == torch.float64 else "automatic"
    bridge = lab.bridge(name, dtype=dtype, path=path)
    _, cache = bridge.run_with_cache(TOKENS, lab.names(name))
    cache.save(tmp_path / "run.h5")
    same(Load(tmp_path / "run.h5"), cache)
    loaded = Load(str(tmp_path / "run.h5"), model=bridge)
    same(loaded, cache)
    want = cache.get_full_resid_decomposition(apply_ln=True)
    assert torch.equal(loaded.get_full_resid_decomposition(apply_ln=True), want)


def test_every_pattern_of_bits_comes_back(lab: Lab, tmp_path: Path) -> None:
    """All of bfloat16 and float16, and the ends of the others; NaNs keep what they carry."""
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    wide = torch.tensor([0x7FC00001, 0x7F800000, 1, -1, -(2**31)], dtype=torch.int32)
    values = {
        "bfloat16": patterns.view(torch.bfloat16),
        "float16": patterns.view(torch.float16),
        "float32": wide.view(torch.float32),
        "float64": torch.tensor([2**53 + 1, -1, 0x7FF0000000000001]).view(torch.float64),
        "int64": torch.tensor([2**63 - 1, -(2**63), 0]),
        "int32": wide,
        "int16": patterns,
        "int8": torch.arange(-128, 128).to(torch.int8),
        "uint8": torch.arange(256).to(torch.uint8),
        "nothing": torch.empty(0, 3),
        "a number": torch.tensor(1.5),
        "turned": torch.arange(12.0).view(3, 4).T,
    }
    cache = bezel.ActivationCache(values, lab.bridge("e2b"))
    cache.save(tmp_path / "x.h5")
    same(Load(tmp_path / "x.h5"), cache)


@pytest.mark.parametrize("remove", [True, False])
def test_cut_and_batchless_caches_come_back(lab: Lab, tmp_path: Path, remove: bool) -> None:
    bridge = lab.bridge("e2b")
    _, cache = bridge.run_with_cache(TOKENS[:1], pos_slice=(2, 5), remove_batch_dim=remove)
    cache.save(tmp_path / "x.h5")
    loaded = Load(tmp_path / "x.h5", bridge)
    same(loaded, cache)
    assert torch.equal(loaded["z", -1], cache["z", -1])
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["acts/blocks.3.attn.hook_z"].shape == (1, 3, 4, 16)  # full axes all the same


def test_gradients_rows_and_moved_caches_come_back(lab: Lab, tmp_path: Path) -> None:
    bridge = lab.bridge("e2b")
    _, cache = bridge.run_with_cache(TOKENS, "*.hook_z", incl_bwd=True, return_type="loss")
    for made in (cache, cache.apply_slice_to_batch_dim(1), cache.to(dtype=torch.bfloat16)):
        made.save(tmp_path / "x.h5")
        same(Load(tmp_path / "x.h5", bridge), made)


def test_two_names_of_one_value_share_it_in_the_file_and_afterwards(
    lab: Lab, tmp_path: Path
) -> None:
    _, cache = lab.bridge("e2b").run_with_cache(TOKENS)
    cache.save(tmp_path / "x.h5")
    loaded = Load(tmp_path / "x.h5")
    assert loaded["resid_post", 2].data_ptr() == loaded["resid_pre", 3].data_ptr()
    kept = {value.data_ptr(): value.nbytes for value in cache.values()}
    read = {value.data_ptr(): value.nbytes for value in loaded.values()}
    # rot_k and shared_k differ in their axis words, and so are two datasets.
    assert sum(kept.values()) <= sum(read.values()) < sum(value.nbytes for value in cache.values())


def test_equal_caches_are_equal_bytes_and_an_old_file_is_replaced(lab: Lab, tmp_path: Path) -> None:
    bridge = lab.bridge("e2b")
    for name, tokens in (("a", TOKENS), ("b", TOKENS), ("b", TOKENS + 1), ("b", TOKENS)):
        bridge.run_with_cache(tokens)[1].save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "b"]


def test_a_loaded_cache_has_what_needs_no_model(saved: Path) -> None:
    cache = Load(saved)
    assert cache.model is None
    assert cache["z", -1].shape == (2, 9, 4, 16)
    assert len(cache.accumulated_resid()) == 7
    with pytest.raises(ArgumentError, match="model=b"):
        cache.decompose_resid()


def test_a_bfloat16_run_that_was_kept_in_float32_is_judged_as_bfloat16(
    lab: Lab, tmp_path: Path
) -> None:
    bridge = lab.bridge("e2b", dtype=torch.bfloat16)
    _, cache = bridge.run_with_cache(TOKENS, dtype=torch.float32)
    cache.save(tmp_path / "x.h5")
    for made in (
        cache,
        Load(tmp_path / "x.h5", bridge),
        Load(tmp_path / "x.h5", lab.bridge("e2b")),
    ):
        assert made.origin.dtype == torch.bfloat16
    parts = Load(tmp_path / "x.h5", bridge).get_full_resid_decomposition()
    gap = (parts.sum(0) - cache["resid_post", -1]).norm() / cache["resid_post", -1].norm()
    assert 1e-4 < gap < 2e-2


# --- what other programs see ---------------------------------------------------------------------


def test_any_hdf5_tool_reads_values_and_axes(lab: Lab, tmp_path: Path) -> None:
    _, cache = lab.bridge("e2b", dtype=torch.bfloat16).run_with_cache(TOKENS)
    cache.save(tmp_path / "x.h5")
    points = {point.name: point.axes for point in lab.bridge("e2b").hook_points()}
    with h5py.File(tmp_path / "x.h5") as file:
        assert list(file["acts"]) == list(cache)  # in forward order
        for name, dataset in file["acts"].items():
            got = torch.from_numpy(dataset[...])
            assert torch.equal(got, cache[name].to(got.dtype)), name
            assert tuple(axis.label for axis in dataset.dims) == points[name]
            is_bfloat16 = cache[name].dtype == torch.bfloat16
            assert (dataset.attrs.get("dtype") == b"bfloat16") == is_bfloat16
            assert dataset.id.get_create_plist().get_layout() == h5d.CONTIGUOUS
            if is_bfloat16:  # as stored: no conversion
                raw = np.empty(dataset.shape, np.int16)
                dataset.id.read(h5s.ALL, h5s.ALL, raw, mtype=dataset.id.get_type())
                assert torch.equal(torch.from_numpy(raw), cache[name].view(torch.int16))
        meta = file["meta"].attrs
        assert (meta["kind"], meta["schema"]) == (b"bezel.ActivationCache", 1)


def test_the_trailer_is_the_hash_of_what_precedes(saved: Path) -> None:
    content = saved.read_bytes()
    assert content[-21:-16] == b"bezel"
    assert content[-16:] == xxhash.xxh3_128(content[:-21]).digest()


# --- writing that fails --------------------------------------------------------------------------


def test_a_failed_save_leaves_the_old_file_and_nothing_else(lab: Lab, tmp_path: Path) -> None:
    _, cache = lab.bridge("mha").run_with_cache(TOKENS)
    (tmp_path / "run.h5").write_bytes(b"old")
    with no_file_beyond(10_000), pytest.raises(StoreError, match=r"run\.h5 could not.*too large"):
        cache.save(tmp_path / "run.h5")
    values = {"here": torch.zeros(3), "nowhere": torch.zeros(3, device="meta")}
    with pytest.raises(NotImplementedError, match="meta"):  # as torch says it
        bezel.ActivationCache(values, lab.bridge("mha")).save(tmp_path / "run.h5")
    assert [file.name for file in tmp_path.iterdir()] == ["run.h5"]
    assert (tmp_path / "run.h5").read_bytes() == b"old"


def test_places_that_cannot_be_written_are_refused(lab: Lab, tmp_path: Path) -> None:
    _, cache = lab.bridge("mha").run_with_cache(TOKENS, "hook_embed")
    for path in (tmp_path / "absent" / "x.h5", tmp_path):
        with pytest.raises(StoreError, match="could not be written"):
            cache.save(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("a/b", torch.zeros(1), "slash"),
        (".", torch.zeros(1), "dataset"),
        ("", torch.zeros(1), "dataset"),
        ("complex", torch.zeros(1, dtype=torch.complex64), "complex64"),
        ("mask", torch.zeros(1).bool(), "bool"),
    ],
)
def test_values_that_have_no_place_in_a_file_are_refused(
    lab: Lab, tmp_path: Path, name: str, value: torch.Tensor, message: str
) -> None:
    cache = bezel.ActivationCache({name: value}, lab.bridge("mha"))
    with pytest.raises(ArgumentError, match=message):
        cache.save(tmp_path / "x.h5")
    assert not list(tmp_path.iterdir())


def test_a_reader_sees_one_file_or_the_other(lab: Lab, tmp_path: Path) -> None:
    bridge, path = lab.bridge("mha"), tmp_path / "run.h5"
    caches = [bridge.run_with_cache(TOKENS + i)[1] for i in range(2)]
    caches[0].save(path)

    def save() -> None:
        for i in range(20):
            caches[i % 2].save(path)

    writers = [threading.Thread(target=save) for _ in range(2)]
    for writer in writers:
        writer.start()
    n_read = 0
    while any(writer.is_alive() for writer in writers) or not n_read:
        found = Load(path)
        first = next(i for i in range(2) if torch.equal(found["embed"], caches[i]["embed"]))
        same(found, caches[first])
        n_read += 1
    assert [file.name for file in tmp_path.iterdir()] == ["run.h5"]


def test_a_file_is_read_through_a_link(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(saved)
    same(Load(tmp_path / "link"), Load(saved))


def test_a_build_without_the_store_says_what_it_lacks(
    lab: Lab, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cache = lab.bridge("mha").run_with_cache(TOKENS, "hook_embed")
    monkeypatch.setattr(bezel._C, "has_store", False)
    with pytest.raises(ArgumentError, match="left the store out; install HDF5"):
        cache.save(saved)
    with pytest.raises(ArgumentError, match="left the store out; install HDF5"):
        Load(saved)


def test_a_file_of_earlier_code_is_read_and_its_metadata_are_written_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tests/data/sealed was written through h5py; only a number of HDF5's version differs."""
    old = Path(__file__).parents[1] / "data" / "sealed" / "cache.h5"
    monkeypatch.setattr(bezel._C, "__version__", "0.1.0")  # which wrote it
    cache = Load(old)
    values = dict(cache.items())
    assert values["float16"].tolist() == [torch.tensor(0.1).half(), 65504, torch.inf]
    assert values["int64"].tolist() == [-(2**63), 2**63 - 1]
    assert values["uint8"].tolist() == [0, 255]
    assert values["a number"].item() == 1.5
    assert torch.equal(values["turned"], torch.arange(12.0).view(3, 4).T)
    assert cache["embed"].data_ptr() == cache["resid_pre", 0].data_ptr()
    cache.save(tmp_path / "again.h5")
    same(Load(tmp_path / "again.h5"), cache)
    before, after = old.read_bytes(), (tmp_path / "again.h5").read_bytes()
    assert len(before) == len(after)
    n_other = sum(a != b for a, b in zip(before, after, strict=True))
    assert n_other <= len(values) * (1 + 4) + 16  # layout message, checksum; the trailer
