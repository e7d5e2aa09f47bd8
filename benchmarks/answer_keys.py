"""Every task answered by one who knows the answers and by one who draws them: are the answer keys read rightly?

python -m benchmarks.answer_keys eval --limit 500
"""

import argparse
import tempfile
from pathlib import Path

from tests.instruments.answer_keys import Chance, Oracle, chance_score
from tinyllama.errors import InputError
from tinyllama.harness.load_task import load_task
from tinyllama.harness.run_tasks import TaskSettings, measure
from tinyllama.harness.task_list import choose_tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--limit", type=int, default=500)
    options = parser.parse_args()
    settings = TaskSettings(options.data_dir, options.limit)
    print("| task | metric | n | oracle | drawn | expected |\n|---|---|---:|---:|---:|---:|")
    for entry in choose_tasks(["all"]):
        try:
            loaded = load_task(entry, options.data_dir, limit=options.limit)
        except InputError as error:
            print(f"| {entry.name} | | | {error} | | |")
            continue
        with tempfile.TemporaryDirectory() as folder:
            oracle = measure(Oracle(loaded), entry, settings, Path(folder) / "oracle", {}, entry.name)["metrics"]
            drawn = measure(Chance(loaded), entry, settings, Path(folder) / "drawn", {}, entry.name)["metrics"]
        for metric in entry.metrics:
            expected, error = chance_score(loaded, metric), drawn[f"{metric}_stderr"]
            shown = "" if expected is None else f"{expected:.3f}"
            spread = "" if error is None else f" ± {error:.3f}"
            print(
                f"| {entry.name} | {metric} | {loaded.n} | {oracle[metric]:.3f} | {drawn[metric]:.3f}{spread} | {shown} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
