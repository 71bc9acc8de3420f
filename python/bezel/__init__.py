"""bezel runs Gemma 4 so that every value inside it can be seen, changed and differentiated.

>>> import bezel
>>> b = bezel.Bridge.from_pretrained("tests/data/nano")  # or "google/gemma-4-E2B-it"
>>> logits, cache = b.run_with_cache("As Emma knows , the capital of France is")
>>> cache["blocks.3.attn.hook_pattern"].shape  # [batch head q_pos k_pos]
torch.Size([1, 4, 10, 10])
"""

# torch first: the core's library is linked against the libraries that torch loads.
import torch as _torch  # noqa: F401

from bezel import errors, patching, reference, utils
from bezel._C import __version__
from bezel.bridge import Bridge
from bezel.cache import ActivationCache
from bezel.dump import DumpReport, dump
from bezel.encoding import Encoded
from bezel.errors import Error
from bezel.factored_matrix import FactoredMatrix
from bezel.hooks import Hook
from bezel.kv_cache import KvCache
from bezel.names import HookPoint, hook_points
from bezel.plan import Plan
from bezel.reference import capture_reference
from bezel.sae import SAE, SAEConfig
from bezel.store import ActivationStore
from bezel.token_types import TokenTypes
from bezel.verifying import Report, verify

__all__ = [
    "SAE",
    "ActivationCache",
    "ActivationStore",
    "Bridge",
    "DumpReport",
    "Encoded",
    "Error",
    "FactoredMatrix",
    "Hook",
    "HookPoint",
    "KvCache",
    "Plan",
    "Report",
    "SAEConfig",
    "TokenTypes",
    "__version__",
    "capture_reference",
    "dump",
    "errors",
    "hook_points",
    "patching",
    "reference",
    "utils",
    "verify",
]
