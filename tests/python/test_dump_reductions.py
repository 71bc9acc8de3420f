"""Norms, largest elements and moments: against float64 sums over the values themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bezel
from bezel.errors import ArgumentError, StoreError, UnknownHookError
from bezel.moments import moments_of
from support.lab import Lab

DOCUMENTS = [np.random.default_rng(n).integers(3, 60, n).tolist() for n in (5, 17, 9, 30, 2)]
RESID, Z, SCALE = "blocks.1.hook_resid_post", "blocks.1.attn.hook_z", "blocks.1.ln1.hook_scale"
PATTERN, INDICES = "blocks.0.attn.hook_pattern", "blocks.0.moe.hook_expert_indices"


def dump(b: Any, out: Path, **settings: Any) -> bezel.ActivationStore:
    arguments: dict[str, Any] = {"length": 10, "batch": 3, "rows_per_shard": 13}
    bezel.dump(b, DOCUMENTS, out, verbose=False, **(arguments | settings))
    return bezel.ActivationStore(out, out="torch")


@pytest.mark.parametrize("name", [RESID, Z, PATTERN])
@pytest.mark.parametrize("rows_per_shard", [1, 13, 1000])
def test_moments_are_those_of_all_rows(
    lab: Lab, tmp_path: Path, name: str, rows_per_shard: int
) -> None:
    store = dump(
        lab.bridge("moe"), tmp_path / "a", hooks=name, reduce={name: "covariance"},
        rows_per_shard=rows_per_shard,
    )  # fmt: skip
    rows = store[name][:].double()
    apart = rows - rows.mean(0)
    found = store.moments(name)
    size = rows.abs().max() ** 2
    assert found.count == len(rows) == sum(map(len, DOCUMENTS))
    assert torch.allclose(found.mean, rows.mean(0), rtol=0, atol=float(size) * 1e-14)
    want = torch.stack([row[..., :, None] * row[..., None, :] for row in apart]).mean(0)
    assert torch.allclose(found.covariance, want, rtol=0, atol=float(size) * 1e-13)
    variance = apart.square().mean(0)
    assert torch.allclose(found.variance, variance, rtol=0, atol=float(size) * 1e-13)


def test_what_is_reduced_need_not_be_stored(lab: Lab, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"reduce": {RESID: ["covariance", "norm"]}}
    with_rows = dump(lab.bridge("e2b"), tmp_path / "a", hooks=RESID, **settings)
    without = dump(lab.bridge("e2b"), tmp_path / "b", **settings)
    assert list(without) == [f"{RESID}:norm"]
    assert torch.equal(without.moments(RESID).products, with_rows.moments(RESID).products)


def test_a_variance_needs_no_covariance(lab: Lab, tmp_path: Path) -> None:
    reduce = {RESID: ["mean", "variance"], Z: "mean"}
    store = dump(lab.bridge("moe"), tmp_path / "a", hooks=[RESID, Z], reduce=reduce)
    found, rows = store.moments(RESID), store[RESID][:].double()
    assert torch.allclose(found.variance, rows.var(0, correction=0), rtol=1e-9, atol=1e-9)
    assert found.products.numel() == 0
    want = store[Z][:].double().mean(0)
    assert torch.allclose(store.moments(Z).mean, want, rtol=1e-9, atol=1e-9)
    assert store.moments(Z).variance.numel() == 0


def test_a_large_mean_cancels_nothing() -> None:
    rows = torch.randn(1000, 4, dtype=torch.float64, generator=torch.manual_seed(0))
    parts = [moments_of(part + 1e8, True, True) for part in rows.split([1, 499, 500])]
    found = parts[0].merged(parts[1]).merged(parts[2])
    assert torch.allclose(found.covariance, torch.cov(rows.T, correction=0), rtol=0, atol=1e-6)
    assert torch.allclose(found.mean, rows.mean(0) + 1e8, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [RESID, Z, PATTERN])
def test_norms_and_largest_elements_are_rows(lab: Lab, tmp_path: Path, name: str) -> None:
    store = dump(lab.bridge("moe"), tmp_path / "a", hooks=name, reduce={name: ["norm", "top:3"]})
    rows = store[name][:].double()
    norms = store[f"{name}:norm"]
    assert torch.allclose(norms[:].double(), rows.square().sum(-1).sqrt(), rtol=1e-6)
    top, index = store[f"{name}:top"], store[f"{name}:top_index"]
    assert torch.equal(top[:].double(), rows.sort(dim=-1, descending=True).values[..., :3])
    assert torch.equal(rows.gather(-1, index[:].long()), top[:].double())
    assert norms.axes == store[name].axes[:-1]
    assert top.axes == (*norms.axes, "rank")
    assert index.dtype == torch.int32


def test_a_glob_reduces_each_of_its_names(lab: Lab, tmp_path: Path) -> None:
    b = lab.bridge("e2b")
    store = dump(b, tmp_path / "a", reduce={"blocks.*.hook_resid_post": "norm"})
    assert list(store) == [f"blocks.{i}.hook_resid_post:norm" for i in range(b.cfg.n_layers)]


def test_stored_bfloat16_is_what_is_reduced(lab: Lab, tmp_path: Path) -> None:
    store = dump(
        lab.bridge("e2b"), tmp_path / "a", hooks=RESID, reduce={RESID: ["norm", "mean"]},
        dtype=torch.bfloat16,
    )  # fmt: skip
    rows = store[RESID][:].double()
    assert torch.allclose(store[f"{RESID}:norm"][:].double(), rows.norm(dim=-1), rtol=1e-6)
    assert torch.allclose(store.moments(RESID).mean, rows.mean(0), rtol=1e-12, atol=1e-12)
    assert store[f"{RESID}:norm"].dtype == torch.float32


def test_equal_calls_make_equal_bytes_after_an_interruption(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    b, reduce = lab.bridge("moe"), {RESID: "covariance", Z: ["variance", "norm"]}
    dump(b, tmp_path / "whole", reduce=reduce)
    run, n_left = type(b).run_with_cache, 2

    def stopping(*arguments: Any, **options: Any) -> Any:
        nonlocal n_left
        n_left -= 1
        if n_left < 0:
            raise RuntimeError("stopped")
        return run(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(type(b), "run_with_cache", stopping)
        with pytest.raises(RuntimeError, match="stopped"):
            dump(b, tmp_path / "a", reduce=reduce)
    dump(b, tmp_path / "a", reduce=reduce, resume=True)
    for path in (tmp_path / "whole").glob("shard*"):
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("reduce", "error", "told"),
    [
        ({RESID: "median"}, ArgumentError, "as 'median'; wanted"),
        ({RESID: "top"}, ArgumentError, "as 'top'; wanted"),
        ({RESID: "top:0"}, ArgumentError, "the 0 largest"),
        ({RESID: "top:1000"}, ArgumentError, "the 1000 largest"),
        ({INDICES: "mean"}, ArgumentError, "holds whole numbers"),
        ({"blocks.1.hook_resid_pots": "mean"}, UnknownHookError, "hook_resid_post"),
        ({}, ArgumentError, "nothing would be stored"),
    ],
)
def test_other_reductions_are_refused(
    lab: Lab, tmp_path: Path, reduce: dict[str, str], error: type, told: str
) -> None:
    with pytest.raises(error) as refused:
        dump(lab.bridge("moe"), tmp_path / "a", reduce=reduce)
    assert told in str(refused.value)
    assert not (tmp_path / "a").exists()


def test_moments_that_were_not_kept_are_refused(lab: Lab, tmp_path: Path) -> None:
    store = dump(lab.bridge("e2b"), tmp_path / "a", hooks=Z, reduce={RESID: "mean"})
    with pytest.raises(UnknownHookError, match=f'no moments of "{Z}"; it has those of {RESID}'):
        store.moments(Z)


def test_a_damaged_entry_is_seen(lab: Lab, tmp_path: Path) -> None:
    store = dump(lab.bridge("e2b"), tmp_path / "a", reduce={RESID: "mean"})
    shard = tmp_path / "a" / "shard-000000.h5"
    mean = store._reader.read_shard(f"{RESID}:mean", 0)
    content = bytearray(shard.read_bytes())
    content[content.index(mean.numpy().tobytes())] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(content)
    with pytest.raises(StoreError, match="is not what its checksum says"):
        bezel.ActivationStore(tmp_path / "a").moments(RESID)
