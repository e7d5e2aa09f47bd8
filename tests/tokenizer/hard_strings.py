"""Random and adversarial strings, the same ones for the same seed, on which encoders could differ."""

import random
from collections.abc import Callable, Iterator

LITERALS = (
    *("<s>", "</s>", "<unk>", "<pad>", "<0x0A>", "<0x41>", "<0xFF>", "<0x0a>", "<0x", "[INST]", "[/INST]", "<<SYS>>"),
    *("<|im_start|>", "<|endoftext|>", "<|user|>\n", "[AVAILABLE_TOOLS]", "[control_8]", "<s", "/s>", "<s></s>"),
)
EMOJI = (
    "👩",
    "👨",
    "👧",
    "👍",
    "🏽",
    "🏳",
    "🌈",
    "🇫",
    "🇷",
    "❤",
    "🧑🏿\u200d🚀",
    "👩\u200d👩\u200d👧\u200d👦",
    "1\ufe0f\u20e3",
)
JOINERS = ("\u200d", "\ufe0f", "\u200c", "\u200b", "\u2060", "\ufeff")
NEWLINES = ("\n", "\r\n", "\r", "\n\n", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\n \n", "\t\n")
BLANKS = (" ", "\t", "\xa0", "\u3000", "\u2003", "\u202f", "▁")
CODE = ("def f(x):\n    return x ** 2", "\t\tif (a && b) { c[0] += 1; }", 'print(f"{x!r:>8}")', "https://a.b/c?d=%20#e")
RANGES = {
    "latin": (0x20, 0x250), "greek and cyrillic": (0x370, 0x530), "hebrew and arabic": (0x590, 0x700),
    "devanagari to thai": (0x900, 0xE80), "hangul": (0xAC00, 0xD7A4), "kana": (0x3040, 0x3100), "cjk": (0x4E00, 0xA000),
    "rare cjk": (0x20000, 0x2A6E0), "marks": (0x300, 0x370), "bidirectional": (0x200E, 0x2070), "symbols": (0x2100, 0x2C00),
    "control": (0x00, 0x20), "more control": (0x7F, 0xA0), "private": (0xE000, 0xF900), "emoji": (0x1F300, 0x1FB00),
    "any plane": (0x10000, 0x110000), "last of the first plane": (0xFF00, 0x10000),
}  # fmt: skip


def hard_strings(count: int, seed: int, words: list[str]) -> Iterator[str]:
    """`count` strings of 0 to some hundred characters, a few of thousands; `words`: of texts or of a vocabulary."""
    dice = random.Random(seed)
    parts = _parts(dice, words)
    for _ in range(count):
        text = "".join(dice.choice(parts)() for _ in range(min(int(dice.expovariate(0.2)), 40)))
        if dice.random() < 0.2:
            text = " " * dice.randrange(1, 9) + text
        yield text


def giant_strings(words: list[str]) -> dict[str, str]:
    """Single words and runs of a megabyte, and of a length that a slow encoder still gets through."""
    dice = random.Random(0)
    return {
        "a letter": "a" * 1_000_000,
        "a blank": " " * 1_000_000,
        "a letter of two bytes": "é" * 500_000,
        "a sign without a piece": "𐎠" * 100_000,
        "two letters": "ab" * 300_000,
        "line feeds": "\n" * 500_000,
        "digits": "0123456789" * 50_000,
        "one long word": "".join(dice.choices("etaoinshrdlu", k=300_000)),
        "words without blanks": "".join(dice.choices(words, k=50_000)).replace(" ", ""),
        "words": " ".join(dice.choices(words, k=50_000)),
    }


def _parts(dice: random.Random, words: list[str]) -> list[Callable[[], str]]:
    def characters(start: int, stop: int) -> Callable[[], str]:
        return lambda: "".join(chr(dice.randrange(start, stop)) for _ in range(dice.randrange(1, 9)))

    def run_of(signs: tuple[str, ...], longest: int) -> Callable[[], str]:
        return lambda: dice.choice(signs) * dice.randrange(1, longest)

    def word() -> str:
        return dice.choice(words)

    def sentence() -> str:
        return " ".join(dice.choices(words, k=dice.randrange(1, 12)))

    def joined_emoji() -> str:
        return "".join(dice.choice(EMOJI) + dice.choice((*JOINERS, "")) for _ in range(dice.randrange(1, 6)))

    def long_word() -> str:
        return "".join(dice.choices("etaoin", k=dice.randrange(50, 2000))) if dice.random() < 0.02 else "antidis"

    def number() -> str:
        return f"{dice.uniform(-1e6, 1e6):.{dice.randrange(8)}f}"

    ranges = [characters(*bounds) for bounds in RANGES.values()]
    literals = [lambda: dice.choice(LITERALS), lambda: dice.choice(CODE)]
    runs = [run_of(BLANKS, 20), run_of((" ",), 60), run_of(NEWLINES, 5), run_of(tuple("ae0-=.<"), 40)]
    plain: list[Callable[[], str]] = [word, sentence, lambda: " ", number, long_word, joined_emoji]
    return [*plain * 3, *ranges, *literals * 3, *runs * 2]
