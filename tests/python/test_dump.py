"""bezel.dump: rows are what run_with_cache gives, bit for bit, and equal calls make equal bytes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bezel
from bezel.cache_values import axes_of
from bezel.errors import ArgumentError, StoreError, UnknownHookError
from support import saes
from support.lab import Lab

NAMES = ("nano", "e2b", "moe", "unified")
RANDOM = np.random.default_rng(1)
DOCUMENTS = [RANDOM.integers(3, 60, n).tolist() for n in (5, 11, 3, 24, 8, 8)]
RESID = "blocks.*.hook_resid_post"


def rows_of(document: list[int], length: int) -> list[list[int]]:
    return [document[at : at + length] for at in range(0, len(document), length)]


def runs(length: int, batch: int, width: int | None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(tokens, mask) of the batches that the documents make."""
    rows = [row for document in DOCUMENTS for row in rows_of(document, length)]
    for at in range(0, len(rows), batch):
        some = rows[at : at + batch]
        n = width or max(map(len, some))
        tokens = torch.tensor([row + [0] * (n - len(row)) for row in some])
        yield tokens, torch.tensor([[i < len(row) for i in range(n)] for row in some])


def row_axis(name: str) -> str:
    return next(axis for axis in ("pos", "q_pos", "k_pos") if axis in axes_of(name))


def open_bridge(lab: Lab, name: str, path: str = "automatic") -> Any:
    if name == "nano":
        return bezel.Bridge.from_pretrained("tests/data/nano", path=path)
    return lab.bridge(name, path=path)


def with_rows(b: Any) -> list[str]:
    """The names that a dump can hold."""
    points = b.hook_points()
    return [p.name for p in points if {"pos", "q_pos", "k_pos"} & set(p.axes)]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_what_a_run_keeps(lab: Lab, tmp_path: Path, name: str) -> None:
    """On the open path, on which what else is recorded changes no bit."""
    b = open_bridge(lab, name, "open")
    names = with_rows(b)
    assert len(names) > 100
    length = 9
    bezel.dump(b, DOCUMENTS, tmp_path / "a", names, length=length, batch=3, verbose=False)
    store = bezel.ActivationStore(tmp_path / "a", out="torch", checksum="always")
    assert set(store) == set(names)
    # All names have the width that those with keys need.
    rows: dict[str, list[torch.Tensor]] = {key: [] for key in names}
    for tokens, mask in runs(length, 3, length):
        _, cache = b.run_with_cache(tokens, names, attention_mask=mask.long())
        for key in names:
            by_row = cache[key].movedim(axes_of(key).index(row_axis(key)), 1)
            rows[key] += [
                v[i] for v, m in zip(by_row, mask, strict=True) for i in m.nonzero()[:, 0]
            ]
    for key in names:
        assert torch.equal(store[key][:], torch.stack(rows[key])), key
        assert store[key].axes == tuple(a for a in axes_of(key)[1:] if a != row_axis(key))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_few_names_on_the_path_that_a_user_takes(
    lab: Lab, tmp_path: Path, name: str, dtype: torch.dtype | None
) -> None:
    b = open_bridge(lab, name)
    bezel.dump(b, DOCUMENTS, tmp_path / "a", RESID, length=7, batch=4, dtype=dtype, verbose=False)
    store = bezel.ActivationStore(tmp_path / "a", out="torch")
    rows = wanted_all(b, list(store), 7, 4, dtype)
    for key in store:
        assert torch.equal(store[key][:], rows[key]), key
    assert store.token_id.tolist() == [token for document in DOCUMENTS for token in document]
    assert store.document.tolist() == [i for i, d in enumerate(DOCUMENTS) for _ in d]
    assert store.position.tolist() == [i for d in DOCUMENTS for i in range(len(d))]


