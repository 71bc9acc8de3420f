"""The part of a Bridge that runs the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Unpack, cast

import torch

from bezel import _C, loading
from bezel.arguments import (
    ForwardArguments,
    MediaArguments,
    ModelInput,
    Result,
    core_input,
    labels_of,
)
from bezel.cache import ActivationCache
from bezel.errors import ArgumentError
from bezel.hooks import Contexts, HookPair, RegisteredHook
from bezel.plan import Plan
from bezel.selection import NamesFilter, PosSlice, selectors, start_stop_step
from bezel.standing_hooks import StandingHooks


class Running(StandingHooks):
    """Forward, with a cache, with hooks; and the plan of such a run."""

    def __call__(self, input: ModelInput, **arguments: Unpack[ForwardArguments]) -> Result:
        """`forward`."""
        return self.forward(input, **arguments)

    def forward(self, input: ModelInput, **arguments: Unpack[ForwardArguments]) -> Result:
        """Runs the model.

        Args:
            input: Text or texts; token ids [batch pos] or [pos]; or floats [batch pos d_model]: the
                embeddings, or with start_at_layer the stream entering that block.
            **arguments: return_type: "logits" (the default), "loss", "both" or None.
                loss_per_token: the loss as [batch pos-1] instead of its mean.
                prepend_bos, padding_side: for text, see `to_tokens`.
                attention_mask: [batch pos], 0 at padding; when not given, <pad> ids at the ends of
                rows are padding. position_ids: [batch pos]; counted from
                the mask when not given. pixel_values [image patch d_patch], 0 to 1, with
                image_position_ids [image patch 2], column and row of a patch, -1 at padding;
                pixel_values_videos and video_position_ids [video frame patch …] likewise;
                input_features [audio frame mel], with input_features_mask [audio frame], 0 at
                padding: see `prepare_multimodal_inputs`, which makes them all.
                mm_token_type_ids: [batch pos], 0 text, 1 image, 2 video, 3 audio; as the ids say
                when not given. A media id that the model wrote has type 0: nothing stands for it.
                start_at_layer, stop_at_layer: the blocks to run; with
                stop_at_layer the stream entering that block is returned. logits_to_keep: the last
                positions only.
                labels: [batch pos], -100 is ignored; the tokens when not given. tokens: ids that
                belong to a float input. start_state: values of an earlier run that start_at_layer
                needs, by name. kv_cache: the tokens before these, see `bezel.KvCache`.

        Returns:
            Logits [batch pos d_vocab]; the loss in nats; (logits, loss); or None.

        Raises:
            ArgumentError: Which argument, what it is and what it should be.

        Example:
            >>> logits = b("As Emma knows , the capital of France is")
            >>> b.to_string(logits[0, -1].argmax())
            'Paris'
        """
        return self._run(input, _C.Request(), arguments).result

    def run_with_cache(  # noqa: PLR0913  TransformerLens's signature
        self,
        input: ModelInput,
        names_filter: NamesFilter = None,
        *,
        fwd_hooks: Iterable[HookPair] | None = None,
        bwd_hooks: Iterable[HookPair] | None = None,
        incl_bwd: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        pos_slice: PosSlice | None = None,
        remove_batch_dim: bool = False,
        return_cache_object: bool = True,
        **arguments: Unpack[ForwardArguments],
    ) -> tuple[Result, ActivationCache | dict[str, torch.Tensor]]:
        """Runs the model and keeps what was named.

        Args:
            input: As in `forward`.
            names_filter: A name, a glob ("blocks.*.hook_resid_post"), a compiled regular expression
                (matching the whole name), a callable on names, or several of these; None keeps
                every value that is not on demand.
            fwd_hooks: (name, function) pairs that edit values, see `run_with_hooks`.
            bwd_hooks: The same for gradients.
            incl_bwd: Keep gradients too, as "<name>_grad"; with return_type="loss" backward runs at
                once, otherwise they arrive with your own backward().
            device: Where values are kept; None leaves them.
            dtype: In which floating values are kept; None leaves them.
            pos_slice: Positions to keep of the axes pos and q_pos: an index (its axis stays, with
                length 1), a slice or (start, stop[, step]).
            remove_batch_dim: Drop the batch axis of a batch of one.
            return_cache_object: False gives a plain dict.
            **arguments: As in `forward`.

        Returns:
            (what `forward` returns, the cache).

        Raises:
            UnknownHookError, HookNotApplicableError, HookNeverFiredError: Before the run.
            CacheTooLargeError: Before the run, with cheaper choices.

        Example:
            >>> logits, cache = b.run_with_cache("Emma knows", names_filter="blocks.*.attn.hook_z")
            >>> cache["z", 3].shape  # [batch pos head d_head]
            torch.Size([1, 3, 4, 32])
        """
        backward_at_once = incl_bwd and arguments.get("return_type") == "loss"
        if incl_bwd and not backward_at_once and not return_cache_object:
            raise ArgumentError(
                "incl_bwd: the gradients of a later backward() cannot reach a plain dict; leave "
                'return_cache_object=False out, or take return_type="loss"'
            )
        request = _C.Request()
        for chosen in selectors(names_filter):
            request.record(chosen)
        request.gradients = incl_bwd
        request.device = None if device is None else loading.find_device(device)
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise ArgumentError(f"dtype is {dtype!r}; wanted a floating torch.dtype")
        request.dtype = dtype
        if pos_slice is not None:
            request.keep_positions(*start_stop_step(pos_slice))
        own = self._own(fwd_hooks, bwd_hooks, Contexts())
        run = self._run(input, request, arguments, own)
        if backward_at_once:
            assert isinstance(run.result, torch.Tensor)
            torch.autograd.backward(run.result.sum())
        cache = ActivationCache(run.cache, self)
        if remove_batch_dim:
            cache = cache.remove_batch_dim()
        return run.result, cache if return_cache_object else dict(cache.items())

    def run_with_hooks(
        self,
        input: ModelInput,
        fwd_hooks: Iterable[HookPair] | None = None,
        bwd_hooks: Iterable[HookPair] | None = None,
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        **arguments: Unpack[ForwardArguments],
    ) -> Result:
        """Runs the model with hooks that belong to this call alone.

        Args:
            input: As in `forward`.
            fwd_hooks: (name, function) pairs, applied in order. A name is anything that
                names_filter takes. `function(value, hook=hook)` gets its own copy of the value; it
                returns None to keep that copy, or a tensor of the same shape.
            bwd_hooks: The same with dL/d(value), in your later backward().
            reset_hooks_end: False lets the hooks stand afterwards, as if given to `add_hook` (not
                when the run raises).
            clear_contexts: Empty hook.ctx of these hooks at the end. Otherwise it lives as long
                as they do: for backward hooks, as the graph.
            **arguments: As in `forward`.

        Returns:
            What `forward` returns.

        Raises:
            UnknownHookError, HookNotApplicableError, HookNeverFiredError: Before the run.
            HookResultError: For a result that cannot stand in for the value. An error of a hook
                function comes back as it is.

        Example:
            >>> def zero_head_2(z, hook):
            ...     z[:, :, 2] = 0
            >>> hooks = [("blocks.3.attn.hook_z", zero_head_2)]
            >>> logits = b.run_with_hooks("Emma knows", fwd_hooks=hooks)
            >>> torch.equal(logits, b("Emma knows"))
            False
        """
        contexts = Contexts() if reset_hooks_end else self._standing_contexts
        get_hooks = self._own if reset_hooks_end else self._resolved
        hooks = get_hooks(fwd_hooks, bwd_hooks, contexts)
        try:
            result = self._run(input, _C.Request(), arguments, hooks).result
        finally:
            if clear_contexts:
                contexts.empty(
                    None if reset_hooks_end else {n for hook in hooks for n in hook.names}
                )
        if not reset_hooks_end:
            self._let_stand(hooks)
        return result

    def plan(
        self,
        input_shape: tuple[int, int] | torch.Tensor,
        names_filter: NamesFilter = None,
        fwd_hooks: Iterable[HookPair] | None = None,
        **media: Unpack[MediaArguments],
    ) -> Plan:
        """What such a run would keep, without running: names, shapes, bytes. Prints as a table.

        Args:
            input_shape: (batch, pos); or token ids [batch pos], wanted beside media.
            names_filter: As in `run_with_cache`.
            fwd_hooks: As in `run_with_hooks`.
            **media: pixel_values …, mm_token_type_ids, as in `forward`.

        Raises:
            UnknownHookError, HookNotApplicableError, HookNeverFiredError: As in the run.
            ArgumentError: For media that do not fit the tokens.

        Example:
            >>> print(b.plan((1, 1024), "blocks.3.attn.hook_[qz]"))
            blocks.3.attn.hook_q        0.50 MiB  float32   [1, 1024, 4, 32]
            blocks.3.attn.hook_z        0.50 MiB  float32   [1, 1024, 4, 32]
            2 values, 1.00 MiB in all
        """
        tokens = input_shape
        if not isinstance(tokens, torch.Tensor):
            tokens = torch.zeros(tokens, dtype=torch.int64)
        made = core_input(tokens, cast(ForwardArguments, media), self.tokenizer, self.cfg)
        request = _C.Request()
        for chosen in selectors(names_filter):
            request.record(chosen)
        self._add_registered(request, made, is_partial=False)
        for hook in self._own(fwd_hooks, None, Contexts()):
            hook.add_to(request)
        return Plan(self._core.plan(made, request))

    def _run(
        self,
        input: ModelInput,
        request: _C.Request,
        arguments: ForwardArguments,
        own: Sequence[RegisteredHook] = (),
    ) -> _Run:
        return_type = arguments.get("return_type", "logits")
        if return_type not in ("logits", "loss", "both", None):
            raise ArgumentError(
                f'return_type is {return_type!r}; wanted "logits", "loss", "both" or None'
            )
        made = core_input(input, arguments, self.tokenizer, self.cfg)
        wants_loss = return_type in ("loss", "both")
        if wants_loss:
            labels = labels_of(made, arguments)
        is_partial = made.embeddings is not None or not _PARTIAL.isdisjoint(arguments)
        self._add_registered(request, made, is_partial)
        for hook in own:
            hook.add_to(request)
        per_token = arguments.get("loss_per_token", False)
        if return_type == "loss":  # never all logits at once, where nobody looks at them
            made.labels = labels
            output = _C.Output.loss_per_token if per_token else _C.Output.loss
        else:
            output = _C.Output.nothing if return_type is None else _C.Output.logits
        run = self._core.run(made, request, self._path, output)
        if return_type != "both":
            return _Run(run.output, run.cache)
        compute = _C.loss_per_token if per_token else _C.mean_loss
        loss = compute(run.output, labels.to(run.output.device), run.valid)
        return _Run((run.output, loss), run.cache)


# Arguments of a run that may not compute every value.
_PARTIAL = frozenset(("start_at_layer", "stop_at_layer", "start_state"))


class _Run:
    def __init__(self, result: Result, cache: _C.ActivationCache) -> None:
        self.result = result
        self.cache = cache
