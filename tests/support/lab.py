"""What the tests share: checkpoints, reference models and their values, bridges; made once."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from support import checkpoint_forms, exact, exact_towers, fixtures, media, reference
from support.hook_table import Point, hook_points_of
from support.tower_table import tower_points


def load_reference(folder: Path, dtype: torch.dtype, attention: str = "eager") -> nn.Module:
    """The transformers model of a folder, of the class that its config.json names.

    Its audio tower takes library masks always: it reads the additive masks of "eager" inverted.
    """
    config = checkpoint_forms.read_config(folder)
    (architecture,) = config["architectures"]
    parts = {"": attention}
    parts |= {part: attention for part in ("text_config", "vision_config") if part in config}
    if config.get("audio_config"):
        parts["audio_config"] = "sdpa"
    model: nn.Module = getattr(transformers, architecture).from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation=parts,
        experts_implementation="eager",
    )
    return model.eval()


class Lab:
    """Everything by the name of a recipe in `fixtures.RECIPES`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        transformers.logging.disable_progress_bar()
        transformers.logging.set_verbosity_error()
        # Caches of the instance: they end with it.
        self.folder = functools.cache(self._folder)
        self.reference = functools.cache(self._reference)
        self.oracle = functools.cache(self._oracle)
        self.media_oracle = functools.cache(self._media_oracle)
        self.bridge = functools.cache(self._bridge)
        self.values = functools.lru_cache(maxsize=24)(self._values)
        self.media_values = functools.lru_cache(maxsize=48)(self._media_values)

    def _folder(self, name: str, form: str = "saved") -> Path:
        """The checkpoint, as transformers saves it or in another valid form."""
        if form == "saved":
            return fixtures.make(name, self.root)
        return checkpoint_forms.in_form(self.folder(name), form, self.root / f"{name}-{form}")

    def _reference(
        self,
        name: str,
        dtype: torch.dtype = torch.float32,
        attention: str = "eager",
        form: str = "saved",
    ) -> nn.Module:
        return load_reference(self.folder(name, form), dtype, attention)

    def _oracle(self, name: str) -> nn.Module:
        return exact.exact(self.reference(name))

    def _media_oracle(self, name: str) -> nn.Module:
        return exact_towers.exact_towers(self.reference(name))

    def _bridge(self, name: str, form: str = "saved", **arguments: Any) -> Any:
        import bezel

        arguments.setdefault("dtype", torch.float32)
        return bezel.Bridge.from_pretrained(self.folder(name, form), **arguments)

    def points(self, name: str) -> list[Point]:
        return hook_points_of(exact.text_model_of(self.reference(name)).config)

    def names(self, name: str) -> list[str]:
        """Every name of the model, the on-demand ones too."""
        return [point.name for point in self.points(name)]

    def _values(self, name: str, length: int, batch: int = 2) -> reference.Values:
        """The float32 reference's values for `fixtures.tokens(length, batch)`."""
        return reference.capture(self.reference(name), fixtures.tokens(length, batch))

    def media_points(self, name: str, case: str) -> list[Point]:
        """Every name that has a value in this case: of the text, and of the towers that run."""
        config = self.reference(name).config
        return self.points(name) + tower_points(config, media.cases(name)[case].inputs)

    def _media_values(self, name: str, case: str, exactly: bool = False) -> reference.Values:
        """The reference's values of a case in `support.media`; exactly: the float64 oracle's."""
        model = self.media_oracle(name) if exactly else self.reference(name)
        return exact_towers.capture_media(model, media.cases(name)[case].inputs)
