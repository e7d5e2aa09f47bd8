import gzip
import json
import random
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyllama.dedup import minhash

TRUTH = Path(__file__).parents[3] / "shared" / "neardup"


def test_recall_curve_by_hand() -> None:
    assert minhash.candidate_probability(0.5, bands=1, rows=1) == 0.5
    assert minhash.candidate_probability(0.5, bands=2, rows=1) == 0.75
    assert minhash.candidate_probability(0.5, bands=2, rows=2) == 1 - 0.75**2
    assert round(minhash.candidate_probability(0.8, bands=14, rows=8), 3) == 0.924


def test_normalised_words() -> None:
    assert minhash.normalise_text("  A\tＢ\n\nc ") == "a b c"
    assert minhash.shingle_words("Don't STOP_me: it's 3.5, 中文字 カ!") == "don t stop me it s 3 5 中 文 字 カ"
    assert minhash.shingle_words("?! ...") == ""


@settings(deadline=None)
@given(st.text() | st.text("aZ_ é中カ\u0e01\u0307İß.\n½²ﬁ", max_size=30))
def test_words_of_any_text(text: str) -> None:
    """The obvious way: every run of letters and digits, or one character of a script without blanks."""
    text = text.encode("utf-8", "replace").decode()
    alone = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    alone += "\U00020000-\U0003ffff"
    lowered = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower()).lower()
    found = re.findall(rf"[{alone}]|[^\W_{alone}]+", lowered)
    assert minhash.shingle_words(text) == " ".join(word for word in found if word.isalnum())


def test_band_hashes_see_each_row_and_its_place() -> None:
    signatures = np.array([[1, 2, 3, 4], [2, 1, 3, 4], [1, 2, 3, 5]], np.uint32)
    hashes = minhash.band_hashes(signatures, bands=2)
    assert hashes.shape == (3, 2)
    assert hashes[0, 0] == hashes[2, 0] != hashes[1, 0]
    assert hashes[0, 1] == hashes[1, 1] != hashes[2, 1]


def words(seed: int, count: int) -> list[str]:
    chooser = random.Random(seed)
    return ["".join(chooser.choices("abcdefghij", k=5)) for _ in range(count)]


def test_small_changes_are_found_and_strangers_are_not() -> None:
    texts = []
    for seed in range(30):
        original = words(seed, 300)
        changed = original.copy()
        changed[150] = "CHANGED"
        texts += [" ".join(original), " ".join(changed).replace(" ", ", ")]
    labels = minhash.near_duplicate_clusters(texts, bands=14, rows=8, ngram_words=5)
    assert sum(labels[n] == labels[n + 1] for n in range(0, 60, 2)) == 30  # similarity 0.967: missed once in 10^9
    assert len(set(labels.tolist())) == 30


def test_texts_without_words_are_no_duplicates_and_chinese_ones_can_be() -> None:
    chinese = "".join(chr(0x4E00 + random.Random(5).randrange(3000) + n) for n in range(200))
    labels = minhash.near_duplicate_clusters(["", "!!", "...", chinese, chinese + "了", "一二三四五六"], 14, 8, 5)
    assert labels[3] == labels[4]
    assert len(set(labels.tolist())) == 5


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(6)))
def test_clusters_do_not_depend_on_order(order: list[int]) -> None:
    base = words(1, 100)
    texts = [" ".join(base), " ".join([*base, "more"]), " ".join(words(2, 100)), "", "one", "One!"]
    labels = minhash.near_duplicate_clusters([texts[n] for n in order], 14, 8, 5)
    groups = {frozenset(n for n, other in zip(order, labels, strict=True) if other == label) for label in labels}
    assert groups == {frozenset({0, 1}), frozenset({2}), frozenset({3}), frozenset({4, 5})}


@pytest.mark.skipif(not TRUTH.exists(), reason="the near-duplicate sample is not here")
def test_plagiarised_articles_are_found() -> None:
    with gzip.open(TRUTH / "articles_1000.jsonl.gz", "rt", encoding="utf-8") as file:
        articles = {row["id"]: row["text"] for row in map(json.loads, file)}
    with gzip.open(TRUTH / "articles_1000_truth.jsonl.gz", "rt", encoding="utf-8") as file:
        pairs = {(row["id1"], row["id2"]) for row in map(json.loads, file)}
    labels = minhash.near_duplicate_clusters(list(articles.values()), bands=14, rows=8, ngram_words=5)
    label_of = dict(zip(articles, labels.tolist(), strict=True))
    assert all(label_of[a] == label_of[b] for a, b in pairs)
    assert len(articles) - len(set(labels.tolist())) == len(pairs)  # and nothing else
