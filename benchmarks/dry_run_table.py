"""What each rank of a 16-GPU layout would hold: one step built without devices (tests.instruments.dry_run), as a table.

python -m benchmarks.dry_run_table [--recipe tinyllama-1b] [--json table.json] [section.key=value ...]
"""

import argparse
import json
from pathlib import Path

from tests.instruments.dry_run import PARTS, dry_run
from tinyllama.parallel.layout import AXES, ParallelConfig, check_layout
from tinyllama.recipe import load_recipe

LAYOUTS = [  # replicate, shard, tensor, pipeline
    (16, 1, 1, 1), (1, 16, 1, 1), (2, 8, 1, 1), (8, 1, 2, 1), (4, 1, 4, 1), (8, 1, 1, 2), (4, 1, 2, 2), (2, 1, 4, 2),
    (4, 1, 1, 4), (1, 8, 2, 1), (1, 8, 1, 2), (1, 4, 2, 2), (2, 2, 2, 2),
]  # fmt: skip
BY_STEP = [(1, 16, 1, 1), (2, 8, 1, 1), (1, 8, 2, 1)]  # parallel.gather = "step"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="tinyllama-1b")
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, options.overrides)
    config, train = recipe.llama_config(), recipe.train
    names = [*PARTS, "peak"]
    print(f"| replicate x shard x tensor x pipeline | rank | {' | '.join(names)} |\n|---|---:|{'---:|' * len(names)}")
    rows = []
    for layout, gather in [*((layout, "layer") for layout in LAYOUTS), *((layout, "step") for layout in BY_STEP)]:
        parallel = ParallelConfig.model_validate(dict(zip(AXES, layout, strict=True)) | {"gather": gather})
        check_layout(
            config, parallel, micro_batches=train.micro_batches_per_step,
            micro_batch_tokens=train.micro_batch_size * train.seq_len,
        )  # fmt: skip
        for rank in sorted({0, parallel.world_size - 1} if parallel.pipeline > 1 else {0}):
            found = dry_run(config, train, parallel, rank)
            rows.append({"layout": layout, "gather": gather, "rank": rank, **found})
            figures = " | ".join(f"{found[name] / 1e9:.2f}" for name in names)
            words = " x ".join(map(str, layout)) + (" by step" if gather == "step" else "")
            print(f"| {words} | {rank} | {figures} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
