"""One matrix for each layer: a stack where all shapes agree, else a list that says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, NoReturn, TypeVar

import torch

from bezel.errors import ArgumentError, NoSuchWeightError
from bezel.factored_matrix import FactoredMatrix

T = TypeVar("T")  # torch.Tensor or FactoredMatrix


class PerLayer(Generic[T]):
    """The matrices of layers that differ in shape, each made when it is asked for.

    `W[3]` is layer 3's; `W[3, 2]` goes on into it; `W.stack([0, 1, 2])` stacks layers that agree.

    Attributes:
        shapes: Of each layer's matrix.
    """

    def __init__(self, name: str, n_layers: int, at: Callable[[int], T]) -> None:
        self._name = name
        self._n_layers = n_layers
        self._at = at
        self.shapes = [tuple(matrix.shape) for matrix in _each(at, n_layers)]

    def __len__(self) -> int:
        return self._n_layers

    def __iter__(self) -> Iterator[T]:
        return (self._at(layer) for layer in range(self._n_layers))

    def __getitem__(self, index: Any) -> Any:
        """`W[layer]`, or `W[layer, …]` with the rest as an index into that layer's matrix."""
        layer, *rest = index if isinstance(index, tuple) else (index,)
        if isinstance(layer, bool) or not isinstance(layer, int):
            raise ArgumentError(
                f"{self._name}[{index!r}]: {self._why()}; the first index is one layer. Take "
                f"{self._name}.stack(layers) for several that agree"
            )
        if not -self._n_layers <= layer < self._n_layers:
            raise IndexError(f"{self._name}[{layer}]: the model has {self._n_layers} layers")
        matrix: Any = self._at(layer % self._n_layers)
        return matrix[tuple(rest)] if rest else matrix

    def stack(self, layers: Iterable[int] | None = None) -> T:
        """The matrices of some layers (None: of all) as one [layer …], a copy.

        Raises:
            ArgumentError: Where their shapes differ.
        """
        chosen = range(self._n_layers) if layers is None else list(layers)
        matrices = [self[layer] for layer in chosen]
        if not matrices or not _agree(matrices):
            raise ArgumentError(f"{self._name}.stack({layers}): {self._why()}")
        stack: T = _stacked(matrices)
        return stack

    @property
    def shape(self) -> NoReturn:
        """There is no one shape; `shapes` has each layer's."""
        raise NoSuchWeightError(f"{self._name}.shape: {self._why()}; see .shapes")

    def _why(self) -> str:
        return f"layers differ in shape ({_groups(self.shapes)})"

    def __repr__(self) -> str:
        return f"PerLayer({self._name}: {_groups(self.shapes)})"

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> NoReturn:
        """Torch's functions are told why there is no one tensor."""
        mine = next(part for part in _flat((args, kwargs or {})) if isinstance(part, cls))
        raise ArgumentError(
            f"{getattr(function, '__name__', function)} of {mine._name}: {mine._why()}; take one "
            f"layer, {mine._name}[3], or {mine._name}.stack(layers) of layers that agree"
        )

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise ArgumentError(f"{self._name} as an array: {self._why()}; take one layer")


def stack_or_list(name: str, n_layers: int, at: Callable[[int], T]) -> T | PerLayer[T]:
    """[layer …] where the shapes of all layers agree, else a PerLayer."""
    matrices = _each(at, n_layers)
    if not _agree(matrices):
        return PerLayer(name, n_layers, at)
    stack: T = _stacked(matrices)
    return stack


def _each(at: Callable[[int], Any], n_layers: int) -> list[Any]:
    return [at(layer) for layer in range(n_layers)]


def _stacked(matrices: list[Any]) -> Any:
    if isinstance(matrices[0], torch.Tensor):
        return torch.stack(matrices)
    factors = zip(*(matrix.pair for matrix in matrices), strict=True)
    return FactoredMatrix(*(torch.stack(factor) for factor in factors))


def _shapes(matrix: Any) -> list[torch.Size]:
    return [part.shape for part in ([matrix] if isinstance(matrix, torch.Tensor) else matrix.pair)]


def _agree(matrices: list[Any]) -> bool:
    return all(_shapes(matrix) == _shapes(matrices[0]) for matrix in matrices)


def _groups(shapes: list[tuple[int, ...]]) -> str:
    """[(2, 3), (2, 3), (2, 4)] → "[2, 3] in layers 0, 1; [2, 4] in layer 2"."""
    layers: dict[tuple[int, ...], list[str]] = {}
    for layer, shape in enumerate(shapes):
        layers.setdefault(shape, []).append(str(layer))
    return "; ".join(
        f"{list(shape)} in layer{'s' * (len(at) > 1)} {', '.join(at)}"
        for shape, at in layers.items()
    )


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _flat(part)
    else:
        yield value
