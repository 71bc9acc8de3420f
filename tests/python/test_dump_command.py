"""`bezel dump` and `bezel store` as programs: what they print, exit with, and survive."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest

import bezel
from bezel.dump.ranks import Rank, find_rank
from bezel.errors import ArgumentError
from bezel.main import main

NANO = Path(__file__).resolve().parents[1] / "data" / "nano"
NAME = "blocks.3.hook_resid_post"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # as this process has it: sums in the same order


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "tokens.npy"
    np.save(path, np.random.default_rng(0).integers(3, 200, (96, 32)).astype(np.uint16))
    return path


def words(corpus: Path, out: Path, *more: Any) -> list[str]:
    given = ["dump", NANO, "--corpus", corpus, "--hooks", NAME, "--out", out, "--shard-rows", 512]
    return [str(word) for word in [*given, *more]]


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def bezel_main(*arguments: str, **environment: str) -> Done:
    """The command in this process: what it takes to start one is most of its time."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, environment),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = main(arguments)
        except SystemExit as ended:  # argparse's own
            code = int(ended.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.name.startswith(("shard", "MANIFEST"))
    }


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "acts"
    done = bezel_main(*words(corpus, out))
    assert done.returncode == 0, done.stderr
    assert "3,072 rows in 6 shards" in done.stdout
    return out


def test_a_dump_is_that_of_the_function(whole: Path, corpus: Path, tmp_path: Path) -> None:
    b = bezel.Bridge.from_pretrained(str(NANO))
    bezel.dump(b, corpus, tmp_path / "a", [NAME], rows_per_shard=512, verbose=False)
    assert bytes_of(tmp_path / "a") == bytes_of(whole)


def test_check_and_info_speak_of_it(whole: Path) -> None:
    done = bezel_main("store", "check", str(whole), "--full")
    assert done.returncode == 0
    assert done.stdout.endswith("sound, complete, 3072 of 3072 rows\n")
    info = bezel_main("store", "info", str(whole)).stdout
    assert f"{NAME}  [row d_model=96] float32" in info
    assert "3072 of 3072 rows, 6 of 6 shards" in info


def test_an_index_shows_all_shards(whole: Path, tmp_path: Path) -> None:
    import h5py

    copy = tmp_path / "acts"
    subprocess.run(["cp", "-r", whole, copy], check=True)
    assert bezel_main("store", "index", str(copy)).returncode == 0
    with h5py.File(copy / "index.h5") as file:
        assert file[f"acts/{NAME}"].shape == (3072, 96)


def test_stores_of_other_names_are_merged(whole: Path, corpus: Path, tmp_path: Path) -> None:
    other = words(corpus, tmp_path / "b")
    other[other.index(NAME)] = "blocks.1.hook_resid_mid"
    assert bezel_main(*other).returncode == 0
    done = bezel_main(
        "store", "merge", str(whole), str(tmp_path / "b"), "--out", str(tmp_path / "c")
    )
    assert done.returncode == 0, done.stderr
    merged = bezel.ActivationStore(tmp_path / "c")
    assert set(merged) == {NAME, "blocks.1.hook_resid_mid"}
    assert np.array_equal(merged[NAME][:], bezel.ActivationStore(whole)[NAME][:])


def test_damage_is_told_with_its_place(whole: Path, tmp_path: Path) -> None:
    copy = tmp_path / "acts"
    subprocess.run(["cp", "-r", whole, copy], check=True)
    shard = copy / "shard-000004.h5"
    shard.chmod(0o644)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 16
    shard.write_bytes(content)
    done = bezel_main("store", "check", str(copy), "--full")
    assert done.returncode == 1
    assert f"shard-000004.h5: /acts/{NAME} block 0" in done.stdout
    assert "DAMAGED" in done.stdout
    assert "--repair" in done.stdout


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--positions", "first"], "'first'; wanted"),
        (["--hooks", "blocks.3.hook_resid_pots"], "hook_resid_post"),
        (["--dtype", "float16"], "invalid choice: 'float16'"),
        (["--corpus", "absent.npy"], "absent.npy does not exist"),
        (["--batch", "0"], "batch is 0"),
        (["--device", "cuda:9"], "cuda"),
    ],
)  # fmt: skip
def test_bad_usage_exits_with_2(corpus: Path, tmp_path: Path, more: list[str], told: str) -> None:
    done = bezel_main(*words(corpus, tmp_path / "a", *more))
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "a").exists()


def test_a_store_that_is_none_exits_with_2(tmp_path: Path) -> None:
    for command in ("check", "info", "index"):
        done = bezel_main("store", command, str(tmp_path))
        assert done.returncode == 2
        assert "MANIFEST.json" in done.stderr


SLOW = """
import sys, time
import bezel
from bezel.main import main
run = bezel.Bridge.run_with_cache
def slow(*arguments, **options):
    time.sleep({seconds})
    return run(*arguments, **options)
bezel.Bridge.run_with_cache = slow
print("loaded", flush=True)
sys.exit(main(sys.argv[1:]))
"""


