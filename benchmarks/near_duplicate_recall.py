"""Recall and precision of near-duplicates by the share of words changed, and the curve that the bands promise.

    .venv/bin/python benchmarks/near_duplicate_recall.py --data ../shared [--bands 14 --rows 8]

The texts are the 1,000 articles of `neardup/`, with their ten true pairs; of each a copy with so large a share of its words
replaced. Recall: copies in their article's cluster. Wrong: pairs of articles in one cluster that the truth does not list.
"""

import argparse
import gzip
import json
import random
from pathlib import Path

from tinyllama.cleaning import clean_run
from tinyllama.dedup import minhash

assert clean_run  # sets Daft's environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bands", type=int, default=14)
    parser.add_argument("--rows", type=int, default=8)
    given = parser.parse_args()
    folder = given.data / "neardup"
    with gzip.open(folder / "articles_1000.jsonl.gz", "rt", encoding="utf-8") as file:
        articles = {row["id"]: row["text"] for row in map(json.loads, file)}
    with gzip.open(folder / "articles_1000_truth.jsonl.gz", "rt", encoding="utf-8") as file:
        truth = {frozenset((row["id1"], row["id2"])) for row in map(json.loads, file)}
    names, chance = list(articles), random.Random(3)
    vocabulary = [word for text in articles.values() for word in text.split()]
    for share in (0.01, 0.03, 0.05, 0.1, 0.2):
        copies, similarity = [], 0.0
        for text in articles.values():
            words = text.split()
            copies.append(" ".join(chance.choice(vocabulary) if chance.random() < share else word for word in words))
            similarity += jaccard(words, copies[-1].split()) / len(articles)
        labels = minhash.near_duplicate_clusters([*articles.values(), *copies], given.bands, given.rows, 5).tolist()
        found = sum(a == b for a, b in zip(labels[: len(names)], labels[len(names) :], strict=True))
        clusters: dict[int, list[str]] = {}
        for name, label in zip(names, labels, strict=False):
            clusters.setdefault(label, []).append(name)
        pairs = {frozenset((a, b)) for group in clusters.values() for a in group for b in group if a < b}
        promised = minhash.candidate_probability(similarity, given.bands, given.rows)
        row = {"words changed": share, "mean similarity": round(similarity, 3), "promised there": round(promised, 3)}
        row |= {"recall": found / len(names), "true pairs": len(pairs & truth), "wrong pairs": len(pairs - truth)}
        print(json.dumps(row), flush=True)


def jaccard(a: list[str], b: list[str]) -> float:
    """Of runs of five words."""
    first, second = ({tuple(words[n : n + 5]) for n in range(len(words) - 4)} for words in (a, b))
    return len(first & second) / max(1, len(first | second))


if __name__ == "__main__":
    main()
