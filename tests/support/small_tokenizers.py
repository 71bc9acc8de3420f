"""A small byte-level tokenizer like those of real checkpoints: words of several tokens, any script.

It adds no <bos>, as the tokenizers of the `-it` checkpoints add none.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIALS = ["<pad>", "<eos>", "<bos>", "<turn>"]
_CORPUS = ["the cat sat on the mat and the cat saw the rat", "κόσμε κόσμε", "a hat"] * 4
VOCAB = 320  # 256 bytes, the specials, and some sixty merges
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<turn>{{ m.role }} {{ m.content }}"
    "{% if shout %}!{% endif %}{% endfor %}{% if add_generation_prompt %}<turn>model{% endif %}"
)


def byte_level() -> Tokenizer:
    """The tokenizer; id 2 is <bos>, and there is no unknown token: every byte has one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer


def write(folder: Path, tokenizer: Tokenizer, **config: Any) -> None:
    """The tokenizer's files in a checkpoint's folder."""
    tokenizer.save(str(folder / "tokenizer.json"))
    fields = {
        "tokenizer_class": "TokenizersBackend",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(fields | config))


def with_tokenizer(checkpoint: Path, target: Path, tokenizer: Tokenizer, **config: Any) -> Path:
    """A copy of the checkpoint with the tokenizer's files."""
    shutil.copytree(checkpoint, target)
    write(target, tokenizer, **config)
    return target
