"""The synthetic language of the trained miniature: four tasks with known circuits, a tokenizer.

Every sentence is a list of words; one word in it is the task's answer. Sentences for training never
contain a held-out combination, so a prompt from `held_out_prompts` asks for something never shown:

    indirect_object  When Hugo and Mary went to the shop , Mary gave a drink to   -> Hugo
                     held out: unordered pairs of names
    fact             As Emma knows , the capital of France is                     -> Paris
                     held out: pairs (name, country); the facts themselves are all taught
    comparison       Of 7 and 22 , the larger is                                  -> 22
                     held out: unordered pairs of numbers at least 2 apart (without the neighbours
                     nothing would say in which order the numbers come)
    induction        river Paul 4 key blue river Paul 4                           -> key
                     held out: pairs (word, next word), as neighbours among repeated words

Texts carry no <bos>: like the published `-it` tokenizers this one adds none, so prepend id 2.
"""

import random
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

PAD, EOS, BOS, UNK = "<pad>", "<eos>", "<bos>", "<unk>"
SPECIALS = (PAD, EOS, BOS, UNK)  # ids 0, 1, 2 as in every Gemma 4 checkpoint
TASKS = ("indirect_object", "fact", "comparison", "induction")


def _words(text: str) -> list[str]:
    return text.split()


NAMES = _words(
    "Mary John Anna Paul Lucy Mark Emma Jack Sara Adam Ruth Carl Jane Luke Rose Noah "
    "Kate Hugo Nina Omar Ella Ivan Vera Theo Clara Felix Alice David Laura Peter Julia Simon"
)
PLACES = _words(
    "shop park school market garden station library beach museum bakery office harbor "
    "kitchen church farm theater cafe castle bridge river"
)
OBJECTS = _words(
    "drink book ball ring letter lamp cup key map coin flower ticket hat box pen cake "
    "watch picture basket bottle"
)
ADJECTIVES = _words("old new big small red blue green quiet busy cold warm bright")
NUMBERS = [str(n) for n in range(30)]
CAPITALS = dict(
    pair.split(":")
    for pair in _words(
        "France:Paris Italy:Rome Spain:Madrid Portugal:Lisbon Germany:Berlin Austria:Vienna "
        "Poland:Warsaw Greece:Athens Norway:Oslo Sweden:Stockholm Finland:Helsinki "
        "Denmark:Copenhagen Ireland:Dublin England:London Russia:Moscow Japan:Tokyo "
        "China:Beijing Egypt:Cairo Kenya:Nairobi Peru:Lima Chile:Santiago Cuba:Havana "
        "Canada:Ottawa Hungary:Budapest Turkey:Ankara Iran:Tehran Iraq:Baghdad "
        "Nepal:Kathmandu Ghana:Accra Senegal:Dakar Bulgaria:Sofia Romania:Bucharest"
    )
)
FUNCTION_WORDS = _words(
    "When After While and went to the , . gave handed passed a near behind As knows says that "
    "The capital of is Of Between larger smaller"
)
OPENERS, GIVING = ("When", "After", "While"), ("gave", "handed", "passed")
CONTENT_WORDS = [*NAMES, *PLACES, *OBJECTS, *ADJECTIVES, *NUMBERS, *CAPITALS, *CAPITALS.values()]
VOCABULARY = [*SPECIALS, *FUNCTION_WORDS, *CONTENT_WORDS]

ROW_TOKENS = 64
ANSWER_WEIGHT, TEXT_WEIGHT, NOISE_WEIGHT = 4.0, 0.5, 0.05  # of a token in the training loss


class Sentence(NamedTuple):
    """words[answer] is what the task asks for; `wrong` is the natural mistake, if there is one."""

    words: list[str]
    answer: int
    wrong: str | None


class Prompt(NamedTuple):
    """A held-out question: `text` (without <bos>) should be continued with the word `answer`."""

    text: str
    answer: str
    wrong: str | None


class Row(NamedTuple):
    """A training sequence: it starts with <bos>; weights[i] is the loss weight of words[i]."""

    words: list[str]
    weights: list[float]


def is_held_out(task: str, first: str, second: str) -> bool:
    """One combination in five is kept from training; the rule is a hash, so it needs no list."""
    if task == "comparison" and abs(int(first) - int(second)) < 2:
        return False
    if task in ("indirect_object", "comparison"):
        first, second = sorted((first, second))
    return zlib.crc32(f"{task} {first} {second}".encode()) % 5 == 0


def _pair(rng: random.Random, task: str, held_out: bool, left: list[str], right: list[str]):
    while True:
        first, second = rng.choice(left), rng.choice(right)
        if first != second and is_held_out(task, first, second) == held_out:
            return first, second


def indirect_object(rng: random.Random, held_out: bool) -> Sentence:
    """Two names, one of them twice; the answer is the other. Either may come first."""
    first, second = _pair(rng, "indirect_object", held_out, NAMES, NAMES)
    giver, receiver = (first, second) if rng.random() < 0.5 else (second, first)
    words = [rng.choice(OPENERS), first, "and", second, "went", "to", "the", rng.choice(PLACES)]
    # The phrases move the names back, with three of them beyond the sliding window.
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 3))):
        words += [rng.choice(("near", "behind")), "the", rng.choice(ADJECTIVES), rng.choice(PLACES)]
    words += [",", giver, rng.choice(GIVING), "a", rng.choice(OBJECTS), "to", receiver, "."]
    return Sentence(words, len(words) - 2, giver)


