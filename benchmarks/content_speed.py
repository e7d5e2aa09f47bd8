"""Speed of the content steps of `clean` on documents of 3 kB, in MB of UTF-8 per CPU-second, start-up left out.

    .venv/bin/python benchmarks/content_speed.py --data ../shared [--megabytes 10] [--rounds 5]

Safety scores 64 documents together, as `clean` does; personal information and decontamination take one after another.
Rounds go through the steps in turn, so that a busy machine slows all alike; a step's speed is its best round's. Beside
them: scikit-learn's own hashed word and character n-grams (HashingVectorizer, word 1-3 and char 3-5) with the same
number of slots, which is what the vectorised features are for, and C4's word list as one regular expression. Also what
is found in this ordinary text.
"""

import argparse
import json
import platform
import re
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from safety_default import corpus_documents, english_terms
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer

from tinyllama.cleaning.decontaminate import ContaminationIndex, build_index
from tinyllama.cleaning.pii import mask_personal_information, personal_spans
from tinyllama.cleaning.safety_model import open_safety_model

DOCUMENT_CHARS, TOGETHER = 3000, 64


def documents(data: Path, max_bytes: int) -> list[str]:
    """Documents of 3,000 characters, equal bytes of each corpus."""
    room = dict.fromkeys(("wikipedia_squad_train", "debian_docs", "openstax_ccby", "classic_books.1"), max_bytes / 4)
    texts = []
    for corpus, _, text in corpus_documents(data):
        for start in range(0, min(len(text), 300_000), DOCUMENT_CHARS):
            if room.get(corpus, 0) > 0:
                texts.append(text[start : start + DOCUMENT_CHARS])
                room[corpus] -= len(texts[-1].encode())
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--megabytes", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    texts = documents(given.data, int(given.megabytes * 1e6))
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    model = open_safety_model()
    started = time.process_time()
    index = build_index(given.data / "eval")
    index_seconds = time.process_time() - started
    with tempfile.TemporaryDirectory() as folder:
        index.save(Path(folder))
        index = ContaminationIndex.load(Path(folder))
        words = HashingVectorizer(ngram_range=(1, 3), n_features=1 << 18, alternate_sign=False)
        runs = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), n_features=1 << 18, alternate_sign=False)
        weights = np.ones(1 << 19)
        listed = re.compile(rf"(?:\W|^)({'|'.join(map(re.escape, english_terms(given.data)))})(?:\W|$)")

        def scikit_learn(chosen: list[str]) -> None:
            sparse.hstack([words.transform(chosen), runs.transform(chosen)]) @ weights

        steps = {
            "safety": lambda chosen: [
                model.text_probabilities(chosen[n : n + TOGETHER]) for n in range(0, len(chosen), TOGETHER)
            ],
            "personal information": lambda chosen: [mask_personal_information(text) for text in chosen],
            "decontamination": lambda chosen: [index.tasks_of(text) for text in chosen],
            "scikit-learn's hashed n-grams": lambda chosen: scikit_learn(chosen[::10]),
            "C4 word list": lambda chosen: [listed.search(text.lower()) for text in chosen[::10]],
        }
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for work in steps.values():
            work(texts[:300])
        for _ in range(given.rounds):
            for name, work in steps.items():
                started = time.process_time()
                work(texts)
                seconds[name].append(time.process_time() - started)
        part = {name: 0.1 if name in list(steps)[3:] else 1.0 for name in steps}
        speeds = {name: round(megabytes * part[name] / min(found), 2) for name, found in seconds.items()}
        tasks = Counter(task for text in texts for task in index.tasks_of(text))
    kinds = Counter(kind for text in texts for _, _, kind in personal_spans(text))
    report = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}",
        "megabytes": round(megabytes, 2), "documents": len(texts), "megabytes_per_cpu_second": speeds,
        "index_cpu_seconds": round(index_seconds, 1), "personal_information_found": dict(kinds), "contaminated": dict(tasks),
    }  # fmt: skip
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
