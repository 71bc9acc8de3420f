"""Values with one entry a shard as plain h5py sees them, in a shard and in the index."""

from __future__ import annotations

import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = ROOT / "build" / "tests" / "hooks" / "store" / "make_store"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not PROGRAM.exists():
        pytest.skip("make_store is not built")
    folder = tmp_path_factory.mktemp("store") / "acts"
    subprocess.run([PROGRAM, folder], check=True)
    return folder


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