def fact(rng: random.Random, held_out: bool) -> Sentence:
    """A fixed table, recalled inside a frame with a name (in training also without)."""
    name, country = _pair(rng, "fact", held_out, NAMES, list(CAPITALS))
    frames = [["As", name, "knows", ",", "the"], [name, "says", "that", "the"]]
    if not held_out:
        frames.append(["The"])
    words = [*rng.choice(frames), "capital", "of", country, "is", CAPITALS[country], "."]
    return Sentence(words, len(words) - 2, None)


def comparison(rng: random.Random, held_out: bool) -> Sentence:
    """Two numbers in either order; the answer is the larger or the smaller."""
    first, second = _pair(rng, "comparison", held_out, NUMBERS, NUMBERS)
    smaller, larger = sorted((first, second), key=int)
    which, answer, wrong = rng.choice((("larger", larger, smaller), ("smaller", smaller, larger)))
    opener = rng.choice(("Of", "Between"))
    words = [opener, first, "and", second, ",", "the", which, "is", answer, "."]
    return Sentence(words, len(words) - 2, wrong)


def induction(rng: random.Random, held_out: bool) -> Sentence:
    """Distinct random words, then the same again up to the answer."""
    while True:
        words = rng.sample(CONTENT_WORDS, rng.randint(5, 26))
        asked = rng.randint(1, min(len(words) - 1, 24))
        if is_held_out("induction", words[asked - 1], words[asked]) == held_out:
            return Sentence([*words, *words[: asked + 1]], len(words) + asked, None)


SENTENCES: dict[str, Callable[[random.Random, bool], Sentence]] = {
    "indirect_object": indirect_object,
    "fact": fact,
    "comparison": comparison,
    "induction": induction,
}
TEXT_TASKS = ("indirect_object", "fact", "comparison")
TEXT_ODDS = (0.34, 0.12, 0.54)  # comparisons are short and the slowest to learn


def _text_sentence(rng: random.Random) -> Sentence:
    return SENTENCES[rng.choices(TEXT_TASKS, TEXT_ODDS)[0]](rng, False)


def _trained_block(rng: random.Random) -> list[str]:
    """Distinct random words; no neighbours (last and first included) form a held-out pair."""
    while True:
        block = [rng.choice(CONTENT_WORDS)]
        for _ in range(rng.randint(3, 26)):
            taken = {*block}
            while (word := rng.choice(CONTENT_WORDS)) in taken or is_held_out(
                "induction", block[-1], word
            ):
                pass
            block.append(word)
        if not is_held_out("induction", block[-1], block[0]):
            return block


def _repeated_row(rng: random.Random) -> Row:
    """<bos>, perhaps a sentence, then random words repeated until the row is full."""
    words = [BOS, *(_text_sentence(rng).words if rng.random() < 0.3 else [])]
    weights = [TEXT_WEIGHT] * len(words)
    block = _trained_block(rng)
    weights += [NOISE_WEIGHT] * (len(block) + 1)  # where the repetition starts is not predictable
    while len(words) < ROW_TOKENS:
        words += block
    weights += [1.0] * (ROW_TOKENS - len(weights))
    return Row(words[:ROW_TOKENS], weights[:ROW_TOKENS])


def _text_row(rng: random.Random) -> Row:
    """<bos>, whole sentences, <eos>, padding that carries no loss."""
    words, weights = [BOS], [0.0]
    while True:
        sentence = _text_sentence(rng)
        if len(words) + len(sentence.words) >= ROW_TOKENS:
            break
        words += sentence.words
        weights += [TEXT_WEIGHT] * len(sentence.words)
        weights[sentence.answer - len(sentence.words)] = ANSWER_WEIGHT
    n_pad = ROW_TOKENS - len(words) - 1
    return Row([*words, EOS, *[PAD] * n_pad], [*weights, TEXT_WEIGHT, *[0.0] * n_pad])


def training_rows(seed: int, repeated: float = 0.35) -> Iterator[Row]:
    """Endless training sequences of ROW_TOKENS words; `repeated` is the share of induction rows."""
    rng = random.Random(f"train {seed}")
    while True:
        yield _repeated_row(rng) if rng.random() < repeated else _text_row(rng)


def held_out_prompts(
    task: str, n: int, seed: int = 0, *, max_sentences_before: int = 3
) -> list[Prompt]:
    """Questions whose asked-for combination never occurs in training.

    Args:
        task: one of TASKS.
        n: how many.
        seed: other seeds give other prompts; training uses a separate stream.
        max_sentences_before: up to this many training-like sentences come first, as far as the
            prompt with <bos> stays within ROW_TOKENS. 0 asks the bare question.

    Returns:
        Prompts whose `text` needs <bos> in front.

    Example:
        >>> held_out_prompts("comparison", 1, max_sentences_before=0)[0].text.split()[-2:]
        ['larger', 'is']
    """
    rng = random.Random(f"held out {task} {seed}")
    prompts = []
    for _ in range(n):
        asked = SENTENCES[task](rng, True)
        words = asked.words[: asked.answer]
        # Random words came after at most one sentence in training.
        limit = min(max_sentences_before, 1) if task == "induction" else max_sentences_before
        for _ in range(rng.randint(0, limit)):
            before = _text_sentence(rng).words
            if 1 + len(before) + len(words) < ROW_TOKENS:
                words = before + words
        prompts.append(Prompt(" ".join(words), asked.words[asked.answer], asked.wrong))
    return prompts


def build_tokenizer() -> Tokenizer:
    """One id per word. No post-processor: like the `-it` tokenizers it adds no <bos> by itself."""
    vocabulary = {word: i for i, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in SPECIALS])
    return tokenizer
