"""The part of a Bridge that lets text go on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeAlias, Unpack

import torch
from tqdm import tqdm

from bezel import _C, text
from bezel.arguments import MEDIA, ForwardArguments, MediaArguments, ModelInput, core_input
from bezel.cache import ActivationCache
from bezel.encoding import Encoding
from bezel.errors import ArgumentError
from bezel.sae_keeping import StepKeeper
from bezel.selection import NamesFilter, selectors

ReturnType: TypeAlias = Literal["input", "str", "tokens"]
_SECONDS_BEFORE_BAR = 1.0


class GenerateArguments(MediaArguments, total=False):
    """What `generate` and `generate_stream` take beside the input; `generate` explains each."""

    do_sample: bool
    temperature: float
    top_k: int | None
    top_p: float | None
    freq_penalty: float
    repetition_penalty: float
    seed: int | None
    stop_at_eos: bool
    eos_token_id: int | list[int] | None
    stop_strings: str | list[str] | None
    use_past_kv_cache: bool
    prepend_bos: bool | None
    padding_side: text.PaddingSide
    attention_mask: torch.Tensor | None
    position_ids: torch.Tensor | None
    verbose: bool


class Generating(Encoding):
    """Greedy and sampled continuations; hooks that stand apply in every step."""

    def generate(
        self,
        input: ModelInput,
        max_new_tokens: int = 32,
        *,
        return_type: ReturnType = "input",
        output_logits: bool = False,
        return_cache: bool = False,
        names_filter: NamesFilter = None,
        **arguments: Unpack[GenerateArguments],
    ) -> Any:
        """Goes on with one prompt or several, token after token.

        Hooks that stand, and those of `hooks()`, apply in every step, with hook.step (0: the
        prompt) and absolute hook.positions. An edit of keys or values before the cache
        (attn.hook_k, attn.hook_rot_k, attn.hook_v …) stays in it for the steps that follow.

        Args:
            input: Text or texts, or token ids [batch pos] or [pos]. Texts of different lengths are
                padded on the left.
            max_new_tokens: At most so many steps.
            return_type: "input": text for text and ids for ids; "str" or "tokens".
            output_logits: Return the logits [batch new d_vocab] as well.
            return_cache: Return a cache of what names_filter names as well, recorded while
                generating: of the prompt and all new tokens but the last, which was not run.
            names_filter: As in `run_with_cache`.
            **arguments: do_sample: True samples, False takes the likeliest token. temperature: of
                what is sampled. top_k: sample among the k likeliest. top_p: sample among the
                likeliest that together have this probability. seed: for the same samples again.
                repetition_penalty: divides positive logits of tokens in the text, multiplies
                negative ones. freq_penalty: taken from a token's logit for each time it stands in
                the text. stop_at_eos: a row ends behind an eos token and is filled with <pad>.
                eos_token_id: one or several; None: those of generation_config.json, else
                config.json. stop_strings: a row ends where its new text holds one of these.
                use_past_kv_cache: False runs the whole text in every step. prepend_bos: as in
                `to_tokens`. padding_side: "left"; behind padding on the right nothing could
                follow. attention_mask, position_ids: [batch pos]. pixel_values …,
                mm_token_type_ids: images, videos and sounds of the prompt, as in `forward`; a
                media id that is generated stands for none (to run such a text again, give it type
                0). verbose: a progress bar for what takes
                more than a second.

        Returns:
            The text with its continuation, or ids [batch pos]; with output_logits or return_cache
            a tuple (that, logits, cache) of what was asked for.

        Raises:
            ArgumentError: For an argument outside its range, padding on the right, and what needs a
                tokenizer where there is none.

        Example:
            >>> b.generate("As Emma knows , the capital of France is", max_new_tokens=2)
            'As Emma knows , the capital of France is Paris .'
        """
        if return_type not in ("input", "str", "tokens"):
            raise ArgumentError(
                f'return_type is {return_type!r}; wanted "input", "str" or "tokens"'
            )
        if names_filter is not None and not return_cache:
            raise ArgumentError("names_filter says what return_cache=True keeps, and it is False")
        gives_text = return_type == "str" or (return_type == "input" and not _is_ids(input))
        if gives_text:
            text.wanted_tokenizer(self.tokenizer)
        request = _C.Request()
        options = _options(max_new_tokens, arguments)
        options.keeps_logits, options.keeps_values = output_logits, return_cache
        keepers = self._record(request, names_filter, options) if return_cache else []
        generation = self._begin(input, request, options, arguments, keepers)
        for _ in _steps(generation, max_new_tokens, arguments.get("verbose", True)):
            pass
        result = generation.result()
        output: Any = self._texts_of(result.tokens, input) if gives_text else result.tokens
        extra: list[Any] = [result.logits] if output_logits else []
        if result.cache is not None:
            for keeper in keepers:
                keeper.move_to(result.cache)
            extra.append(ActivationCache(result.cache, self))
        return (output, *extra) if extra else output

    def generate_stream(
        self, input: ModelInput, max_new_tokens: int = 32, **arguments: Unpack[GenerateArguments]
    ) -> Iterator[torch.Tensor]:
        """The new tokens [batch] of each step as they come, <pad> where a row has ended.

        The hooks are those that stand when the first token is asked for.

        Args:
            input: As in `generate`.
            max_new_tokens: At most so many steps.
            **arguments: As in `generate`.

        Example:
            >>> for tokens in b.generate_stream("As Emma knows , the capital of France is", 2):
            ...     print(b.to_string(tokens))
            Paris
            .
        """
        options = _options(max_new_tokens, arguments)
        generation = self._begin(input, _C.Request(), options, arguments)
        yield from _steps(generation, max_new_tokens, verbose=False)

    def _record(
        self, request: _C.Request, names_filter: NamesFilter, options: _C.GenerateOptions
    ) -> list[StepKeeper]:
        """Asks the core for values; gives what keeps those that it does not know."""
        for chosen in selectors(names_filter):
            request.record(chosen)
        return []

    def _begin(
        self,
        input: ModelInput,
        request: _C.Request,
        options: _C.GenerateOptions,
        arguments: GenerateArguments,
        keepers: Iterable[StepKeeper] = (),
    ) -> _StoppedGeneration:
        side = arguments.get("padding_side", "left")
        if side != "left":
            raise ArgumentError(f'padding_side is {side!r}; generate pads on the "left"')
        given: ForwardArguments = {}
        if not isinstance(input, torch.Tensor):
            given = {"padding_side": "left", "prepend_bos": arguments.get("prepend_bos")}
        elif arguments.get("prepend_bos") is not None:
            given = {"prepend_bos": arguments["prepend_bos"]}
        for name in _OF_PROMPT:
            given[name] = arguments.get(name)  # type: ignore[literal-required]
        made = core_input(input, given, self.tokenizer, self.cfg)
        stops = _stops(arguments.get("stop_strings"))
        if stops:
            text.wanted_tokenizer(self.tokenizer)
        self._add_registered(request, made, is_partial=False)
        for keeper in keepers:
            keeper.begin(request, made, options.max_new_tokens)
        core = _C.Generation(self._core, made, request, self._path, options)
        return _StoppedGeneration(core, stops, self.tokenizer)

    def _texts_of(self, tokens: torch.Tensor, input: ModelInput) -> Any:
        tokenizer = text.wanted_tokenizer(self.tokenizer)
        texts = [tokenizer.decode(row.tolist(), skip_special_tokens=True) for row in tokens]
        return texts[0] if isinstance(input, str) else texts


class _StoppedGeneration:
    """A generation whose rows also end at strings."""

    def __init__(self, core: _C.Generation, stops: list[str], tokenizer: Any) -> None:
        self.result = core.result
        self._core = core
        self._stops = stops
        self._tokenizer = tokenizer
        self._new: list[torch.Tensor] = []

    def next(self) -> torch.Tensor | None:
        tokens = self._core.next()
        if tokens is None or not self._stops:
            return tokens
        self._new.append(tokens)
        rows = torch.stack(self._new, 1).tolist()
        texts = [self._tokenizer.decode(row, skip_special_tokens=True) for row in rows]
        ended = [any(stop in text for stop in self._stops) for text in texts]
        self._core.end(torch.tensor(ended))
        return tokens


def _steps(generation: _StoppedGeneration, n: int, verbose: bool) -> Iterator[torch.Tensor]:
    with tqdm(
        total=n,
        desc="generating",
        unit="token",
        delay=_SECONDS_BEFORE_BAR,
        leave=False,
        disable=None if verbose else True,
    ) as bar:
        while (tokens := generation.next()) is not None:
            bar.update()
            yield tokens


def _options(max_new_tokens: int, arguments: GenerateArguments) -> _C.GenerateOptions:
    unknown = [name for name in arguments if name not in GenerateArguments.__annotations__]
    if unknown:
        known = ", ".join(GenerateArguments.__annotations__)
        raise TypeError(f"unknown argument {unknown[0]!r}; wanted one of {known}")
    sampling, options = _C.Sampling(), _C.GenerateOptions()
    for name, (field, wanted) in _SAMPLING.items():
        if name in arguments:
            _set(sampling, field, name, arguments.get(name), wanted)
    options.sampling = sampling
    _set(options, "max_new_tokens", "max_new_tokens", max_new_tokens, "an int")
    eos: Any = arguments.get("eos_token_id")
    if not arguments.get("stop_at_eos", True):
        options.eos_token_ids = []
    elif eos is not None:
        several = [eos] if isinstance(eos, int | str) else eos
        _set(options, "eos_token_ids", "eos_token_id", several, "an int or several")
    options.uses_kv_cache = arguments.get("use_past_kv_cache", True)
    return options


# Arguments that the prompt's run takes as they are.
_OF_PROMPT = ("attention_mask", "position_ids", *MEDIA)
# The core's name of an argument, and what it should be.
_SAMPLING = {
    "do_sample": ("samples", "True or False"),
    "temperature": ("temperature", "a number"),
    "top_k": ("top_k", "an int or None"),
    "top_p": ("top_p", "a number or None"),
    "repetition_penalty": ("repetition_penalty", "a number"),
    "freq_penalty": ("frequency_penalty", "a number"),
    "seed": ("seed", "an int from 0 to 2**64 - 1, or None"),
}


def _set(target: Any, field: str, name: str, value: Any, wanted: str) -> None:
    try:
        setattr(target, field, value)
    except TypeError:
        raise ArgumentError(f"{name} is {value!r}; wanted {wanted}") from None


def _stops(given: Any) -> list[str]:
    stops = [given] if isinstance(given, str) else list(given or ())
    if not all(isinstance(stop, str) and stop for stop in stops):
        raise ArgumentError(f"stop_strings is {given!r}; wanted a text, or several, none empty")
    return stops


def _is_ids(input: ModelInput) -> bool:
    return isinstance(input, torch.Tensor)
