"""What the reference is asked: texts of different kinds, and ids where a tokenizer has no words."""

from __future__ import annotations

from typing import NamedTuple


class Prompt(NamedTuple):
    """One kind of text; of `texts` the first is taken that the tokenizer can encode."""

    name: str
    about: str
    texts: tuple[str, ...]


_PROSE = (
    "The lighthouse keeper climbed the stairs every evening at dusk, counting each step aloud, "
    "although nobody had asked him to and nobody was there to hear it. When the lamp was lit he "
    "sat by the window and wrote down what he had seen: two fishing boats, a line of geese "
    "going south, and, far out, something that might have been a sail."
)
_CODE = '''def mean(values: list[float]) -> float:
    """The arithmetic mean; 0.0 of nothing."""
    if not values:
        return 0.0
    return sum(values) / len(values)


assert mean([1, 2, 3]) =='''
_DIGITS = "3.14159265358979 1024 * 768 = 786432; 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 5"
_NON_LATIN = (
    "Человек смотрит на звёзды и считает их. 山の上に古い寺がある。 "
    "كان يا ما كان في قديم الزمان. नमस्ते दुनिया, आप कैसे हैं?"
)
_REPEATED = "red green blue red green blue red green blue red green blue red green"
CHAT = "Which planet is closest to the sun, and how long does it need for one orbit?"

# The second texts are sentences of the trained miniature, whose tokenizer knows 209 words.
PROMPTS = (
    Prompt(
        "prose",
        "plain prose",
        (_PROSE, "When Hugo and Mary went to the shop , Mary gave a drink to"),
    ),
    Prompt("code", "Python source with indentation", (_CODE,)),
    Prompt(
        "digits",
        "numbers",
        (_DIGITS, "Of 7 and 22 , the larger is 22 . Between 3 and 19 , the smaller is"),
    ),
    Prompt("chat", "one turn of a user in the chat template", (CHAT,)),
    Prompt("non_latin", "Cyrillic, Japanese, Arabic and Devanagari", (_NON_LATIN,)),
    Prompt(
        "repeated",
        "the same tokens again and again",
        (_REPEATED, "river Paul 4 key blue river Paul 4 key blue river Paul 4"),
    ),
)
LONG = Prompt(
    "long",
    "longer than the sliding window",
    (
        _PROSE,
        "When Hugo and Mary went to the shop , Mary gave a drink to Hugo . As Emma knows , the "
        "capital of France is Paris . Of 7 and 22 , the larger is 22 .",
    ),
)
