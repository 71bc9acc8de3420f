"""ActivationStore: every way to name rows reads what numpy reads from an array of all of them."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import bezel
from bezel.errors import ArgumentError, StoreError, UnknownHookError
from support.lab import Lab

DOCUMENTS = [list(range(3, 3 + n)) for n in (6, 1, 9, 4, 13)]
N_ROWS = sum(map(len, DOCUMENTS))
RESID, Z = "blocks.1.hook_resid_post", "blocks.1.attn.hook_z"


@pytest.fixture(scope="module")
def folder(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of several shards; its values are bfloat16."""
    path = tmp_path_factory.mktemp("stores") / "acts"
    bezel.dump(
        lab.bridge("e2b"), DOCUMENTS, path, [RESID, Z], length=8, batch=3, rows_per_shard=7,
        dtype=torch.bfloat16, verbose=False,
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, torch.Tensor]:
    store = bezel.ActivationStore(folder, out="torch")
    return {name: store[name][:] for name in store}


INDICES: list[Any] = [
    0, -1, np.int64(5), slice(None), slice(3, 20), slice(-5, None), slice(20, 3),
    slice(None, None, 4), slice(None, None, -1), slice(30, 2, -7), [7, 3, 3, -1], [],
    np.array([0, N_ROWS - 1]),
    torch.tensor([5, 6, 7, 2]), np.arange(N_ROWS) % 3 == 0, torch.arange(N_ROWS) > 20,
]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=lambda index: repr(index)[:40])
@pytest.mark.parametrize("checksum", ["first", "always", "never"])
def test_indices_are_numpys(
    folder: Path, whole: dict[str, torch.Tensor], checksum: Any, index: Any
) -> None:
    for out in ("torch", "numpy"):
        store = bezel.ActivationStore(folder, out=out, checksum=checksum)
        for name in (RESID, Z):
            array = whole[name].float().numpy()
            plain = index.numpy() if isinstance(index, torch.Tensor) else index
            want = array[:0] if isinstance(plain, list) and not plain else array[plain]
            got = store[name][index]
            assert type(got) is (torch.Tensor if out == "torch" else np.ndarray)
            as_float = got.float().numpy() if out == "torch" else got.astype(np.float32)
            assert np.array_equal(as_float, want)


def test_more_indices_go_to_the_axes(folder: Path, whole: dict[str, torch.Tensor]) -> None:
    store = bezel.ActivationStore(folder, out="torch")
    assert torch.equal(store[Z][2:9, 1], whole[Z][2:9, 1])
    assert torch.equal(store[Z][[4, 0], :, 3:5], whole[Z][[4, 0], :, 3:5])
    assert torch.equal(store[Z][3, 1], whole[Z][3, 1])


@pytest.mark.parametrize("index", [N_ROWS, -N_ROWS - 1, [0, N_ROWS], [True, False]])
def test_rows_that_do_not_exist_are_an_index_error(folder: Path, index: Any) -> None:
    with pytest.raises(IndexError):
        bezel.ActivationStore(folder)[RESID][index]


@pytest.mark.parametrize("index", [0.5, "a", [[1]], [0.5], None])
def test_what_is_no_index_is_refused(folder: Path, index: Any) -> None:
    with pytest.raises(ArgumentError, match="the rows? (is|are)"):
        bezel.ActivationStore(folder)[RESID][index]


def test_a_store_is_a_mapping_of_names(folder: Path) -> None:
    store = bezel.ActivationStore(folder)
    assert list(store) == [Z, RESID] or list(store) == [RESID, Z]
    assert len(store) == 2
    assert Z in store
    assert store[Z].shape == (N_ROWS, *store[Z][0].shape)
    assert store[Z].axes == ("head", "d_head")
    assert store[RESID].dtype == torch.bfloat16
    assert store.n_rows == N_ROWS == len(store[Z])
    assert store.is_complete
    assert store.recorded == [(0, N_ROWS)]
    with pytest.raises(UnknownHookError, match=f"nearest of its 2 names are {RESID}"):
        store["blocks.1.hook_resid_pots"]
    with pytest.raises(KeyError):
        store["blocks.1.hook_resid_pots"]
    assert str(N_ROWS) in repr(store)


