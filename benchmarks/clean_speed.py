"""Speed of the quality rules and of MinHash beside datatrove's: MB of UTF-8 per CPU-second, start-up left out.

    .venv/bin/python benchmarks/clean_speed.py --data ../shared --peer PYTHON [--documents 600] [--megabytes 8]

PYTHON is the interpreter of an environment with `datatrove[processing]` in it (0.10.1 was measured). Both sides run in turn
in this run, on documents of 3,000 characters of the corpora under `--data`, on one core; the peer gets the first
`--documents` of them. Its four filters (Gopher quality and repetition, C4, FineWeb) stop at the first that drops a
document, as ours do; so that all rules work on all documents there is a second figure with each filter on every document.
MinHash is whole on both sides: signatures of 14 bands of 8 hashes of 5 words, buckets, clusters.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from content_speed import documents

from tinyllama.cleaning.clean_config import CleanConfig

PEER = """
import json, sys, time, tempfile
from pathlib import Path
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter)
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
from datatrove.utils.logging import logger
logger.remove()
texts = json.loads(Path(sys.argv[1]).read_text())
filters = [
    GopherQualityFilter(), GopherRepetitionFilter(), C4QualityFilter(filter_curly_bracket=False), FineWebQualityFilter()]
def made(chosen):
    return [Document(text=text, id=str(number)) for number, text in enumerate(chosen)]
def in_turn(chosen):
    for document in made(chosen):
        for one in filters:
            verdict = one.filter(document)
            if verdict is not True and not (isinstance(verdict, tuple) and verdict[0]):
                break
def all_rules(chosen):
    for document in made(chosen):
        for one in filters:
            one.filter(document)
def minhash(chosen):
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    with tempfile.TemporaryDirectory() as folder:
        MinhashDedupSignature(f"{folder}/s", config=config).run(made(chosen), 0, 1)
        for bucket in range(14):
            MinhashDedupBuckets(f"{folder}/s", f"{folder}/b", config=config).run(None, bucket, 14)
        MinhashDedupCluster(f"{folder}/b", f"{folder}/r", config=config).run(None, 0, 1)
        list(MinhashDedupFilter(f"{folder}/r").run(made(chosen), 0, 1))
for work in (in_turn, all_rules, minhash):
    work(texts[:10])
    started = time.process_time()
    work(texts)
    print(json.dumps([work.__name__, time.process_time() - started]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peer", default="", help="Python of an environment with datatrove; empty: only ours.")
    parser.add_argument("--documents", type=int, default=600)
    parser.add_argument("--megabytes", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    texts = documents(given.data, int(given.megabytes * 1e6))
    texts = texts[:: max(1, len(texts) // given.documents)] + texts  # the peer's share first, of every corpus
    ours, theirs = ours_of(texts), texts[: given.documents]
    rows: dict[str, list[float]] = {}
    for _ in range(given.rounds):
        for name, work in ours.items():
            work()
            started = time.process_time()
            work()
            rows.setdefault(f"ours {name}", []).append(_megabytes(texts) / (time.process_time() - started))
        if given.peer:
            for name, seconds in peer_seconds(given.peer, theirs):
                rows.setdefault(f"datatrove {name}", []).append(_megabytes(theirs) / seconds)
    best = {name: round(max(speeds), 3) for name, speeds in rows.items()}
    for side, rules in (("ours", "rules"), ("datatrove", "in_turn"), ("datatrove", "all_rules")):
        if f"{side} {rules}" in best:
            both = 1 / (1 / best[f"{side} {rules}"] + 1 / best[f"{side} minhash"])
            best[f"{side} {rules} and minhash"] = round(both, 3)
    if given.peer:
        pair = best["ours rules and minhash"], best["datatrove in_turn and minhash"]
        best["ratio, rules and minhash"] = round(pair[0] / pair[1], 1)
    print(json.dumps({"documents": len(texts), "megabytes": round(_megabytes(texts), 2), "mb_per_cpu_second": best}))


def ours_of(texts: list[str]) -> dict[str, Callable[[], object]]:
    """The same steps as `clean` runs them."""
    from tinyllama.cleaning import clean_run, quality
    from tinyllama.dedup import minhash

    assert clean_run
    config = CleanConfig(c4_curly_bracket=False)
    return {
        "rules": lambda: quality.quality_reasons(texts, config),
        "minhash": lambda: minhash.near_duplicate_clusters(texts, bands=14, rows=8, ngram_words=5),
    }


def peer_seconds(python: str, texts: list[str]) -> list[tuple[str, float]]:
    """CPU seconds of each of the peer's works."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.json"
        path.write_text(json.dumps(texts))
        output = subprocess.run([python, "-c", PEER, str(path)], check=True, stdout=subprocess.PIPE, text=True).stdout
    return [tuple(json.loads(line)) for line in output.splitlines() if line.startswith('["')]


def _megabytes(texts: list[str]) -> float:
    return sum(len(text.encode()) for text in texts) / 1e6


if __name__ == "__main__":
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        if os.environ.get(name) != "1":
            os.environ[name] = "1"
            os.execv(sys.executable, [sys.executable, *sys.argv])
    main()
