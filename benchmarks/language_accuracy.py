"""Accuracy of language identification, by language: precision and recall at several least confidences.

    .venv/bin/python benchmarks/language_accuracy.py --data ../shared

The sentences are those of `langid/lingua_sentences_test.jsonl.gz`: 150 of each of 75 languages, one sentence each, which is
less than a document has. A sentence below the confidence counts as unknown: that lowers recall, not precision.
"""

import argparse
import gzip
import json
from collections import Counter
from pathlib import Path

from tinyllama.cleaning.language import LanguageDetector

CONFIDENCES = (0.0, 0.5, 0.65, 0.8)
# Two codes for one language, or a language and the one that the sample names: fastText says the left one.
SAME = {"nb": "no", "nn": "no", "fil": "tl"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--norwegian-apart", action="store_true", help="Count Bokmål and Nynorsk as two languages.")
    given = parser.parse_args()
    same = {} if given.norwegian_apart else SAME
    detector = LanguageDetector()
    with gzip.open(given.data / "langid" / "lingua_sentences_test.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    found = [(same.get(row["label"], row["label"]), *detector.detect(row["text"])) for row in rows]
    found = [(label, same.get(guess, guess), confidence) for label, guess, confidence in found]
    labels = Counter(label for label, _, _ in found)
    header = " ".join(f"prec@{least} rec@{least}".rjust(18) for least in CONFIDENCES)
    print(f"{'':10}{header}  most often taken for")
    totals = dict.fromkeys(CONFIDENCES, 0)
    for label in sorted(labels):
        cells = []
        for least in CONFIDENCES:
            right = sum(guess == label == truth and sure >= least for truth, guess, sure in found)
            said = sum(guess == label and sure >= least for _, guess, sure in found)
            totals[least] += right
            cells.append(f"{right / max(said, 1):8.3f} {right / labels[label]:9.3f}")
        wrong = Counter(guess for truth, guess, _ in found if truth == label != guess).most_common(2)
        print(f"{label:10}{' '.join(cells)}  {', '.join(f'{guess} {count}' for guess, count in wrong)}")
    shares = {least: round(right / len(found), 4) for least, right in totals.items()}
    print(json.dumps({"sentences": len(found), "languages": len(labels), "right and as sure": shares}))


if __name__ == "__main__":
    main()
