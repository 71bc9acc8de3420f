"""The C++ core. Use the package bezel; this module may change without notice."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, ClassVar, Literal, TypeAlias

import torch

__version__: str

class RopeSpec:
    """How positions turn queries and keys."""

    theta: float
    n_rotated_pairs: int

class AttentionSpec:
    """One block's attention; `window_tokens` is None where it sees all tokens before it."""

    n_heads: int
    n_kv_heads: int
    d_head: int
    window_tokens: int | None
    rope: RopeSpec
    k_is_v: bool
    donor: int | None
    donates: bool

class MlpSpec:
    """One block's dense feed-forward."""

    d_mlp: int

class MoeSpec:
    """One block's experts."""

    n_experts: int
    n_chosen: int
    d_expert: int

class LayerSpec:
    """One block."""

    attention: AttentionSpec
    mlp: MlpSpec
    moe: MoeSpec | None

class MediaIds:
    """Ids of the tokens in whose places media stand; None where the model has none."""

    image: int | None
    video: int | None
    audio: int | None

class ModelSpec:
    """A model as plain data."""

    media_ids: MediaIds

    family: str
    n_layers: int
    n_heads: int
    d_model: int
    d_vocab: int
    d_ple: int
    d_vocab_ple: int
    max_positions: int
    norm_eps: float
    tied_head: bool
    softcap: float | None
    bidirectional: Literal["vision"] | None
    eos_token_ids: list[int]
    pad_token_id: int | None
    bos_token_id: int | None
    layers: list[LayerSpec]

class Selector:
    def __init__(self, rule: str | Callable[[str], bool]) -> None: ...

class HookSite:
    name: str
    layer: int | None
    dir: Literal["fwd", "bwd"]
    step: int
    positions: torch.Tensor
    key_positions: torch.Tensor

class Request:
    gradients: bool
    dtype: torch.dtype | None
    device: torch.device | None
    def record(self, at: Selector) -> None: ...
    def edit(
        self,
        at: Selector,
        function: Callable[[torch.Tensor, HookSite], torch.Tensor | None],
        backward: bool,
    ) -> None: ...
    def keep_positions(self, start: int | None, stop: int | None, step: int) -> None: ...

class PlannedValue:
    name: str
    shape: list[int]
    dtype: torch.dtype
    n_bytes: int

class Plan:
    values: list[PlannedValue]
    cache_bytes: int

class ActivationCache:
    def at(self, name: str) -> torch.Tensor: ...
    def put(self, name: str, value: torch.Tensor) -> None: ...
    def contains(self, name: str) -> bool: ...
    def __len__(self) -> int: ...
    def items(self) -> list[tuple[str, torch.Tensor]]: ...

class Input:
    tokens: torch.Tensor | None
    embeddings: torch.Tensor | None
    attention_mask: torch.Tensor | None
    position_ids: torch.Tensor | None
    token_types: torch.Tensor | None
    pixel_values: torch.Tensor | None
    image_position_ids: torch.Tensor | None
    pixel_values_videos: torch.Tensor | None
    video_position_ids: torch.Tensor | None
    input_features: torch.Tensor | None
    input_features_mask: torch.Tensor | None
    start_at_layer: int | None
    stop_at_layer: int | None
    logits_to_keep: int | None
    labels: torch.Tensor | None
    start_state: dict[str, torch.Tensor]
    kv_cache: KvCache | None

class Load:
    where_there_is_one: ClassVar[Load]
    never: ClassVar[Load]

class Modalities:
    vision: Load
    audio: Load
    def __init__(self) -> None: ...

class Path:
    automatic: ClassVar[Path]
    open: ClassVar[Path]
    __members__: ClassVar[dict[str, Path]]
    name: Literal["automatic", "open"]

class Output:
    logits: ClassVar[Output]
    loss: ClassVar[Output]
    loss_per_token: ClassVar[Output]
    nothing: ClassVar[Output]

class RunResult:
    output: Any  # a tensor, or None
    cache: ActivationCache
    valid: torch.Tensor | None

PointRow = tuple[str, list[str], list[int | None], str, str, str, int | None]

class Bridge:
    spec: ModelSpec
    dtype: torch.dtype
    device: torch.device
    n_parameters: int
    def named_weights(self) -> list[tuple[str, torch.Tensor]]: ...
    def hook_points(self) -> list[PointRow]: ...
    def plan(self, input: Input, request: Request) -> Plan: ...
    def plan_of_all(self, request: Request) -> Plan: ...
    def encode(
        self, input: Input, request: Request, path: Path
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, ActivationCache]: ...
    def soft_tokens(self, input: Input) -> tuple[torch.Tensor | None, torch.Tensor | None]: ...
    def run(self, input: Input, request: Request, path: Path, output: Output) -> RunResult: ...

class Part:
    text: ClassVar[Part]
    vision: ClassVar[Part]
    audio: ClassVar[Part]

