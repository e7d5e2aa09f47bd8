"""Exact match and F1 of SQuAD (Rajpurkar et al. 2016, section 6.1; 2018, section 5), after its official evaluation.

Before two answers are compared, both are put in lower case and lose punctuation, the articles and superfluous blanks.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """What of an answer counts: `"The  Cat!"` and `"cat"` are the same."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, golds: Sequence[str]) -> float:
    """1 when the answer is one of the gold answers; no gold answer means that there is none to give."""
    return float(any(normalize_answer(answer) == normalize_answer(gold) for gold in _or_none(golds)))


def answer_f1(answer: str, golds: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of the answer's words, for the gold answer where it is highest."""
    return max(_f1(normalize_answer(answer).split(), normalize_answer(gold).split()) for gold in _or_none(golds))


def _or_none(golds: Sequence[str]) -> Sequence[str]:
    kept = [gold for gold in golds if normalize_answer(gold)]  # "the" alone is no answer
    return kept or [""]


def _f1(words: list[str], gold: list[str]) -> float:
    if not words or not gold:
        return float(words == gold)
    common = sum((Counter(words) & Counter(gold)).values())
    return 2 * common / (len(words) + len(gold))  # = 2 p r / (p + r) with p = common / words, r = common / gold