def wanted_all(
    b: Any, names: list[str], length: int, batch: int, dtype: torch.dtype | None
) -> dict[str, torch.Tensor]:
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    for tokens, mask in runs(length, batch, None):
        _, cache = b.run_with_cache(tokens, names, attention_mask=mask.long(), return_type=None)
        for name in names:
            rows[name].append(cache[name][mask].to(dtype or cache[name].dtype))
    return {name: torch.cat(parts) for name, parts in rows.items()}


def test_packed_rows_join_documents(lab: Lab, tmp_path: Path) -> None:
    b = lab.bridge("e2b")
    report = bezel.dump(
        b, DOCUMENTS, tmp_path / "a", "blocks.1.hook_resid_post", length=10, batch=2, pack=True,
        verbose=False,
    )  # fmt: skip
    flat = [token for document in DOCUMENTS for token in document]
    rows = [flat[at : at + 10] for at in range(0, len(flat), 10)]
    parts = []
    for at in range(0, len(rows), 2):
        some = rows[at : at + 2]
        mask = torch.tensor([[i < len(row) for i in range(len(some[0]))] for row in some])
        tokens = torch.tensor([row + [0] * (len(some[0]) - len(row)) for row in some])
        _, cache = b.run_with_cache(
            tokens, "blocks.1.hook_resid_post", attention_mask=mask.long(), return_type=None
        )
        parts.append(cache["blocks.1.hook_resid_post"][mask])
    store = bezel.ActivationStore(tmp_path / "a", out="torch")
    assert torch.equal(store["blocks.1.hook_resid_post"][:], torch.cat(parts))
    assert store.document.tolist() == [i for i, d in enumerate(DOCUMENTS) for _ in d]
    assert report.rows == report.total_rows == len(flat)


@pytest.mark.parametrize("positions", ["last", slice(1, None, 2), [0, -1]], ids=repr)
def test_positions_choose_rows(lab: Lab, tmp_path: Path, positions: Any) -> None:
    b, name = lab.bridge("e2b"), "blocks.2.hook_resid_mid"
    arguments: dict[str, Any] = {"length": 8, "batch": 3, "verbose": False}
    bezel.dump(b, DOCUMENTS, tmp_path / "all", name, **arguments)
    bezel.dump(b, DOCUMENTS, tmp_path / "some", name, positions=positions, **arguments)
    whole, part = (bezel.ActivationStore(tmp_path / folder) for folder in ("all", "some"))
    rows = {(d, p): i for i, (d, p) in enumerate(zip(whole.document, whole.position, strict=True))}
    at = [rows[label] for label in zip(part.document, part.position, strict=True)]
    assert np.array_equal(whole[name][at], part[name][:])
    assert 0 < len(at) < whole.n_rows


def test_values_inside_saes_are_rows_too(lab: Lab, tmp_path: Path) -> None:
    b = lab.bridge("e2b")
    sae = saes.random_sae("jumprelu", saes.D, saes.AT)
    name = f"{saes.AT}.hook_sae_acts_post"
    with b.saes([sae]):
        bezel.dump(b, DOCUMENTS, tmp_path / "a", name, length=30, batch=1, verbose=False)
        rows = []
        for document in DOCUMENTS:
            _, cache = b.run_with_cache(torch.tensor([document]), name)
            rows.append(cache[name][0])
    store = bezel.ActivationStore(tmp_path / "a", out="torch")
    assert torch.equal(store[name][:], torch.cat(rows))
    (fingerprint,) = store.manifest["request"]["saes"]
    assert fingerprint["place"] == saes.AT


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if not path.name.startswith("LOCK")
    }


def test_equal_calls_make_equal_bytes(lab: Lab, tmp_path: Path) -> None:
    b = lab.bridge("moe")
    for folder in ("a", "b"):
        bezel.dump(
            b, iter(DOCUMENTS), tmp_path / folder, RESID, length=8, batch=2, rows_per_shard=16,
            verbose=False,
        )  # fmt: skip
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")
    assert sum(name.startswith("shard") for name in bytes_of(tmp_path / "a")) == 4


