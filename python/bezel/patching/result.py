"""What a sweep returns when it is asked for more than one number for each cell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from bezel.errors import ArgumentError
from bezel.patching.cells import Cells, as_frame


@dataclass
class PatchingResult:
    """Values of a sweep by metric, cell and row.

    Attributes:
        values: [metric? cell axes … batch?]: the metric axis where a mapping of metrics was given,
            the batch axis where reduce="none".
        baseline: [metric? batch?], of the unpatched corrupted run; None where it was not asked for.
        axis_names: Names of the cell axes; those of the index where index_df was given.
        metric_names: ["metric"] where one function was given.
        reduced: False where the batch axis is there.
        cells: The index of every cell.
        has_metric_axis: True where a mapping of metrics was given.

    Example:
        >>> _, cache = b.run_with_cache(["Of 7 and 22", "Of 5 and 9"])
        >>> result = get_act_patch_resid_mid(
        ...     b, ["Of 7 and 4", "Of 5 and 4"], cache, lambda logits: logits[:, -1, 9],
        ...     reduce="none", baseline=True)
        >>> result.values.shape, result.baseline.shape  # [layer pos batch], [batch]
        (torch.Size([10, 5, 2]), torch.Size([2]))
    """

    values: torch.Tensor
    baseline: torch.Tensor | None
    axis_names: list[str]
    metric_names: list[str]
    reduced: bool
    cells: Cells
    has_metric_axis: bool

    @property
    def index_df(self) -> Any:
        """The index of every cell, as a pandas.DataFrame."""
        return as_frame(self.cells)

    def __getitem__(self, metric: str) -> PatchingResult:
        """One metric's values."""
        if metric not in self.metric_names:
            raise ArgumentError(f"there is no metric {metric!r}; there are {self.metric_names}")
        if not self.has_metric_axis:
            return self
        i = self.metric_names.index(metric)
        baseline = None if self.baseline is None else self.baseline[i]
        return PatchingResult(
            self.values[i], baseline, self.axis_names, [metric], self.reduced, self.cells, False
        )

    def mean(self) -> torch.Tensor:
        """The mean over rows, [metric? cell axes …].

        Example:
            >>> _, cache = b.run_with_cache(["Of 7 and 22", "Of 5 and 9"])
            >>> result = get_act_patch_resid_mid(
            ...     b, ["Of 7 and 4", "Of 5 and 4"], cache, lambda logits: logits[:, -1, 9],
            ...     reduce="none", baseline=True)
            >>> torch.equal(result.mean(), result.values.mean(-1))
            True
        """
        return self.values if self.reduced else self.values.mean(-1)

    def stderr(self) -> torch.Tensor:
        """The standard error of that mean. Raises ArgumentError where rows were reduced.

        Example:
            >>> _, cache = b.run_with_cache(["Of 7 and 22", "Of 5 and 9"])
            >>> result = get_act_patch_resid_mid(
            ...     b, ["Of 7 and 4", "Of 5 and 4"], cache, lambda logits: logits[:, -1, 9],
            ...     reduce="none", baseline=True)
            >>> result.stderr().shape  # [layer pos]
            torch.Size([10, 5])
        """
        if self.reduced:
            raise ArgumentError('stderr needs a value for each row; sweep with reduce="none"')
        return self.values.std(-1) / math.sqrt(self.values.shape[-1])

    def effect(self) -> torch.Tensor:
        """What the patch changes: values - baseline, with the axes of values.

        Example:
            >>> _, cache = b.run_with_cache(["Of 7 and 22", "Of 5 and 9"])
            >>> result = get_act_patch_resid_mid(
            ...     b, ["Of 7 and 4", "Of 5 and 4"], cache, lambda logits: logits[:, -1, 9],
            ...     reduce="none", baseline=True)
            >>> effect = result.effect()
            >>> torch.allclose(effect[0, :4], torch.zeros(4, 2), atol=1e-4)  # only "4" was another
            True
        """
        return self.values - self._spread(self.baseline)

    def normalized(self, clean_baseline: torch.Tensor) -> torch.Tensor:
        """0 where a patch does nothing, 1 where it restores the clean run's metric.

        Args:
            clean_baseline: The metric of the clean run, with the shape of `baseline`.

        Returns:
            (values - corrupted) / (clean - corrupted), with the axes of values; where the two runs
            do not differ, infinite or NaN.

        Example:
            >>> _, cache = b.run_with_cache(["Of 7 and 22", "Of 5 and 9"])
            >>> result = get_act_patch_resid_mid(
            ...     b, ["Of 7 and 4", "Of 5 and 4"], cache, lambda logits: logits[:, -1, 9],
            ...     reduce="none", baseline=True)
            >>> clean = b(["Of 7 and 22", "Of 5 and 9"])[:, -1, 9]
            >>> result.normalized(clean).shape  # [layer pos batch]
            torch.Size([10, 5, 2])
        """
        corrupted = self._spread(self.baseline)
        clean = self._spread(torch.as_tensor(clean_baseline).to(self.values))
        return (self.values - corrupted) / (clean - corrupted)

    def _spread(self, baseline: torch.Tensor | None) -> torch.Tensor:
        if baseline is None:
            raise ArgumentError("this needs the unpatched run's metric; sweep with baseline=True")
        if self.baseline is not None and baseline.shape != self.baseline.shape:
            raise ArgumentError(
                f"clean_baseline is {list(baseline.shape)}; wanted {list(self.baseline.shape)}"
            )
        front, back = int(self.has_metric_axis), int(not self.reduced)
        ones = (1,) * (self.values.ndim - front - back)
        return baseline.reshape(*baseline.shape[:front], *ones, *baseline.shape[front:])
