"""bezel.dump(repair=True): what is damaged or lost is made again, and nothing else."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bezel
from bezel import _C
from bezel.dump.ranks import Rank
from bezel.errors import ArgumentError, StoreError
from support.lab import Lab

DOCUMENTS = [np.random.default_rng(n).integers(3, 60, n).tolist() for n in (5, 17, 9, 30, 2)]
NAMES = ["blocks.1.hook_resid_post", "blocks.0.attn.hook_z"]


def dump(lab: Lab, out: Path, **settings: Any) -> bezel.DumpReport:
    arguments: dict[str, Any] = {"hooks": NAMES, "length": 10, "batch": 3, "rows_per_shard": 13}
    return bezel.dump(lab.bridge("e2b"), DOCUMENTS, out, verbose=False, **(arguments | settings))


@pytest.fixture(scope="module")
def whole(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "acts"
    dump(lab, out)
    return out


def flip(path: Path, place: float = 0.5) -> None:
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 4
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-100])


def swap(one: Path, other: Path) -> None:
    spare = one.with_suffix(".spare")
    one.rename(spare)
    other.rename(one)
    spare.rename(other)


def shard(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:06d}.h5"


DAMAGE: dict[str, tuple[Callable[[Path], Any], int]] = {
    "a flipped bit": (lambda f: flip(shard(f, 1)), 1),
    "flipped bits in metadata": (lambda f: flip(shard(f, 2), 0.001), 1),
    "a truncated shard": (lambda f: cut(shard(f, 3)), 1),
    "a missing shard": (lambda f: shard(f, 0).unlink(), 1),
    "two swapped shards": (lambda f: swap(shard(f, 0), shard(f, 2)), 2),
    "all of it": (lambda f: [flip(shard(f, i)) for i in range(5)], 5),
    "a damaged journal": (lambda f: flip(f / "journal-0.log", 0.3), 0),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_exactly_what_is_damaged_is_made_again(
    lab: Lab, whole: Path, tmp_path: Path, damage: str
) -> None:
    out = tmp_path / "acts"
    shutil.copytree(whole, out)
    break_it, n_shards = DAMAGE[damage]
    break_it(out)
    findings, _, _ = _C.store_check(out, True, None)
    assert any(is_damage for is_damage, *_ in findings)
    report = dump(lab, out, repair=True)
    assert report.shards == n_shards
    assert _C.store_check(out, True, None)[0] == []
    for path in whole.glob("shard*"):
        assert path.read_bytes() == (out / path.name).read_bytes()
    assert dump(lab, out, repair=True).shards == 0


def test_a_run_that_makes_other_bytes_is_told(lab: Lab, whole: Path, tmp_path: Path) -> None:
    """As another number of threads may: the record's hash is not that of the new shard."""
    out = tmp_path / "acts"
    shutil.copytree(whole, out)
    shard(out, 1).unlink()
    b = lab.bridge("e2b")
    hooks = [("blocks.0.hook_mlp_out", lambda value, hook: value * 2)]
    with b.hooks(hooks), pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys.modules["bezel.dump"], "_check_edits", lambda b, edits: None)
        with pytest.raises(StoreError, match="other bytes"):
            dump(lab, out, repair=True)
    assert not shard(out, 1).exists()
    assert dump(lab, out, repair=True).shards == 1


def test_other_settings_repair_nothing(lab: Lab, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "acts"
    shutil.copytree(whole, out)
    flip(shard(out, 1))
    with pytest.raises(StoreError, match="/request/batch"):
        dump(lab, out, repair=True, batch=2)


def test_one_process_repairs(lab: Lab, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "acts"
    shutil.copytree(whole, out)
    with pytest.raises(ArgumentError, match="by 2 ranks; wanted one"):
        dump(lab, out, repair=True, rank=Rank(0, 2, 0, "a"))
