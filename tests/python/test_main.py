"""The command `bezel`: what it prints, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest

import bezel
from bezel import main as command
from bezel.reference import capturing
from support.references import NANO, Bundles

run = command.main


def test_reference_writes_a_file_and_says_so(
    bundles: Bundles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ref.h5"
    options = ["--new-tokens", "3", "--sample", "4", "5", "--layer-by-layer", "--quiet"]
    assert run(["reference", str(bundles.folder("mha")), "--out", str(out), *options]) == 0
    printed = capsys.readouterr()
    assert str(out) in printed.out
    assert "MB" in printed.out
    assert printed.err == ""
    prose = bezel.reference.read(out).outcomes["prose"]
    assert prose.greedy.tokens.shape == (1, 3)
    assert prose.acts["hook_embed"].value.shape == (1, 4, 5)


def test_hooks_lists_every_name_with_its_shape(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["hooks", str(NANO)]) == 0
    lines = capsys.readouterr().out.splitlines()
    points = bezel.Bridge.from_pretrained(str(NANO)).hook_points()
    assert [line.split()[0] for line in lines] == [point.name for point in points]
    line = next(line for line in lines if line.startswith("blocks.4.attn.hook_z "))
    assert "[batch pos head=4 d_head=64]" in line
    assert "pattern times values" in line
    assert any("on demand" in line for line in lines if "hook_result" in line)
    assert not any("on demand" in line for line in lines if "hook_pattern" in line)


def test_hooks_keeps_names_that_hold_a_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["hooks", str(NANO), "--like", "rot_k"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [f"blocks.{i}.attn.hook_rot_k" for i in range(6)]
    assert run(["hooks", str(NANO), "--like", "nothing_like_it"]) == 2
    assert "nothing_like_it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["nothing"], ["reference"], ["reference", "x"], ["hooks"],
        ["reference", "x", "--out", "y", "--sample", "1"],
        ["reference", "x", "--out", "y", "--new-tokens", "many"],
    ],
)  # fmt: skip
def test_bad_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(arguments)
    assert caught.value.code == 2
    assert "usage: bezel" in capsys.readouterr().err


def test_bad_input_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "ref.h5")
    for arguments in (
        ["reference", str(tmp_path / "absent"), "--out", out],
        ["reference", str(tmp_path), "--out", out],
        ["reference", str(NANO), "--out", str(tmp_path)],
        ["reference", str(NANO), "--out", out, "--device", "mps"],
        ["reference", str(NANO), "--out", out, "--device", "no such thing"],
        ["reference", str(NANO), "--out", out, "--new-tokens", "0"],
        ["reference", str(NANO), "--out", out, "--sample", "0", "1"],
        ["hooks", str(tmp_path)],
    ):
        assert run(arguments) == 2, arguments
        printed = capsys.readouterr()
        assert printed.err.startswith(f"bezel {arguments[0]}: ")
        assert printed.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_interrupt_ends_with_3_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(capturing.Gatherer, "take", interrupted)
    assert run(["reference", str(NANO), "--out", str(tmp_path / "ref.h5"), "--quiet"]) == 3
    assert "interrupted" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def start(tmp_path: Path, **streams: Any) -> subprocess.Popen[bytes]:
    package = str(Path(bezel.__file__).parents[1])
    return subprocess.Popen(
        [
            sys.executable, "-m", "bezel.main", "reference", str(NANO),
            "--out", str(tmp_path / "ref.h5"), "--new-tokens", "400", "--layer-by-layer",
        ],
        env=os.environ | {"PYTHONPATH": package},
        **streams,
    )  # fmt: skip


def test_ctrl_c_in_a_terminal_ends_with_3_under_a_progress_bar(tmp_path: Path) -> None:
    """Standard error is a terminal here, so that the bar is drawn."""
    leader, follower = os.openpty()
    termios.tcsetwinsize(leader, (24, 80))
    process = start(tmp_path, stderr=follower, stdout=subprocess.PIPE)
    os.close(follower)
    seen = b""
    deadline = time.monotonic() + 120
    while b"reference of nano" not in seen and time.monotonic() < deadline:
        seen += os.read(leader, 4096)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 3
    assert b"%" in seen
    assert not list(tmp_path.iterdir())
    os.close(leader)


def test_no_bar_is_drawn_where_nobody_watches(tmp_path: Path) -> None:
    process = start(tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    time.sleep(8)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    assert b"%|" not in errors
    assert errors.splitlines()[-1] == b"bezel reference: interrupted; nothing was written"
