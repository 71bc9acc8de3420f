"""The checkpoint's own Hugging Face processor: from images, videos and sound to tensors."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from bezel.errors import ArgumentError

_FILES = ("processor_config.json", "preprocessor_config.json")


class ProcessorSource:
    """Where a processor comes from; a folder's is loaded when it is first asked for."""

    def __init__(self, folder: Path | None = None, given: Any | None = None) -> None:
        self._folder = folder
        self._given = given

    def get(self) -> Any | None:
        """The processor, or None."""
        return self._given if self._given is not None else self._found[0]

    def wanted(self) -> Any:
        """The processor. Raises ArgumentError that says why there is none."""
        processor = self.get()
        if processor is None:
            raise ArgumentError(
                f"this needs the model's processor, and {self._found[1]}; or give processor= to "
                "from_pretrained, or tensors (pixel_values …) to the run itself"
            )
        return processor

    @functools.cached_property
    def _found(self) -> tuple[Any | None, str]:
        """(it, why not)."""
        if self._folder is None:
            return None, "this model was not loaded from a folder"
        if not any((self._folder / file).exists() for file in _FILES):
            return None, f"{self._folder} has neither {' nor '.join(_FILES)}"
        try:
            from transformers import AutoProcessor

            return AutoProcessor.from_pretrained(self._folder), ""
        except ImportError as error:
            why = f'transformers could not make it: pip install "bezel[media]" ({error})'
            return None, why
        except (OSError, ValueError) as error:
            return None, f"transformers could not read that of {self._folder}: {error}"