def test_numpy_has_bfloat16_or_float32(
    folder: Path, whole: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = bezel.ActivationStore(folder)[RESID]
    assert rows[:].dtype == ml_dtypes.bfloat16
    assert np.asarray(rows).shape == rows.shape
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    assert rows[:].dtype == np.float32
    assert np.array_equal(rows[:], whole[RESID].float().numpy())


def test_labels_find_rows(folder: Path) -> None:
    store = bezel.ActivationStore(folder)
    labels = [(d, p, t) for d, document in enumerate(DOCUMENTS) for p, t in enumerate(document)]
    for name, column in (("document", 0), ("position", 1), ("token_id", 2)):
        assert store.label(name).tolist() == [label[column] for label in labels]
        for value in {label[column] for label in labels}:
            rows = store.where(**{name: value})
            assert rows.tolist() == [i for i, label in enumerate(labels) if label[column] == value]
    both = store.where(document=[0, 4], position=[2, 5])
    assert [labels[i][:2] for i in both] == [(0, 2), (0, 5), (4, 2), (4, 5)]
    assert store.where(token_id=1000).size == 0
    assert np.array_equal(store[RESID].document(2), store[RESID][7:16])
    assert np.array_equal(store[RESID].where(position=0), store[RESID][[0, 6, 7, 16, 20]])
    with pytest.raises(ArgumentError, match='no label "type"; it has token_id'):
        store.where(type=1)
    with pytest.raises(ValueError, match="read-only"):
        store.token_id[0] = 1


def test_xarray_has_axes_and_labels(folder: Path, whole: dict[str, torch.Tensor]) -> None:
    store = bezel.ActivationStore(folder)
    data = store.to_xarray([Z, RESID], slice(3, 30))
    assert data[Z].dims == ("row", "head", "d_head")
    assert np.array_equal(data[RESID].astype(np.float32), whole[RESID][3:30].float())
    chosen = data[RESID].sel(row=data.document == 2)
    assert np.array_equal(chosen, store[RESID].document(2))


def unfinished(folder: Path, tmp_path: Path) -> Path:
    """The store without its last shard's record: as a run leaves it that was stopped."""
    copy = tmp_path / "unfinished"
    shutil.copytree(folder, copy)
    journal = copy / "journal-0.log"
    records = journal.read_bytes()
    journal.write_bytes(records[: 3 * 512])
    (copy / "shard-000004.h5").unlink()  # the one before may have been sealed already
    return copy


def test_rows_that_are_not_sealed_cannot_be_read(folder: Path, tmp_path: Path) -> None:
    store = bezel.ActivationStore(unfinished(folder, tmp_path))
    assert not store.is_complete
    assert store.recorded == [(0, 21)]
    assert len(store[RESID][:21]) == 21
    with pytest.raises(StoreError, match="row 21 is not written yet"):
        store[RESID][20:22]
    with pytest.raises(StoreError, match="is not written yet"):
        store.where(document=0)
    assert sum(len(x[RESID]) for x in store.iter_batches(RESID, 4)) == 21


@pytest.mark.parametrize("checksum", ["first", "always"])
def test_a_flipped_bit_is_seen_when_it_is_read(folder: Path, tmp_path: Path, checksum: Any) -> None:
    copy = tmp_path / "damaged"
    shutil.copytree(folder, copy)
    shard = copy / "shard-000001.h5"
    shard.chmod(0o644)
    at = shard.read_bytes().index(bezel.ActivationStore(folder, out="torch")[RESID][9].view(
        torch.uint8).numpy().tobytes())  # fmt: skip
    content = bytearray(shard.read_bytes())
    content[at] ^= 1
    shard.write_bytes(content)
    store = bezel.ActivationStore(copy, checksum=checksum)
    assert len(store[RESID][:7]) == 7
    with pytest.raises(StoreError, match=r"shard-000001.h5: /acts/.*is not what its checksum says"):
        store[RESID][7]


@pytest.mark.parametrize("arguments", [{"out": "jax"}, {"checksum": "sometimes"}])
def test_other_settings_are_refused(folder: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="wanted"):
        bezel.ActivationStore(folder, **arguments)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(StoreError, match="MANIFEST.json"):
            bezel.ActivationStore(path)


def test_a_store_may_go_to_another_process(folder: Path) -> None:
    store = bezel.ActivationStore(folder, out="torch", checksum="never")
    again = pickle.loads(pickle.dumps(store))
    assert torch.equal(again[RESID][3], store[RESID][3])


def test_threads_read_side_by_side(folder: Path, whole: dict[str, torch.Tensor]) -> None:
    store = bezel.ActivationStore(folder, out="torch")
    wrong: list[int] = []

    def read(seed: int) -> None:
        rows = np.random.default_rng(seed).integers(0, N_ROWS, 200)
        for row in rows.tolist():
            if not torch.equal(store[RESID][row], whole[RESID][row]):
                wrong.append(row)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("order", ["import bezel, h5py", "import h5py, bezel"])
def test_both_hdf5_libraries_live_in_one_process(folder: Path, tmp_path: Path, order: str) -> None:
    program = f"""
{order}
b = bezel.Bridge.from_pretrained("tests/data/nano")
bezel.dump(b, [[2, 3, 4]], {str(tmp_path / "a")!r}, "hook_embed", verbose=False)
with h5py.File({str(tmp_path / "a" / "shard-000000.h5")!r}) as file:
    theirs = file["acts/hook_embed"][()]
with h5py.File({str(tmp_path / "own.h5")!r}, "w") as file:
    file["x"] = theirs
ours = bezel.ActivationStore({str(tmp_path / "a")!r})["hook_embed"][:]
assert (theirs == ours).all()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
