"""Peak memory and processor time of `clean` as documents become more.

    .venv/bin/python benchmarks/clean_memory.py --data ../shared --documents 10000 100000 1000000 [--chars 400]
        [--max-memory-bytes 500000000] [--out FOLDER] [key=value ...]

The documents are runs of paragraphs of the corpora under `--data`. Where these run out they are made by mutation: a real
document with three words of ten replaced by words from elsewhere in the corpora, so that no two are near-duplicates; one of
a hundred is a copy of the one before with 1% of its words changed. Memory is the sum over the process and its workers of
the proportional set size (shared pages count once), looked at ten times a second.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from safety_default import corpus_documents


def documents(data: Path, count: int, chars: int) -> Iterator[str]:
    """`count` documents of about so many characters."""
    real, made, chance = [], 0, random.Random(1)
    for _, _, text in corpus_documents(data):
        piece = ""
        for paragraph in text.split("\n\n"):
            piece = f"{piece}\n\n{paragraph[:chars]}" if piece else paragraph[:chars]
            if len(piece) >= chars:
                real.append(piece)
                piece = ""
                made += 1
                yield real[-1]
                if made == count:
                    return
    words = [word for text in real[::50] for word in text.split(" ")]
    last = real[-1].split(" ")
    for number in range(made, count):
        share = 0.01 if number % 100 == 0 else 0.3
        chosen = last if number % 100 == 0 else real[chance.randrange(len(real))].split(" ")
        last = [chance.choice(words) if chance.random() < share else word for word in chosen]
        yield " ".join(last)


def tree_bytes(root: int) -> int:
    """Proportional set size of a process and all below it."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
        except OSError:
            continue
    total, waiting = 0, [root]
    while waiting:
        process = waiting.pop()
        waiting += parents.get(process, [])
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
        except OSError:
            continue
    return total


def measured(inputs: Path, out: Path, overrides: list[str]) -> dict[str, object]:
    """One run of the command: its peak memory and what it says of itself."""
    command = [sys.executable, "-m", "tinyllama", "clean", str(inputs), "--out", str(out), "--json", *overrides]
    with (out.parent / "answer.json").open("wb") as answer:
        process = subprocess.Popen(command, stdout=answer, stderr=subprocess.DEVNULL)
        peak = 0
        while process.poll() is None:
            peak = max(peak, tree_bytes(process.pid))
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    summary = json.loads((out.parent / "answer.json").read_text())
    kept = ("documents_in", "documents_out", "text_bytes_in", "seconds", "cpu_seconds", "clustered", "dropped")
    return {"peak_bytes": peak, **{name: summary[name] for name in kept}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--documents", type=int, nargs="+", required=True)
    parser.add_argument("--chars", type=int, default=400)
    parser.add_argument("--max-memory-bytes", type=int, default=500_000_000)
    parser.add_argument("--out", type=Path, default=None, help="Where the files lie while it works.")
    given, overrides = parser.parse_known_args()
    overrides.append(f"clean.max_memory_bytes={given.max_memory_bytes}")
    for count in given.documents:
        with tempfile.TemporaryDirectory(dir=given.out) as folder:
            inputs = Path(folder) / "in"
            inputs.mkdir()
            with (inputs / "x.jsonl").open("w") as file:
                for number, text in enumerate(documents(given.data, count, given.chars)):
                    file.write(json.dumps({"id": f"{number}", "text": text}) + "\n")
            print(json.dumps(measured(inputs, Path(folder) / "out", overrides)), flush=True)
            shutil.rmtree(inputs)


if __name__ == "__main__":
    main()
