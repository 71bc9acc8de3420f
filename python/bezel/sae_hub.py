"""The folder of an SAE: a local one, or one inside a repository of the Hugging Face hub."""

from __future__ import annotations

import glob
from pathlib import Path, PurePosixPath
from typing import Any

from bezel.errors import ArgumentError, CheckpointError
from bezel.sae_files import LAYOUTS, has_layout


def find_folder(
    name: str, subfolder: str | None, revision: str | None, local_files_only: bool
) -> Path:
    """The folder itself, or its snapshot from the Hugging Face cache or hub.

    Raises:
        ArgumentError: The arguments contradict each other.
        CheckpointError: There is no such folder, nor repository, or it could not be reached.
    """
    inside = PurePosixPath(subfolder or "")
    if inside.is_absolute() or ".." in inside.parts:
        raise ArgumentError(f"subfolder is {subfolder!r}; wanted a path inside {name}")
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ArgumentError(f"revision={revision!r} was given for the local folder {name}")
        return folder / inside
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CheckpointError(
            f"{name}: no such folder, and not a hub id (organisation/repository). What SAELens "
            "calls a release stands for a repository and a path in it: give that as name, and the "
            "path as subfolder="
        )
    cached = _snapshot(name, inside, revision, local_files_only=True)
    if cached is not None and has_layout(cached / inside):
        return cached / inside
    if local_files_only:
        raise CheckpointError(
            f"{name}: {subfolder or 'an SAE'} is not (or not wholly) in the Hugging Face cache, "
            "and local_files_only=True; fetch it once with local_files_only=False"
        )
    fetched = _snapshot(name, inside, revision, local_files_only=False)
    assert fetched is not None
    if not has_layout(fetched / inside):
        raise CheckpointError(
            f"{name}: no SAE at {subfolder or 'the top of the repository'}; its files are "
            f"{' or '.join(' and '.join(files) for files in LAYOUTS)}. Say in which folder of the "
            "repository they are: subfolder="
        )
    return fetched / inside


def _snapshot(
    name: str, inside: PurePosixPath, revision: str | None, local_files_only: bool
) -> Path | None:
    """The snapshot with the files of one folder; None where nothing of it is cached."""
    hub = _hub(name)
    wanted = [glob.escape(str(inside / file)) for files in LAYOUTS for file in files]
    try:
        return Path(
            hub.snapshot_download(
                name, revision=revision, local_files_only=local_files_only, allow_patterns=wanted
            )
        )
    except hub.errors.LocalEntryNotFoundError as error:
        if local_files_only:
            return None
        raise CheckpointError(f"{name}: the hub could not be reached: {error}") from error
    except hub.errors.HfHubHTTPError as error:
        raise CheckpointError(f"{name}: the hub refused: {error}") from error


def _hub(name: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise CheckpointError(
            f"{name}: no such folder; to fetch it from the hub: pip install huggingface_hub"
        ) from error
    return huggingface_hub
