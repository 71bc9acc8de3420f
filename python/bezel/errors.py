"""What bezel raises. Each error is a `bezel.Error` and the built-in that fits it."""

from __future__ import annotations


class Error(Exception):
    """Base of every error that a user of the library can cause."""

    def __str__(self) -> str:  # KeyError would show the quoted form
        return str(self.args[0]) if len(self.args) == 1 else super().__str__()


class ArgumentError(Error, ValueError):
    """An argument that contradicts another, or is outside its range."""


class NoSuchWeightError(Error, AttributeError):
    """A weight, or a property of one, that this model or layer does not have."""


class UnknownHookError(Error, KeyError):
    """A hook name that no model knows; the message has the nearest names."""


class HookNotApplicableError(Error, ValueError):
    """A hook name that this layer or checkpoint does not have; the message has the reason."""


class HookNeverFiredError(Error, RuntimeError):
    """A hook that cannot fire in this call, for example beyond stop_at_layer."""


class HookResultError(Error, TypeError):
    """A hook returned something that cannot stand in for the value it was given."""


class CacheTooLargeError(Error, MemoryError):
    """The values asked for do not fit in the memory at hand; the message has cheaper choices."""


class CheckpointError(Error, ValueError):
    """A checkpoint that cannot be used; the classes below say why."""


class FormatError(CheckpointError):
    """A file that is damaged or not what its format demands."""


class UnsupportedError(CheckpointError):
    """A valid checkpoint that asks for something bezel does not compute."""


class ModelMismatchError(CheckpointError):
    """Weights that do not belong to the configuration beside them."""


class ResourceLimitError(CheckpointError):
    """A checkpoint larger than the limits that protect the reader."""


class StoreError(Error, OSError):
    """A file that cannot be written, or is damaged, foreign or of another schema."""


class DecompositionError(Error, ValueError):
    """Parts that do not sum to what the run recorded; the message has the place."""
