"""SAEs come from the Hugging Face cache and hub, from folders inside of repositories."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import bezel
from bezel.errors import ArgumentError, CheckpointError, FormatError
from support import saes

huggingface_hub = pytest.importorskip("huggingface_hub")

REPO = "some-lab/scope"
INSIDE = "resid_post/layer_3_width_16k_l0_medium"
AT = "blocks.3.hook_resid_post"
REVISION = "0123456789012345678901234567890123456789"


def cached(home: Path, subfolder: str = INSIDE, revision: str = REVISION, seed: int = 0) -> Any:
    """An SAE as huggingface_hub keeps it: files are links to blobs, and main is a revision."""
    repo = home / "hub" / f"models--{REPO.replace('/', '--')}"
    folder = repo / "snapshots" / revision / subfolder
    sae = saes.random_sae("standard", 6, AT, seed=seed)
    sae.save_model(folder)
    (repo / "blobs").mkdir(exist_ok=True)
    for file in list(folder.iterdir()):
        blob = repo / "blobs" / f"{revision}-{subfolder.replace('/', '-')}-{file.name}"
        file.rename(blob)
        file.symlink_to(os.path.relpath(blob, folder))
    (repo / "refs").mkdir(exist_ok=True)
    (repo / "refs" / "main").write_text(REVISION)
    return sae


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HF_HOME; the hub is a port at which nobody listens."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    return tmp_path


def test_a_hub_id_is_looked_up_in_the_cache_first(home: Path) -> None:
    sae = cached(home)
    for local_files_only in (False, True):
        again = bezel.SAE.from_pretrained(
            REPO, INSIDE, local_files_only=local_files_only, dtype=torch.float64
        )
        assert torch.equal(again.W_enc, sae.W_enc.double())
        assert again.cfg.hook_name == AT


def test_hf_home_says_where_the_cache_is(tmp_path: Path) -> None:
    sae = cached(tmp_path)
    code = (
        "import bezel; "
        f"print(bezel.SAE.from_pretrained({REPO!r}, {INSIDE!r}, local_files_only=True)"
        ".b_dec.tolist())"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == str(sae.b_dec.tolist())


def test_subfolder_and_revision_choose_among_those_of_a_repository(home: Path) -> None:
    at_top = cached(home, "", seed=1)
    inside = cached(home, seed=2)
    older = cached(home, revision="f" * 40, seed=3)
    load = bezel.SAE.from_pretrained
    assert torch.equal(load(REPO).W_dec, at_top.W_dec)
    assert torch.equal(load(REPO, INSIDE).W_dec, inside.W_dec)
    assert torch.equal(load(REPO, INSIDE, revision="f" * 40).W_dec, older.W_dec)
    assert len({float(sae.W_dec.sum()) for sae in (at_top, inside, older)}) == 3


def test_a_local_folder_has_subfolders_too(tmp_path: Path) -> None:
    sae = saes.random_sae("standard", 6, AT)
    sae.save_model(tmp_path / INSIDE)
    assert torch.equal(bezel.SAE.from_pretrained(tmp_path, INSIDE).W_enc, sae.W_enc)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "cfg.json").touch()
    with pytest.raises(FormatError, match=f"SAEs are in {INSIDE}$"):
        bezel.SAE.from_pretrained(tmp_path)
    with pytest.raises(ArgumentError, match="revision='main'.*local folder"):
        bezel.SAE.from_pretrained(tmp_path, INSIDE, revision="main")


@pytest.mark.parametrize("missing", ["all", "the folder", "a file"])
def test_what_is_not_cached_says_so_when_the_network_may_not_be_asked(
    home: Path, missing: str
) -> None:
    if missing != "all":
        cached(home, "another" if missing == "the folder" else INSIDE)
    for file in home.rglob(f"{INSIDE}/sae_weights.safetensors"):
        file.unlink()
    with pytest.raises(CheckpointError, match=f"{INSIDE} is not.*local_files_only=False"):
        bezel.SAE.from_pretrained(REPO, INSIDE, local_files_only=True)


def test_what_is_not_cached_is_asked_of_the_hub(home: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{REPO}: the hub could not be reached"):
        bezel.SAE.from_pretrained(REPO, INSIDE)


def test_where_the_hub_gives_nothing_new_both_reasons_are_told(home: Path) -> None:
    """The hub is not reached, and huggingface_hub falls back to what is there of the repository."""
    cached(home, "another")
    told = f"{REPO}: no SAE at {INSIDE}.*subfolder=.*not in the cache.*hub could not be reached"
    with pytest.raises(CheckpointError, match=told):
        bezel.SAE.from_pretrained(REPO, INSIDE)


@pytest.mark.parametrize("local_files_only", [False, True])
def test_what_cannot_be_a_hub_id_is_told_what_one_looks_like(
    home: Path, *, local_files_only: bool
) -> None:
    for name in ("goo gle/bad id!", "some-lab/-scope", "some--lab/scope"):
        told = f"{name}: no such folder, and not a hub id.*organisation/repository.*letters"
        with pytest.raises(CheckpointError, match=told):
            bezel.SAE.from_pretrained(name, "x", local_files_only=local_files_only)


def test_only_the_files_of_one_sae_are_fetched(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def download(repo: str, **arguments: Any) -> str:
        if arguments["local_files_only"]:
            raise huggingface_hub.errors.LocalEntryNotFoundError("nothing")
        asked.append(arguments)
        return str(home)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    sae = saes.random_sae("standard", 6, AT)
    sae.save_model(home / "a[1]")
    again = bezel.SAE.from_pretrained(REPO, "a[1]", revision="v2")
    assert torch.equal(again.W_enc, sae.W_enc)
    (arguments,) = asked
    assert arguments["revision"] == "v2"
    every = ["a[1]/cfg.json", "a[1]/params.safetensors", "a1/cfg.json", "b/cfg.json", "cfg.json"]
    fetched = huggingface_hub.utils.filter_repo_objects(
        every, allow_patterns=arguments["allow_patterns"]
    )
    assert list(fetched) == every[:2]
    with pytest.raises(CheckpointError, match=r"no SAE at the top.*cfg.json.*subfolder="):
        bezel.SAE.from_pretrained(REPO)


def test_what_the_hub_refuses_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(huggingface_hub.errors.HfHubHTTPError):  # type: ignore[misc]
        def __init__(self) -> None:
            Exception.__init__(self, "401")

    def download(repo: str, **arguments: Any) -> str:
        if arguments["local_files_only"]:
            raise huggingface_hub.errors.LocalEntryNotFoundError("nothing")
        raise Refused

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(CheckpointError, match=f"{REPO}: the hub refused: 401"):
        bezel.SAE.from_pretrained(REPO, INSIDE)


@pytest.mark.parametrize("name", ["gemma-scope-2-4b-it-res-all", "/nowhere/at-all", "a/b/c", "./x"])
def test_a_name_that_is_neither_says_what_saelens_releases_are(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"no such folder.*SAELens.*subfolder="):
        bezel.SAE.from_pretrained(name)


@pytest.mark.parametrize("subfolder", ["../other", "a/../../b", "/etc"])
def test_a_subfolder_outside_is_refused(tmp_path: Path, subfolder: str) -> None:
    for name in (str(tmp_path), REPO):
        with pytest.raises(ArgumentError, match="subfolder is"):
            bezel.SAE.from_pretrained(name, subfolder)


def test_without_huggingface_hub_a_hub_id_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="pip install huggingface_hub"):
        bezel.SAE.from_pretrained(REPO)


def test_loading_a_hub_id_as_a_folder_says_how_to_load_it() -> None:
    with pytest.raises(FormatError, match="no folder.*from_pretrained"):
        bezel.SAE.load_from_disk(REPO)
