"""From a folder or a hub id to the core's model, with its tokenizer where there is one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from bezel import _C
from bezel.errors import ArgumentError, CheckpointError

_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer*"]
_SECONDS_BEFORE_BAR = 1.0


def find_folder(name: str, revision: str | None, local_files_only: bool) -> Path:
    """The folder of a model: itself, or a snapshot from the Hugging Face cache or hub."""
    folder = local_folder(name, revision)
    if folder is not None:
        return folder
    return hub_folder(HubFiles(name, revision, _FILES), "the model", _is_complete, local_files_only)


def local_folder(name: str, revision: str | None, hint: str = "") -> Path | None:
    """The folder of this name; None for what looks like a hub id.

    Raises:
        ArgumentError: A revision was given for a folder.
        CheckpointError: It is neither; with the hint.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ArgumentError(f"revision={revision!r} was given for the local folder {name}")
        return folder
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CheckpointError(f"{_neither(name)}{hint}")
    return None


class HubFiles(NamedTuple):
    """Files of one repository of the Hugging Face hub."""

    name: str
    revision: str | None
    patterns: list[str]

    def snapshot(self, local_files_only: bool) -> Path | None:
        """The folder where they are, or some of them; None where nothing of it is cached."""
        try:
            import huggingface_hub as hub
        except ImportError as error:
            raise CheckpointError(
                f"{self.name}: no such folder; to fetch it from the hub: pip install "
                "huggingface_hub"
            ) from error
        try:
            return Path(
                hub.snapshot_download(
                    self.name,
                    revision=self.revision,
                    local_files_only=local_files_only,
                    allow_patterns=self.patterns,
                )
            )
        except hub.errors.HFValidationError as error:
            raise CheckpointError(f"{_neither(self.name)}: {error}") from error
        except hub.errors.LocalEntryNotFoundError as error:
            if local_files_only:
                return None
            raise CheckpointError(f"{self.name}: the hub could not be reached: {error}") from error
        except hub.errors.HfHubHTTPError as error:
            raise CheckpointError(f"{self.name}: the hub refused: {error}") from error


def hub_folder(
    files: HubFiles, what: str, is_complete: Callable[[Path], bool], local_files_only: bool
) -> Path:
    """The snapshot in the Hugging Face cache where it is complete; else the hub is asked.

    What the hub then gives may lack files too: those that the repository does not have, and those
    that were not cached, where the hub could not be reached.

    Raises:
        CheckpointError: There is none, or it could not be reached, or `what` is not cached and
            nobody else may be asked.
    """
    cached = files.snapshot(local_files_only=True)
    if cached is not None and is_complete(cached):
        return cached
    if local_files_only:
        raise CheckpointError(
            f"{files.name}: {what} is not (or not wholly) in the Hugging Face cache, and "
            "local_files_only=True; fetch it once with local_files_only=False"
        )
    fetched = files.snapshot(local_files_only=False)
    assert fetched is not None
    return fetched


def _neither(name: str) -> str:
    return (
        f"{name}: no such folder, and not a hub id (organisation/repository, each of letters, "
        'digits, "-", "_" and ".")'
    )


def _is_complete(folder: Path) -> bool:
    if not (folder / "config.json").exists():
        return False
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return (folder / "model.safetensors").exists()
    shards = set(json.loads(index.read_text())["weight_map"].values())
    return all((folder / shard).exists() for shard in shards)


def load_model(
    folder: Path,
    dtype: torch.dtype | None,
    device: torch.device | str,
    modalities: Iterable[str] | None = None,
) -> _C.Bridge:
    """The core's model; a progress bar appears when loading takes longer than a second."""
    with tqdm(
        desc=f"loading {folder.name}",
        unit="B",
        unit_scale=True,
        delay=_SECONDS_BEFORE_BAR,
        leave=False,
        disable=None,  # where nobody watches
    ) as bar:

        def on_progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return _C.load(
            folder, dtype, find_device(device), chosen_modalities(modalities), on_progress
        )


def chosen_modalities(names: Iterable[str] | None) -> _C.Modalities:
    """What is loaded beside text; None: all that the checkpoint has.

    Raises:
        ArgumentError: A word that is none of "text", "vision" and "audio".
    """
    chosen = _C.Modalities()
    if names is None:
        return chosen
    words = {names} if isinstance(names, str) else set(names)
    unknown = words - {"text", "vision", "audio"}
    if unknown:
        raise ArgumentError(
            f'modalities holds {sorted(unknown)[0]!r}; wanted "text", "vision" and "audio"'
        )
    if "vision" not in words:
        chosen.vision = _C.Load.never
    if "audio" not in words:
        chosen.audio = _C.Load.never
    return chosen


def make_trainable(core: _C.Bridge) -> None:
    """Makes every weight a leaf that gathers its gradient."""
    for _, weight in core.named_weights():
        weight.requires_grad_(True)


def find_device(device: torch.device | str) -> torch.device:
    """The device that was asked for, where bezel and this machine have it."""
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ArgumentError(f"device {str(device)!r} is none that torch knows: {error}") from error
    n_devices = torch.cuda.device_count()
    if wanted.type == "cuda" and (wanted.index or 0) >= n_devices:
        raise ArgumentError(
            f"device {str(wanted)!r} was asked for; torch finds {n_devices or 'no'} CUDA devices"
        )
    if wanted.type not in ("cpu", "cuda"):
        raise ArgumentError(f"device {str(wanted)!r} was asked for; bezel runs on cpu and cuda")
    return wanted


def load_tokenizer(folder: Path) -> Any | None:
    """The folder's tokenizer, as transformers loads it; None when the folder has none."""
    if not (folder / "tokenizer.json").exists():
        return None
    try:
        from transformers import AutoTokenizer
    except ImportError:
        return None
    return AutoTokenizer.from_pretrained(folder)