@pytest.mark.parametrize("rows_per_shard", [1, 7, 16, 1000])
def test_shards_may_end_inside_a_batch(lab: Lab, tmp_path: Path, rows_per_shard: int) -> None:
    b, name = lab.bridge("e2b"), "blocks.0.hook_resid_post"
    arguments: dict[str, Any] = {"length": 8, "batch": 2, "verbose": False}
    bezel.dump(b, DOCUMENTS, tmp_path / "a", name, rows_per_shard=rows_per_shard, **arguments)
    bezel.dump(b, DOCUMENTS, tmp_path / "b", name, **arguments)
    got, want = (bezel.ActivationStore(tmp_path / folder)[name][:] for folder in "ab")
    assert np.array_equal(got, want)


def test_a_batch_in_two_shards_runs_once(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = lab.bridge("e2b")
    n_runs = 0
    run = type(b).run_with_cache

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal n_runs
        n_runs += 1
        assert options["return_type"] is None  # no logits, and nothing behind the last name
        return run(self, *arguments, **options)

    monkeypatch.setattr(type(b), "run_with_cache", counted)
    bezel.dump(
        b, DOCUMENTS, tmp_path / "a", "hook_embed", length=8, batch=2, rows_per_shard=5,
        verbose=False,
    )  # fmt: skip
    assert n_runs == len(list(runs(8, 2, None)))


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("after", range(1, 5))
def test_an_interrupted_dump_goes_on(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    b = lab.bridge("e2b")

    def dump(folder: str, resume: bool) -> Any:
        return bezel.dump(
            b, DOCUMENTS, tmp_path / folder, RESID, length=8, batch=1, rows_per_shard=16,
            resume=resume, verbose=False,
        )  # fmt: skip

    dump("whole", False)
    n_left = after
    run = type(b).run_with_cache

    def stopping(self: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal n_left
        n_left -= 1
        if n_left < 0:
            raise StoppedError
        return run(self, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(type(b), "run_with_cache", stopping)
        for resume in (False, True):
            n_left = after
            with pytest.raises(StoppedError):
                dump("a", resume)
    with pytest.raises(StoreError, match="holds a store already"):
        dump("a", False)
    report = dump("a", True)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "whole")
    assert 0 < report.rows <= report.total_rows == sum(map(len, DOCUMENTS))
    again = dump("a", True)
    assert (again.rows, again.shards, again.total_rows) == (0, 0, report.total_rows)


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "hooks": ({"hooks": "blocks.0.hook_resid_mid"}, "/values/0/name"),
    "corpus": ({"corpus": DOCUMENTS[::-1]}, "/request/corpus/fingerprint"),
    "dtype": ({"dtype": torch.bfloat16}, "/values/0/dtype"),
    "positions": ({"positions": slice(None)}, "/request/positions"),
    "batch": ({"batch": 4}, "/request/batch"),
    "length": ({"length": 30}, "/request/length"),
    "packing": ({"pack": True}, "/request/pack"),
    "rows per shard": ({"rows_per_shard": 9}, "/rows_per_shard"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_dump_does_not_go_on_in_the_same_folder(
    lab: Lab, tmp_path: Path, change: str
) -> None:
    settings: dict[str, Any] = {
        "corpus": DOCUMENTS, "out": tmp_path / "a", "hooks": "blocks.0.hook_resid_post",
        "length": 8, "batch": 2, "rows_per_shard": 10, "verbose": False,
    }  # fmt: skip
    bezel.dump(lab.bridge("e2b"), **settings)
    before = bytes_of(tmp_path / "a")
    changed, told = CHANGES[change]
    with pytest.raises(StoreError) as refused:
        bezel.dump(lab.bridge("e2b"), **(settings | changed), resume=True)
    assert told in str(refused.value)
    assert bytes_of(tmp_path / "a") == before


def test_another_model_does_not_go_on(lab: Lab, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"hooks": "hook_embed", "length": 8, "verbose": False}
    b = lab.bridge("e2b")
    bezel.dump(b, DOCUMENTS, tmp_path / "a", **settings)
    with pytest.raises(StoreError, match="/request/model/weights"):
        bezel.dump(b.folded(), DOCUMENTS, tmp_path / "a", **settings, resume=True)
    with pytest.raises(StoreError, match="/request/path"):
        bezel.dump(
            lab.bridge("e2b", path="open"), DOCUMENTS, tmp_path / "a", **settings, resume=True
        )


def test_hooks_in_force_are_told_in_words(bridge: Any, tmp_path: Path) -> None:
    name = "blocks.2.hook_resid_post"
    settings: dict[str, Any] = {"hooks": name, "length": 30, "batch": 1, "verbose": False}
    bezel.dump(bridge, DOCUMENTS, tmp_path / "plain", **settings)
    with pytest.raises(ArgumentError, match="edits is 'half', and no hook is in force"):
        bezel.dump(bridge, DOCUMENTS, tmp_path / "a", **settings, edits="half")
    bridge.add_hook("blocks.1.hook_mlp_out", lambda value, hook: value / 2)
    with pytest.raises(ArgumentError, match="1 hooks are in force"):
        bezel.dump(bridge, DOCUMENTS, tmp_path / "a", **settings)
    assert not (tmp_path / "a").exists()
    bezel.dump(bridge, DOCUMENTS, tmp_path / "a", **settings, edits="half of block 1's MLP")
    edited, plain = (bezel.ActivationStore(tmp_path / folder) for folder in ("a", "plain"))
    assert edited.manifest["request"]["edits"] == "half of block 1's MLP"
    assert not np.array_equal(edited[name][:], plain[name][:])
    _, cache = bridge.run_with_cache(torch.tensor([DOCUMENTS[0]]), name)
    assert np.array_equal(edited[name].document(0), cache[name][0].numpy())


@pytest.mark.parametrize(
    ("changed", "error", "told"),
    [
        ({"hooks": "blocks.0.hook_resid_pots"}, UnknownHookError, "hook_resid_post"),
        ({"hooks": []}, ArgumentError, "nothing would be stored"),
        ({"dtype": torch.float16}, ArgumentError, "dtype is torch.float16"),
        ({"dtype": torch.int64}, ArgumentError, "dtype is torch.int64"),
        ({"batch": 0}, ArgumentError, "batch is 0"),
        ({"length": 0}, ArgumentError, "length 0"),
        ({"rows_per_shard": 0}, ArgumentError, "rows_per_shard is 0"),
        ({"positions": "first"}, ArgumentError, "positions are 'first'"),
        ({"corpus": [[10**6]]}, ArgumentError, "the vocabulary has"),
        ({"corpus": ["a text"]}, ArgumentError, "tokenizer"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    lab: Lab, tmp_path: Path, changed: dict[str, Any], error: type, told: str
) -> None:
    settings: dict[str, Any] = {
        "corpus": DOCUMENTS, "out": tmp_path / "a", "hooks": "hook_embed", "verbose": False,
    }  # fmt: skip
    with pytest.raises(error) as refused:
        bezel.dump(lab.bridge("e2b"), **(settings | changed))
    assert told in str(refused.value)
    assert not (tmp_path / "a").exists()


def test_a_disk_that_is_too_small_is_refused_with_both_numbers(tmp_path: Path) -> None:
    b = bezel.Bridge.from_pretrained("tests/data/nano")
    free = shutil.disk_usage(tmp_path).free
    n_tokens = free // (96 * 4 * 10) + 10**6
    corpus = np.broadcast_to(np.array([5], dtype=np.int32), (n_tokens // 1000, 1000))
    if n_tokens > 2 * 10**9:
        pytest.skip("this disk would hold more than the test can count to")
    with pytest.raises(StoreError, match=r"this run writes \d+ bytes, the disk has \d+ free"):
        bezel.dump(b, corpus, tmp_path / "a", RESID, verbose=False)
    assert not list((tmp_path / "a").glob("shard*"))