def hook_table(part: Part) -> list[tuple[str, list[str], str, str, str]]: ...
def load(
    folder: FilePath,
    dtype: torch.dtype | None,
    device: torch.device,
    modalities: Modalities,
    on_progress: Callable[[int, int], None] | None,
) -> Bridge: ...
def with_weights(original: Bridge, replaced: dict[str, torch.Tensor]) -> Bridge: ...
def loss_per_token(
    logits: torch.Tensor, labels: torch.Tensor, valid: torch.Tensor | None
) -> torch.Tensor: ...
def mean_loss(
    logits: torch.Tensor, labels: torch.Tensor, valid: torch.Tensor | None
) -> torch.Tensor: ...

class KvCache:
    def __init__(self, model: Bridge) -> None: ...
    n_seen: int
    positions: torch.Tensor | None
    frozen: bool

class PatchSweep:
    def __init__(self, model: Bridge, input: Input, request: Request, path: Path) -> None: ...
    logits: torch.Tensor
    def value(self, name: str) -> torch.Tensor: ...
    def run(self, name: str, patched: list[torch.Tensor]) -> list[torch.Tensor]: ...

has_verify: bool

def verify(
    folder: FilePath,
    phases: list[int],
    reference: FilePath | None,
    dtype: torch.dtype,
    device: torch.device,
    strict: float,
    on_progress: Callable[[str], None] | None,
) -> str: ...
def verify_html(record: str) -> str: ...
def free_bytes(device: torch.device) -> int | None: ...

class Sampling:
    samples: bool
    temperature: float
    top_k: int | None
    top_p: float | None
    repetition_penalty: float
    frequency_penalty: float
    seed: int | None

class GenerateOptions:
    max_new_tokens: int
    sampling: Sampling
    eos_token_ids: list[int] | None
    uses_kv_cache: bool
    keeps_logits: bool
    keeps_values: bool

class Generated:
    tokens: torch.Tensor
    logits: torch.Tensor | None
    cache: ActivationCache | None

class Generation:
    def __init__(
        self, model: Bridge, prompt: Input, request: Request, path: Path, options: GenerateOptions
    ) -> None: ...
    def next(self) -> torch.Tensor | None: ...
    def end(self, rows: torch.Tensor) -> None: ...
    def result(self) -> Generated: ...

has_store: bool

class StoreValue:
    def __init__(
        self, name: str, axes: list[str], shape: list[int], dtype: str, per_shard: bool = False
    ) -> None: ...
    entry_bytes: int
    per_shard: bool

class StoreManifest:
    def __init__(
        self,
        *,
        total_rows: int,
        rows_per_shard: int,
        has_types: bool,
        values: list[StoreValue],
        request: str,
    ) -> None: ...
    n_shards: int
    datasets: list[tuple[str, list[str], list[int], str, int, bool]]

class StoreWriter:
    def __init__(
        self,
        folder: FilePath,
        manifest: StoreManifest,
        *,
        start: str,
        rank: int,
        n_ranks: int,
        run: str,
        queue_bytes: int,
        repair_progress: Callable[[int, int], None] | None = None,
    ) -> None: ...
    todo: list[int]
    bytes_needed: int
    done: tuple[int, int, int]
    def rows_of(self, shard: int) -> tuple[int, int]: ...
    def begin(self, shard: int) -> None: ...
    def put(self, name: str, rows: torch.Tensor) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...

class StoreReader:
    def __init__(self, folder: FilePath, checksum: str, trust: bool) -> None: ...
    id: str
    manifest: str
    total_rows: int
    recorded: list[tuple[int, int]]
    datasets: list[tuple[str, list[str], list[int], str, int, bool]]
    shards: list[int]
    def read(self, name: str, first: int, n: int) -> torch.Tensor: ...
    def read_shard(self, name: str, shard: int) -> torch.Tensor: ...
    def read_rows(
        self, name: str, rows: torch.Tensor, room: torch.Tensor | None = None
    ) -> torch.Tensor: ...

Attribute: TypeAlias = bool | int | float | str | list[int]

class Sealing:
    def __init__(self) -> None: ...
    def group(
        self, path: str, attributes: Mapping[str, Attribute] = {}, *, keeps_order: bool = False
    ) -> None: ...
    def values(
        self,
        path: str,
        values: torch.Tensor,
        axes: Sequence[str] = (),
        attributes: Mapping[str, Attribute] = {},
    ) -> None: ...
    def texts(self, path: str, texts: list[str]) -> None: ...
    def link(self, path: str, of: str) -> None: ...
    def write(self, path: FilePath) -> None: ...

class SealedFile:
    def __init__(self, path: FilePath, wanted: str, remedy: str) -> None: ...
    path: FilePath
    def members(self, group: str) -> list[str]: ...
    def attributes(self, path: str) -> dict[str, Any]: ...
    def text(self, path: str, name: str) -> str: ...
    def integer(self, path: str, name: str) -> int: ...
    def axes(self, dataset: str) -> list[str]: ...
    def tensor(self, dataset: str) -> torch.Tensor: ...
    def texts(self, dataset: str) -> list[str]: ...

def store_check(
    folder: FilePath, full: bool, progress: Callable[[int, int], None] | None
) -> tuple[list[tuple[bool, str, str]], int, int]: ...
def store_hash(values: torch.Tensor) -> int: ...
def store_info(folder: FilePath) -> str: ...
def store_index(folder: FilePath) -> None: ...
def store_merge(
    stores: list[FilePath], out: FilePath, progress: Callable[[int, int], None] | None
) -> None: ...
