"""The same recipe on several numbers of ranks, with one order of sums and without: weights and tokens/s of each.

    python benchmarks/rank_table.py runs/mine --ranks 1,2,4,8          # RUN has shards/ and tokenizer/, which are only read
    python benchmarks/rank_table.py runs/mine --recipe drill.toml --ranks 1,2 train.device=cuda train.precision=bf16

Prints a row of a Markdown table for each run. Ranks are processes of this machine; on GPUs one a GPU.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tinyllama.drill.rank_processes import RankProcesses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="RUN")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--ranks", default="1,2,4,8")
    parser.add_argument("--rounds", type=int, default=1, help="The fastest of so many runs counts.")
    options = parser.parse_intermixed_args()  # overrides stand where they like
    print("| deterministic_reduction | ranks | tokens/s | loss | weights_sha256 |\n|---|---:|---:|---:|---|")
    for is_deterministic in ("true", "false"):
        for ranks in map(int, options.ranks.split(",")):
            words = [
                *options.overrides,
                f"train.deterministic_reduction={is_deterministic}",
                f"parallel.replicate={ranks}",
            ]
            runs = [train(options.data, options.recipe, words, ranks) for _ in range(options.rounds)]
            best = max(runs, key=lambda run: run["tokens_per_second"])
            hashes = {run["weights_sha256"][:16] for run in runs}
            print(
                f"| {is_deterministic} | {ranks} | {best['tokens_per_second']:,.0f} | {best['loss']!r} | "
                f"{', '.join(f'`{name}`' for name in sorted(hashes))} |",
                flush=True,
            )


def train(data: Path, recipe: str, words: list[str], ranks: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        run_dir.mkdir()
        for part in ("shards", "tokenizer"):
            (run_dir / part).symlink_to((data / part).resolve(), target_is_directory=True)
        command = ["pretrain", recipe, *words, "--run-dir", str(run_dir), "--json"]
        processes = RankProcesses(command, ranks, run_dir / "output")
        if any(processes.wait()):
            sys.exit("\n".join(processes.errors(rank) for rank in range(ranks)))
        summary = json.loads(processes.output())
        processes.end()
        return summary


if __name__ == "__main__":
    main()
