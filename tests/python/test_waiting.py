"""How often a run of text waits for its device: a number that is read from one is a stall there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from support import fixtures, media
from support.lab import Lab
from support.media_fixtures import MEDIA_RECIPES
from support.recipe import MEDIA_IDS

# What copies a number to the host, and what has as many rows as the numbers say.
READS = ("aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::masked_select")
TOKENS = fixtures.tokens(20)


class Reads(TorchDispatchMode):
    """Counts them, in C++ too."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n += func._schema.name in READS
        return func(*args, **(kwargs or {}))


def reads_of(bridge: Any, *arguments: Any, **options: Any) -> int:
    bridge(*arguments, **options)  # what is made once is not counted
    with torch.no_grad(), Reads() as reads:
        bridge(*arguments, **options)
    return reads.n


@pytest.mark.parametrize("path", ["automatic", "open"])
@pytest.mark.parametrize("name", ["e2b", "moe", *MEDIA_RECIPES])
def test_text_reads_its_two_ends_alone(lab: Lab, name: str, path: str) -> None:
    """The lowest id and the highest: towers that do not run ask for nothing more."""
    assert reads_of(lab.bridge(name, path=path), TOKENS) == 2


def test_the_count_sees_what_is_read(lab: Lab) -> None:
    given, bridge = media.widest_case("sound"), lab.bridge("sound")
    assert reads_of(bridge, given.tokens, **given.media) > 10
    with_id = TOKENS.clone()
    with_id[0, 3] = MEDIA_IDS["image_token_id"]
    types = torch.zeros_like(with_id)
    assert 2 < reads_of(bridge, with_id, mm_token_type_ids=types) < 10
