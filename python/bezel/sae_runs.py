"""The part of a Bridge that runs with sparse autoencoders of one call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Unpack

import torch

from bezel.arguments import ForwardArguments, ModelInput, Result
from bezel.cache import ActivationCache
from bezel.sae import SAE
from bezel.sae_values import SaeValues
from bezel.selection import NamesFilter


class SaeRuns(SaeValues):
    """Runs whose SAEs belong to the call."""

    def run_with_saes(
        self,
        input: ModelInput,
        saes: SAE | Iterable[SAE],
        reset_saes_end: bool = True,
        use_error_term: bool = False,
        **arguments: Unpack[ForwardArguments],
    ) -> Result:
        """`forward` with SAEs in the model.

        Args:
            input: As in `forward`.
            saes: One or several; each must be reached by the run.
            reset_saes_end: False lets them stay attached (not when the run raises).
            use_error_term: As in `add_sae`; then the result is that of the plain run: bit for bit,
                except where an SAE inside attention or the experts keeps a fused kernel away.
            **arguments: As in `forward`.

        Returns:
            What `forward` returns: logits [batch pos d_vocab] …

        Raises:
            HookNeverFiredError: The run ends before an SAE.
            UnknownHookError, HookNotApplicableError, ArgumentError: As in `add_sae`.

        Example:
            >>> logits = b.run_with_saes("A and B", saes=[sae])
        """
        with self._open_saes(saes, reset_saes_end, use_error_term):
            return self.forward(input, **arguments)

    def run_with_cache_with_saes(
        self,
        input: ModelInput,
        names_filter: NamesFilter = None,
        *,
        saes: SAE | Iterable[SAE],
        reset_saes_end: bool = True,
        use_error_term: bool = False,
        **arguments: Any,
    ) -> tuple[Result, ActivationCache | dict[str, torch.Tensor]]:
        """`run_with_cache` with SAEs in the model.

        Args:
            input: As in `forward`.
            names_filter: As in `run_with_cache`; names of SAE values too. None keeps them all.
            saes: As in `run_with_saes`.
            reset_saes_end: As in `run_with_saes`.
            use_error_term: As in `add_sae`.
            **arguments: As in `run_with_cache`.

        Returns:
            (what `forward` returns, the cache); features are [… d_sae].

        Raises:
            HookNeverFiredError: The run ends before an SAE.
            UnknownHookError, HookNotApplicableError, ArgumentError: As in `add_sae`.

        Example:
            >>> _, cache = b.run_with_cache_with_saes("A and B", saes=[sae])
            >>> features = cache[f"{sae.cfg.hook_name}.hook_sae_acts_post"]
        """
        with self._open_saes(saes, reset_saes_end, use_error_term):
            return self.run_with_cache(input, names_filter, **arguments)

    def run_with_hooks_with_saes(
        self,
        input: ModelInput,
        *,
        saes: SAE | Iterable[SAE],
        reset_saes_end: bool = True,
        use_error_term: bool = False,
        **arguments: Any,
    ) -> Result:
        """`run_with_hooks` with SAEs in the model.

        Args:
            input: As in `forward`.
            saes: As in `run_with_saes`.
            reset_saes_end: As in `run_with_saes`.
            use_error_term: As in `add_sae`.
            **arguments: fwd_hooks, bwd_hooks and the rest, as in `run_with_hooks`.

        Returns:
            What `forward` returns.

        Raises:
            HookNeverFiredError: The run ends before an SAE.
            UnknownHookError, HookNotApplicableError, ArgumentError: As in `add_sae`.

        Example:
            >>> def ablate(features, hook):
            ...     features[:, :, 7] = 0
            >>> hooks = [(f"{sae.cfg.hook_name}.hook_sae_acts_post", ablate)]
            >>> logits = b.run_with_hooks_with_saes("A and B", saes=[sae], fwd_hooks=hooks)
        """
        with self._open_saes(saes, reset_saes_end, use_error_term):
            return self.run_with_hooks(input, **arguments)
