"""Speed of encoding, side by side, in one process on one thread: ours, sentencepiece, tokenizers.

    .venv/bin/python benchmarks/tokenizer_speed.py TOKENIZER TEXTS... [--megabytes 20] [--rounds 3]

TOKENIZER: a folder with tokenizer.model. TEXTS: files or folders of documents; equal shares of each file are read. Each
encoder gets the same documents and must give the same ids. A round makes every encoder anew, lets it encode a little,
then measures; rounds go through the encoders in turn, so that a busy machine slows all alike. Speeds are the best round's.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # CPU seconds are compared; threads would only add overhead

import numpy as np
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer as HuggingFaceTokenizer

from tinyllama.files import input_files
from tinyllama.tokenizer.bpe import JSON_FILE, MODEL_FILE, Tokenizer
from tinyllama.tokenizer.document_text import SUFFIXES, read_documents

Encode = Callable[[list[str]], list[Any]]
OURS, FALLBACK, PEER = "tinyllama", "sentencepiece (our fallback)", "tokenizers"
LINES = "tokenizers, a line at a time"
WARM_UP_TEXTS = 3


def documents(paths: list[Path], max_bytes: int) -> list[str]:
    """The first documents of each file, equal bytes of each."""
    files = input_files(paths, SUFFIXES)
    texts: list[str] = []
    for path in files:
        room = max_bytes / len(files)
        for document in read_documents(path):
            texts.append(document.text)
            room -= len(document.text.encode())
            if room <= 0:
                break
    return texts


def encoders(folder: Path) -> dict[str, Callable[[], Encode]]:
    """By name, what makes an encoder anew. None of them adds BOS, and special tokens in a text stay text."""

    def ours() -> Encode:
        return Tokenizer.load(folder).encode_batch

    def sentencepiece() -> Encode:
        model = SentencePieceProcessor(model_file=str(folder / MODEL_FILE))
        return lambda texts: [model.encode(text) for text in texts]

    def tokenizers() -> Encode:
        reader = HuggingFaceTokenizer.from_file(str(folder / JSON_FILE))
        reader.encode_special_tokens = True
        return lambda texts: [found.ids for found in reader.encode_batch_fast(texts, add_special_tokens=False)]

    def tokenizers_by_line() -> Encode:
        """Short inputs suit it better, because it has no pre-tokenizer here; the ids are others, at each line's start."""
        encode = tokenizers()
        return lambda texts: [ids for text in texts for ids in encode(text.split("\n"))]

    return {OURS: ours, FALLBACK: sentencepiece, PEER: tokenizers, LINES: tokenizers_by_line}


def measure(makers: dict[str, Callable[[], Encode]], texts: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """MB (10^6 bytes of UTF-8) per CPU-second and per second of each encoder. Raises SystemExit if ids differ."""
    text_bytes = sum(len(text.encode()) for text in texts)
    best: dict[str, dict[str, float]] = {}
    wanted: list[np.ndarray] = []
    for _ in range(rounds):
        for name, make in makers.items():
            encode = make()
            encode(texts[:WARM_UP_TEXTS])
            wall, cpu = time.perf_counter(), time.process_time()
            found = encode(texts)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if name == OURS:
                wanted = found
            elif name != LINES and not all(map(np.array_equal, found, wanted)):
                sys.exit(f"{name} gives other ids")
            speed = {"mb_per_cpu_second": text_bytes / cpu / 1e6, "mb_per_second": text_bytes / wall / 1e6}
            best[name] = {key: max(value, best.get(name, speed)[key]) for key, value in speed.items()}
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("texts", type=Path, nargs="+")
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    texts = documents(options.texts, int(options.megabytes * 1e6))
    speeds = measure(encoders(options.tokenizer), texts, options.rounds)
    ours = speeds[OURS]["mb_per_cpu_second"]
    result = {
        "documents": len(texts),
        "text_bytes": sum(len(text.encode()) for text in texts),
        "vocab_size": Tokenizer.load(options.tokenizer).vocab_size,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("gigatoken", "sentencepiece", "tokenizers")},
        "encoders": {
            name: {**{key: round(value, 2) for key, value in speed.items()},
                   "ours_is_faster_by": round(ours / speed["mb_per_cpu_second"], 1)}
            for name, speed in speeds.items()
        },
    }  # fmt: skip
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
