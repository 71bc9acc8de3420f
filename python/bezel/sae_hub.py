"""The folder of an SAE: a local one, or one inside a repository of the Hugging Face hub."""

from __future__ import annotations

import glob
from pathlib import Path, PurePosixPath

from bezel.errors import ArgumentError, CheckpointError
from bezel.loading import HubFiles, hub_folder, local_folder
from bezel.sae_files import LAYOUTS, has_layout

_RELEASES = (
    ". What SAELens calls a release stands for a repository and a path in it: give that as name, "
    "and the path as subfolder="
)


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
    folder = local_folder(name, revision, hint=_RELEASES)
    if folder is not None:
        return folder / inside
    patterns = [glob.escape(str(inside / file)) for files in LAYOUTS for file in files]
    files = HubFiles(name, revision, patterns)
    what = subfolder or "an SAE"
    found = hub_folder(files, what, lambda at: has_layout(at / inside), local_files_only) / inside
    if not has_layout(found):
        raise CheckpointError(
            f"{name}: no SAE at {subfolder or 'the top of the repository'}; its files are "
            f"{' or '.join(' and '.join(layout) for layout in LAYOUTS)}. Either they are in "
            "another folder of the repository: say in which, with subfolder=. Or they are not in "
            "the cache, which has other files of the repository, and the hub could not be reached: "
            "try again with a network"
        )
    return found
