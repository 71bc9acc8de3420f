"""Peak memory of a process that keeps every value of the encoders for an image and a clip.

The peak of a run that keeps nothing is taken off: what is left is the cache's. Prints one JSON
object of bytes; ends with 1 where they are more than GATE times what the plan foretold.
usage: memory_media.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench_media import AUDIO_ID, IMAGE_ID, clip, image
from memory import peak_bytes

import bezel
from bezel import _C
from bezel.arguments import core_input

GATE = 1.1


def main() -> int:
    b = bezel.Bridge.from_pretrained(sys.argv[1])
    media = image(48, 48) | clip()
    tokens = torch.tensor([[IMAGE_ID] * 256 + [AUDIO_ID] * 250])
    names = ["vision_*", "audio_*"]
    with torch.no_grad():
        b(tokens, **media)  # what one run takes without a cache is not the cache's
        before = peak_bytes()
        request = _C.Request()
        for name in names:
            request.record(_C.Selector(name))
        planned = b._core.plan(core_input(tokens, media, None, b.cfg), request).cache_bytes
        _, cache = b.run_with_cache(tokens, names, **media)
    assert len(cache) > 0
    extra = peak_bytes() - before
    print(json.dumps({"planned_cache": planned, "extra": extra}))
    return 0 if extra <= GATE * planned else 1


if __name__ == "__main__":
    sys.exit(main())