def started(*arguments: str, seconds: float) -> subprocess.Popen[str]:
    """A dump whose batches take some time, once its first shard may be on its way."""
    child = subprocess.Popen(
        [sys.executable, "-c", SLOW.format(seconds=seconds), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | ONE_THREAD,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "loaded\n"
    return child


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ctrl_c_drops_the_open_shard(whole: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "a"
    child = started(*words(corpus, out), seconds=0.3)
    wait_for(lambda: (out / "shard-000001.h5").exists())
    child.send_signal(signal.SIGINT)
    _, told = child.communicate(timeout=20)
    assert child.returncode == 3
    assert "interrupted; what is sealed stays, --resume goes on" in told
    assert not list(out.glob("*.partial"))
    assert bezel_main("store", "check", str(out)).returncode == 0
    assert bezel_main(*words(corpus, out)).returncode == 2
    assert bezel_main(*words(corpus, out, "--resume")).returncode == 0
    assert bytes_of(out) == bytes_of(whole)


def test_a_second_writer_is_refused(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "a"
    child = started(*words(corpus, out), seconds=60)
    wait_for(lambda: (out / "journal-0.log").exists())
    try:
        refused = bezel_main(*words(corpus, out, "--resume"))
    finally:
        child.kill()
        child.communicate()
    assert refused.returncode == 2
    assert "another writer holds it" in refused.stderr


def test_a_dump_that_is_killed_at_any_moment_goes_on(
    whole: Path, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a"
    moments = random.Random(0)
    for _ in range(4):
        child = started(*words(corpus, out, "--resume"), seconds=0.02)
        try:
            child.wait(timeout=moments.uniform(0.2, 1.2))
        except subprocess.TimeoutExpired:
            child.kill()
        child.communicate()
        if (out / "MANIFEST.json").exists():
            assert bezel_main("store", "check", str(out), "--full").returncode == 0
    assert bezel_main(*words(corpus, out, "--resume")).returncode == 0
    assert bytes_of(out) == bytes_of(whole)


def rank_words(corpus: Path, out: Path, n_ranks: int, *more: str) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_ranks}"]
    return [sys.executable, *launcher, "-m", "bezel.dump", *words(corpus, out, *more)[1:]]


def test_two_ranks_write_what_one_does(whole: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "a"
    environment = os.environ | ONE_THREAD
    done = subprocess.run(
        rank_words(corpus, out, 2), capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.glob("journal-*")} == {"journal-0.log", "journal-1.log"}
    assert bezel_main("store", "check", str(out), "--full").returncode == 0
    assert bytes_of(out) == bytes_of(whole)


def rank_of_two(rank: int, *arguments: str) -> subprocess.Popen[bytes]:
    """The first one is the slower."""
    numbers = {"RANK": str(rank), "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "first"}
    return subprocess.Popen(
        [sys.executable, "-c", SLOW.format(seconds=0.1 if rank else 0.3), *arguments],
        env=os.environ | ONE_THREAD | numbers,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("n_after", [1, 3])
def test_a_rank_that_dies_costs_its_open_shard(
    whole: Path, corpus: Path, tmp_path: Path, n_after: int
) -> None:
    """One of two ranks is killed half-way; others go on, as many as there are then."""
    out = tmp_path / "a"
    ranks = [rank_of_two(rank, *words(corpus, out)) for rank in range(2)]
    wait_for(lambda: (out / "shard-000001.h5").exists())
    ranks[0].kill()
    assert ranks[1].wait(timeout=60) == 0
    ranks[0].wait()
    checked = bezel_main("store", "check", str(out), "--full")
    assert (checked.returncode, "unfinished" in checked.stdout) == (0, True)
    for rank in range(n_after):
        numbers = {"RANK": str(rank), "WORLD_SIZE": str(n_after), "TORCHELASTIC_RUN_ID": "second"}
        assert bezel_main(*words(corpus, out, "--resume"), **numbers).returncode == 0
    assert bezel_main("store", "check", str(out), "--full").returncode == 0
    assert bytes_of(out) == bytes_of(whole)


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, Rank(0, 1, 0, "")),
        (
            {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "a"},
            Rank(3, 8, 1, "a"),
        ),
        (
            {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0"},
            Rank(1, 2, 0, "77.0"),
        ),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Rank(0, 1, 0, "")),
    ],
)
def test_launchers_say_which_rank_it_is(environment: dict[str, str], rank: Rank) -> None:
    assert find_rank(environment) == rank


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "2", "WORLD_SIZE": "2", "MASTER_PORT": "1"},
        {"RANK": "0"},
        {"RANK": "a", "WORLD_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": "2"},
        {"SLURM_PROCID": "-1", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "1"},
    ],
)
def test_contradicting_variables_are_refused(environment: dict[str, str]) -> None:
    with pytest.raises(ArgumentError, match="wanted|set one"):
        find_rank(environment)


def test_the_report_of_a_manifest_is_data(whole: Path) -> None:
    request = json.loads((whole / "MANIFEST.json").read_text())["request"]
    assert request["corpus"]["tokens"] == 3072
    assert request["model"]["n_layers"] == 10
