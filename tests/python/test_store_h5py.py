"""A store's shards and index as plain h5py sees them: named axes, readable bfloat16."""

from __future__ import annotations

import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "build" / "tests" / "hooks" / "store" / "make_store"

RESID = (np.arange(20)[:, None] + np.arange(8) / 8).astype(np.float32)
Z = np.arange(20)[:, None, None] * 100 + np.arange(2)[:, None] * 10 + np.arange(3)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not PROGRAM.exists():
        pytest.skip("make_store is not built")
    folder = tmp_path_factory.mktemp("store") / "acts"
    subprocess.run([PROGRAM, folder], check=True)
    return folder


def test_a_shard_has_named_axes_and_readable_bfloat16(store: Path) -> None:
    with h5py.File(store / "shard-000002.h5", "r") as file:
        resid, z = file["acts/resid"], file["acts/z"]
        assert [dim.label for dim in resid.dims] == ["row", "d_model"]
        assert [dim.label for dim in z.dims] == ["row", "head", "d_head"]
        assert resid.dtype == np.float32
        assert resid.attrs["dtype"] == b"bfloat16"
        assert_array_equal(resid[()], RESID[16:].astype("float32"))
        assert_array_equal(z[()], Z[16:])
        assert_array_equal(file["rows/token_id"][()], np.arange(1016, 1020))
        assert_array_equal(file["rows/document"][()], [3, 3, 3, 3])
        assert_array_equal(file["rows/position"][()], [1, 2, 3, 4])
        assert (file.attrs["shard"], file.attrs["first_row"], file.attrs["n_rows"]) == (2, 16, 4)


def test_raw_reads_give_the_stored_bits(store: Path) -> None:
    with h5py.File(store / "shard-000000.h5", "r") as file:
        dataset = file["acts/resid"]
        bits = np.empty(dataset.shape, np.uint16)
        dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, bits, mtype=dataset.id.get_type())
        assert_array_equal((bits.astype(np.uint32) << 16).view(np.float32), RESID[:8])


def test_the_index_shows_all_rows_and_nan_for_those_that_are_not_written(store: Path) -> None:
    with h5py.File(store / "index.h5", "r") as file:
        resid, z = file["acts/resid"], file["acts/z"]
        assert [dim.label for dim in z.dims] == ["row", "head", "d_head"]
        assert resid.shape == (20, 8)
        written = np.r_[0:8, 16:20]
        assert_array_equal(resid[()][written], RESID[written])
        assert_array_equal(z[()][written], Z[written])
        assert np.isnan(resid[()][8:16]).all()
        assert np.isnan(z[()][8:16]).all()
        assert_array_equal(file["rows/token_id"][8:16], [-1] * 8)


def test_a_shard_holds_one_entry(store: Path) -> None:
    with h5py.File(store / "shard-000002.h5", "r") as file:
        mean, count = file["reduce/resid:mean"], file["reduce/resid:count"]
        assert [dim.label for dim in mean.dims] == ["shard", "d_model"]
        assert [dim.label for dim in count.dims] == ["shard"]
        assert_array_equal(mean[()], [2 + np.arange(8) / 8])
        assert_array_equal(count[()], [4])
        assert file["checksums/reduce/resid:mean"].shape == (1,)


def test_the_index_shows_them_by_the_shards_number(store: Path) -> None:
    with h5py.File(store / "index.h5", "r") as file:
        mean, count = file["reduce/resid:mean"], file["reduce/resid:count"]
        assert [dim.label for dim in mean.dims] == ["shard", "d_model"]
        assert mean.shape == (3, 8)
        assert_array_equal(mean[0], np.arange(8) / 8)
        assert np.isnan(mean[1]).all(), "shard 1 is not written"
        assert_array_equal(mean[2], 2 + np.arange(8) / 8)
        assert_array_equal(count[()], [8, -1, 4])
