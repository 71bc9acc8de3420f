"""The model that users hold."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, Unpack

import torch

from bezel import _C, loading, tree
from bezel.arguments import ForwardArguments, ModelInput, Result, core_input, labels_of
from bezel.cache import ActivationCache
from bezel.errors import ArgumentError
from bezel.hooks import HookPair, request_of
from bezel.names import HookPoint, points_of
from bezel.plan import Plan
from bezel.selection import NamesFilter, PosSlice, selectors, start_stop_step
from bezel.text import PaddingSide, encode

PathName: TypeAlias = Literal["automatic", "open"]


class Bridge:
    """A Gemma 4 model whose every inner value has a name.

    Runs do not change it: a hook belongs to the call that it was given to, and calls from several
    threads do not see each other.

    Attributes:
        cfg: The model as plain data: `cfg.n_layers`, `cfg.layers[3].attention.d_head` …
        tokenizer: transformers' tokenizer, or None; token ids always work.
    """

    def __init__(self, core: _C.Bridge, tokenizer: Any | None, path: PathName, name: str) -> None:
        self._core = core
        self._path = _C.Path.__members__[path]
        self._name = name
        self.cfg: _C.ModelSpec = core.spec
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(  # noqa: PLR0913  the field's own signature
        cls,
        name: str,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        tokenizer: Any | None = None,
        path: PathName = "automatic",
    ) -> Bridge:
        """Loads a Gemma 4 checkpoint.

        Args:
            name: A local folder, or a hub id such as "google/gemma-4-E2B-it" (the Hugging Face
                cache first).
            device: "cpu" or "cuda:0" …
            dtype: torch.float32, torch.bfloat16 or torch.float64; None is the checkpoint's own.
            revision: Of a hub id.
            local_files_only: True never asks the network.
            tokenizer: Instead of the folder's own.
            path: "automatic" takes library kernels where no value inside them is asked for; "open"
                computes each step by itself, always.

        Raises:
            CheckpointError: With file, field or tensor, what was found and what was expected.
            ArgumentError: For a device or path that does not exist.

        Example:
            >>> b = bezel.Bridge.from_pretrained("tests/data/nano")
        """
        if path not in _C.Path.__members__:
            raise ArgumentError(f'path is {path!r}; wanted "automatic" or "open"')
        folder = loading.find_folder(str(name), revision, local_files_only)
        core = loading.load_model(folder, dtype, device)
        if tokenizer is None:
            tokenizer = loading.load_tokenizer(folder)
        return cls(core, tokenizer, path, folder.name)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the model computes in."""
        return self._core.dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self._core.device

    @property
    def n_parameters(self) -> int:
        """Elements of all weights; a tied head counts once."""
        return self._core.n_parameters

    def hook_points(self) -> list[HookPoint]:
        """Every named value of this model, in the order in which a run computes them."""
        return points_of(self._core)

    def to_tokens(
        self,
        text: str | list[str],
        prepend_bos: bool | None = None,
        padding_side: PaddingSide | None = None,
    ) -> torch.Tensor:
        """Token ids [batch pos]; texts of different lengths are padded.

        Args:
            text: One text or several.
            prepend_bos: None puts <bos> first unless the text begins with it.
            padding_side: "right" (the default) or "left".
        """
        return encode(text, self.tokenizer, self.cfg, prepend_bos, padding_side).tokens

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
                attention_mask: [batch pos], 0 at padding. position_ids: [batch pos]; counted from
                the mask when not given. mm_token_type_ids: [batch pos], 0 text, 1 image, 2 video,
                3 audio. start_at_layer, stop_at_layer: the blocks to run; with stop_at_layer the
                stream entering that block is returned. logits_to_keep: the last positions only.
                labels: [batch pos], -100 is ignored; the tokens when not given. tokens: ids that
                belong to a float input. start_state: values of an earlier run that start_at_layer
                needs, by name.

        Returns:
            Logits [batch pos d_vocab]; the loss in nats; (logits, loss); or None.

        Raises:
            ArgumentError: Which argument, what it is and what it should be.
        """
        return self._run(input, _C.Request(), arguments).result

    def run_with_cache(  # noqa: PLR0913  TransformerLens's signature
        self,
        input: ModelInput,
        names_filter: NamesFilter = None,
        *,
        fwd_hooks: list[HookPair] | None = None,
        bwd_hooks: list[HookPair] | None = None,
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
            >>> logits, cache = b.run_with_cache("A and B", names_filter="blocks.*.attn.hook_z")
        """
        backward_at_once = incl_bwd and arguments.get("return_type") == "loss"
        if incl_bwd and not backward_at_once and not return_cache_object:
            raise ArgumentError(
                "incl_bwd: the gradients of a later backward() cannot reach a plain dict; leave "
                'return_cache_object=False out, or take return_type="loss"'
            )
        request = request_of(selectors(names_filter), fwd_hooks, bwd_hooks)
        request.gradients = incl_bwd
        request.device = None if device is None else loading.find_device(device)
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise ArgumentError(f"dtype is {dtype!r}; wanted a floating torch.dtype")
        request.dtype = dtype
        if pos_slice is not None:
            request.keep_positions(*start_stop_step(pos_slice))
        run = self._run(input, request, arguments)
        if backward_at_once:
            assert isinstance(run.result, torch.Tensor)
            torch.autograd.backward(run.result.sum())
        cache = ActivationCache(run.cache, self.cfg.n_layers)
        if remove_batch_dim:
            cache = cache.remove_batch_dim()
        return run.result, cache if return_cache_object else dict(cache.items())

    def run_with_hooks(
        self,
        input: ModelInput,
        fwd_hooks: list[HookPair] | None = None,
        bwd_hooks: list[HookPair] | None = None,
        **arguments: Unpack[ForwardArguments],
    ) -> Result:
        """Runs the model with hooks that belong to this call alone.

        Args:
            input: As in `forward`.
            fwd_hooks: (name, function) pairs, applied in order. A name is anything that
                names_filter takes. `function(value, hook=hook)` gets its own copy of the value; it
                returns None to keep that copy, or a tensor of the same shape.
            bwd_hooks: The same with dL/d(value), in your later backward().
            **arguments: As in `forward`.

        Example:
            >>> def zero_head_2(z, hook):
            ...     z[:, :, 2] = 0
            >>> b.run_with_hooks("A and B", fwd_hooks=[("blocks.3.attn.hook_z", zero_head_2)])
        """
        request = request_of(fwd_hooks=fwd_hooks, bwd_hooks=bwd_hooks)
        return self._run(input, request, arguments).result

    def plan(
        self,
        input_shape: tuple[int, int],
        names_filter: NamesFilter = None,
        fwd_hooks: list[HookPair] | None = None,
    ) -> Plan:
        """What such a run would keep, without running: names, shapes, bytes. Prints as a table.

        Args:
            input_shape: (batch, pos).
            names_filter: As in `run_with_cache`.
            fwd_hooks: As in `run_with_hooks`.
        """
        request = request_of(selectors(names_filter), fwd_hooks)
        made = _C.Input()
        made.tokens = torch.zeros(input_shape, dtype=torch.int64)
        return Plan(self._core.plan(made, request))

    def __repr__(self) -> str:
        return tree.text(self._core, self._name)

    def _run(self, input: ModelInput, request: _C.Request, arguments: ForwardArguments) -> _Run:
        return_type = arguments.get("return_type", "logits")
        if return_type not in ("logits", "loss", "both", None):
            raise ArgumentError(
                f'return_type is {return_type!r}; wanted "logits", "loss", "both" or None'
            )
        made = core_input(input, arguments, self.tokenizer, self.cfg)
        wants_loss = return_type in ("loss", "both")
        if wants_loss:
            labels = labels_of(made, arguments)
        output = _C.Output.nothing if return_type is None else _C.Output.logits
        run = self._core.run(made, request, self._path, output)
        if not wants_loss:
            return _Run(run.output, run.cache)
        compute = _C.loss_per_token if arguments.get("loss_per_token") else _C.mean_loss
        loss = compute(run.output, labels.to(run.output.device), run.valid)
        return _Run(loss if return_type == "loss" else (run.output, loss), run.cache)


class _Run:
    def __init__(self, result: Result, cache: _C.ActivationCache) -> None:
        self.result = result
        self.cache = cache
