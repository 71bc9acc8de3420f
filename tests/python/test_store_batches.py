"""Batches of a store: each row once, in an order that a seed gives, from any place on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import bezel
from bezel.errors import ArgumentError, UnknownHookError
from bezel.store.torch_data import StoreDataset
from support.lab import Lab

N_ROWS = 211
RESID = "blocks.0.hook_resid_post"
NAMES = [RESID, "document", "token_id"]


@pytest.fixture(scope="module")
def store(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> bezel.ActivationStore:
    path = tmp_path_factory.mktemp("stores") / "acts"
    tokens = [[3 + i % 50] for i in range(N_ROWS)]  # a document a row: its number tells the row
    bezel.dump(
        lab.bridge("e2b"), tokens, path, [RESID, "blocks.0.attn.hook_z"], batch=32,
        rows_per_shard=40, verbose=False,
    )  # fmt: skip
    return bezel.ActivationStore(path, out="torch")


SETTINGS: list[dict[str, Any]] = [
    {"batch": batch, "shuffle": shuffle, "buffer_rows": buffer, "drop_last": drop}
    for batch in (1, 7, 64, 500)
    for shuffle in (True, False)
    for buffer in (None, 1, 33, 100)
    for drop in (True, False)
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_each_row_comes_once_with_its_labels(
    store: bezel.ActivationStore, settings: dict[str, Any]
) -> None:
    batches = list(store.iter_batches(NAMES, **settings))
    batch = settings["batch"]
    n = N_ROWS // batch * batch if settings["drop_last"] else N_ROWS
    assert [len(b[RESID]) for b in batches] == [min(batch, n - at) for at in range(0, n, batch)]
    rows = torch.cat([b["document"] for b in batches]) if batches else torch.zeros(0).long()
    assert len(set(rows.tolist())) == len(rows) == n
    if not settings["shuffle"]:
        assert rows.tolist() == list(range(n))
    for b in batches:
        assert list(b) == NAMES
        assert torch.equal(b[RESID], store[RESID][b["document"]])
        assert torch.equal(b["token_id"], store["token_id"][b["document"]])


def rows_of(store: bezel.ActivationStore, **settings: Any) -> list[list[int]]:
    arguments = {"batch": 10, "buffer_rows": 60} | settings
    return [b["document"].tolist() for b in store.iter_batches("document", **arguments)]


def test_a_seed_is_an_order(store: bezel.ActivationStore) -> None:
    assert rows_of(store, seed=1) == rows_of(store, seed=1)
    assert rows_of(store, seed=1) != rows_of(store, seed=2)
    for workers in (0, 2, 5):
        assert rows_of(store, seed=1, workers=workers) == rows_of(store, seed=1)


def test_rows_are_mixed_over_the_whole_store(store: bezel.ActivationStore) -> None:
    """With a buffer of a third, a batch's rows come from all of it; neighbours are parted."""
    rows = np.concatenate(rows_of(store, seed=3))
    first = rows[:60]
    assert first.min() < N_ROWS / 4
    assert first.max() > 3 * N_ROWS / 4
    assert (np.abs(np.diff(rows)) == 1).mean() < 0.1
    assert abs(np.corrcoef(rows, np.arange(N_ROWS))[0, 1]) < 0.3


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_goes_on_from_any_place(
    store: bezel.ActivationStore, shuffle: bool, workers: int
) -> None:
    settings: dict[str, Any] = {"batch": 17, "buffer_rows": 50, "shuffle": shuffle, "seed": 5}
    want = list(store.iter_batches(NAMES, **settings))
    for n in range(len(want) + 1):
        begun = store.iter_batches(NAMES, **settings)
        for _ in range(n):
            next(begun)
        rest = list(store.iter_batches(NAMES, **settings, workers=workers, start_state=begun.state))
        begun.close()
        assert len(rest) == len(want) - n
        for got, wanted in zip(rest, want[n:], strict=True):
            assert all(torch.equal(got[name], wanted[name]) for name in NAMES)


@pytest.mark.parametrize(
    "other",
    [{"seed": 6}, {"batch": 16}, {"shuffle": False}, {"buffer_rows": 51}, {"drop_last": True},
     {"where": np.arange(N_ROWS)}, {"names": ["document"]}],
    ids=str,
)  # fmt: skip
def test_a_state_of_another_pass_is_refused(
    store: bezel.ActivationStore, other: dict[str, Any]
) -> None:
    settings: dict[str, Any] = {
        "names": NAMES, "batch": 17, "buffer_rows": 50, "shuffle": True, "seed": 5,
    }  # fmt: skip
    state = store.iter_batches(**settings).state
    with pytest.raises(ArgumentError, match="belongs to another pass"):
        store.iter_batches(**(settings | other), start_state=state)


@pytest.mark.parametrize("shuffle", [True, False])
def test_where_chooses_rows(store: bezel.ActivationStore, shuffle: bool) -> None:
    chosen = store.where(token_id=[4, 9, 20])
    rows = np.concatenate(rows_of(store, where=chosen, shuffle=shuffle))
    assert sorted(rows.tolist()) == chosen.tolist()
    assert rows_of(store, where=np.zeros(0, dtype=np.int64)) == []
    twice = np.array([5, 5, 2])
    assert sorted(np.concatenate(rows_of(store, where=twice)).tolist()) == [2, 5, 5]


@pytest.mark.parametrize("where", [[N_ROWS], [-1], [0.5], [[1]], [True]], ids=repr)
def test_rows_that_are_not_there_are_refused(store: bezel.ActivationStore, where: Any) -> None:
    with pytest.raises(ArgumentError, match="wanted numbers of sealed rows"):
        store.iter_batches(RESID, 4, where=np.array(where))


@pytest.mark.parametrize(
    "wrong", [{"batch": 0}, {"buffer_rows": 0}, {"workers": -1}, {"names": []}], ids=str
)
def test_settings_that_cannot_be_are_refused(
    store: bezel.ActivationStore, wrong: dict[str, Any]
) -> None:
    with pytest.raises(ArgumentError, match="wanted"):
        store.iter_batches(**({"names": RESID, "batch": 4} | wrong))


def test_an_unknown_name_is_refused(store: bezel.ActivationStore) -> None:
    for make in (store.iter_batches, lambda names, batch: StoreDataset(store, names, batch)):
        with pytest.raises(UnknownHookError):
            make(["blocks.0.hook_resid_pots"], 4)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(
    ("workers", "context"), [(0, None), (1, "fork"), (2, "fork"), (2, "spawn")]
)
def test_a_loader_gives_the_same_batches_with_any_workers(
    store: bezel.ActivationStore, shuffle: bool, workers: int, context: str | None
) -> None:
    settings: dict[str, Any] = {"batch": 10, "buffer_rows": 60, "shuffle": shuffle, "seed": 7}
    want = list(store.iter_batches(NAMES, **settings))
    rows = StoreDataset(store, NAMES, **settings)
    loader = DataLoader(rows, batch_size=None, num_workers=workers, multiprocessing_context=context)
    got = list(loader)
    assert len(got) == len(want) == len(rows)
    for ours, theirs in zip(got, want, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in NAMES)
