"""Our harness beside lm-eval's own HFLM on the same weights, examples and rule of BOS: predictions, scores, speed.

    python benchmarks/harness_peers.py --model SmolLM2.gguf --data-dir eval --tasks all --limit 100 --out agreement.json
    python benchmarks/harness_peers.py --model SmolLM2.gguf --data-dir eval --speed --out speed.json --minutes 7
    python benchmarks/harness_peers.py --table agreement.json another.json

Answers agree when the prediction is the same: the likeliest choice, whether a single continuation is greedy, the text
that is made (white space around it apart); of a whole text, when its log-probability is within 1e-4 of itself. `--speed`
times the seven zero-shot tasks first: HFLM tries each batch size on a part of HellaSwag and takes the fastest for all.
`--minutes` leaves out what is not begun by then. Results are written after every task.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from lm_eval.models.huggingface import HFLM

from tinyllama.exchange.hugging_face import export_hugging_face
from tinyllama.exchange.open_model import OpenedModel, open_model
from tinyllama.harness.lm_model import HarnessModel
from tinyllama.harness.run_tasks import TaskSettings, about_model, measure
from tinyllama.harness.task_list import SEVEN, TaskEntry, choose_tasks
from tinyllama.harness.task_results import read_examples, result_name

STARTED = time.perf_counter()
RELATIVE_TOLERANCE = 1e-4  # of the log-probability of a whole text


def main() -> None:
    options = arguments()
    if options.table:
        print(table(options.table))
        return
    if options.threads:
        torch.set_num_threads(options.threads)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[options.dtype]
    started = time.perf_counter()
    opened = open_model(options.model, options.device, dtype)
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if opened.device.type == "cuda" else "cpu",
        "dtype": options.dtype,
        "torch": torch.__version__,
        "open_seconds": round(time.perf_counter() - started, 2),
        "speed": {},
        "tasks": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        theirs = Theirs(opened, Path(folder), dtype, options.batch_size, options.decode_alike)
        settings = TaskSettings(options.data_dir, options.limit, max_tokens=options.max_tokens)
        if options.speed:
            found["speed"] = speed(opened, theirs, settings, options, Path(folder))
            write(options.out, found)
        else:
            theirs.batch_size = options.batch_size
        if options.tasks:
            agree(opened, theirs, settings, options, Path(folder), found)
    write(options.out, found)


class Theirs:
    """HFLM with our weights. A whole text gets one BOS from its own rule; told to add one, it would have two.

    `decode_alike`: token ids become text by our tokenizer. A random network makes bytes that are no UTF-8, and each library
    writes them in its own way; so it is the tokens that are compared.
    """

    def __init__(
        self, opened: OpenedModel, folder: Path, dtype: torch.dtype, batch_size: int, decode_alike: bool = False
    ) -> None:
        self._decode = opened.tokenizer.decode if decode_alike else None
        export_hugging_face(opened, folder / "model")
        self._folder, self._dtype, self._device = folder / "model", dtype, str(opened.device)
        self._add_bos = opened.add_bos and opened.tokenizer.bos_id is not None
        self.batch_size = batch_size
        self._kept: dict[tuple[bool, int | None], HFLM] = {}

    def model(self, is_rolling: bool, max_tokens: int | None) -> HFLM:
        """For whole texts, or for all else."""
        key = (self._add_bos and not is_rolling, max_tokens)
        if key not in self._kept:
            self._kept[key] = HFLM(
                pretrained=str(self._folder), device=self._device, dtype=self._dtype, batch_size=self.batch_size,
                add_bos_token=key[0], max_length=max_tokens,
            )  # fmt: skip
        model = self._kept[key]
        if self._decode is not None:
            whole, ours = HFLM.tok_decode, self._decode
            model.tok_decode = lambda ids, skip_special_tokens=True: (
                ours(ids) if skip_special_tokens else whole(model, ids, skip_special_tokens)
            )
        model.batch_size_per_gpu = self.batch_size
        return model

    def timed_by_task(self, entries: list[TaskEntry], settings: TaskSettings, out: Path) -> dict[str, Any]:
        """As `timed`, each task at the chosen batch size, or at the half, the quarter ... that the memory holds."""
        chosen, runs = self.batch_size, []
        for entry in entries:
            self.batch_size = chosen
            while True:
                try:
                    runs.append(timed(self.model(False, settings.max_tokens), [entry], settings, out))
                    break
                except torch.cuda.OutOfMemoryError:
                    if self.batch_size == 1:
                        raise
                    self.batch_size //= 2
            print("HFLM", entry.name, self.batch_size, runs[-1]["seconds"], flush=True)
        self.batch_size = chosen
        return summed(runs)


# -- speed -------------------------------------------------------------------------------------------------------------


def speed(
    opened: OpenedModel, theirs: Theirs, settings: TaskSettings, options: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """Seconds of the seven tasks by both, examples a second, HFLM's batch sizes on a part of HellaSwag."""
    entries = choose_tasks(SEVEN)
    tried: dict[str, float] = {}
    warm_up = replace(settings, limit=20)
    timed(theirs.model(False, settings.max_tokens), entries, warm_up, folder / "warm theirs")
    for batch_size in options.batch_sizes:
        theirs.batch_size = batch_size
        part = replace(settings, limit=options.part)
        try:
            scores = timed(theirs.model(False, settings.max_tokens), entries[:1], part, folder / f"batch{batch_size}")
            tried[str(batch_size)] = round(scores["examples"] / scores["seconds"], 2)
            print("HFLM", batch_size, tried[str(batch_size)], flush=True)
        except torch.cuda.OutOfMemoryError:
            break
    theirs.batch_size = int(max(tried, key=lambda size: tried[size])) if tried else options.batch_size
    ours: dict[str, Any] = {}
    for name, tokens, compiled in (
        (f"{tokens}{' compiled' if compiled else ''}", tokens, compiled)
        for tokens in options.tokens_per_batch
        for compiled in ([False, True] if options.compile else [False])
    ):
        model = HarnessModel(opened, tokens_per_batch=tokens, max_tokens=settings.max_tokens, compiled=compiled)
        warm = timed(model, entries, replace(settings, limit=20), folder / f"warm {name}")
        ours[name] = timed(model, entries, settings, folder / f"ours {name}") | {"warm_seconds": warm["seconds"]}
        print("ours", name, json.dumps(ours[name]), flush=True)
    hflm = theirs.timed_by_task(entries, settings, folder / "theirs")
    best = min(ours.values(), key=lambda run: run["seconds"])
    return {
        "hflm_examples_per_second_by_batch_size": tried,
        "hflm_batch_size": theirs.batch_size,
        "ours_by_tokens_per_batch": ours,
        "hflm": hflm,
        "times_faster": round(hflm["seconds"] / best["seconds"], 3),
    }


def timed(model: Any, entries: list[TaskEntry], settings: TaskSettings, out: Path) -> dict[str, Any]:
    """Seconds of the model's answers alone (`seconds`), and of everything, data and scores included (`all_seconds`)."""
    started, answers, examples = time.perf_counter(), 0.0, 0
    by_task: dict[str, float] = {}
    for entry in entries:
        scores = measure(model, entry, settings, out, {}, entry.name)
        answers, examples = answers + scores["seconds"], examples + scores["n"]
        by_task[entry.name] = scores["seconds"]
    return {
        "seconds": round(answers, 2), "all_seconds": round(time.perf_counter() - started, 2), "examples": examples,
        "examples_per_second": round(examples / answers, 2), "by_task": by_task,
    }  # fmt: skip


def summed(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Several runs of `timed` as one."""
    seconds, examples = (sum(run[key] for run in runs) for key in ("seconds", "examples"))
    by_task = {name: value for run in runs for name, value in run["by_task"].items()}
    return {
        "seconds": round(seconds, 2), "all_seconds": round(sum(run["all_seconds"] for run in runs), 2),
        "examples": examples, "examples_per_second": round(examples / seconds, 2), "by_task": by_task,
    }  # fmt: skip


# -- agreement ---------------------------------------------------------------------------------------------------------


def agree(
    opened: OpenedModel,
    theirs: Theirs,
    settings: TaskSettings,
    options: argparse.Namespace,
    folder: Path,
    found: dict[str, Any],
) -> None:
    """Fill `found["tasks"]`, a task after another."""
    about = about_model(opened)
    model = HarnessModel(opened, max_tokens=settings.max_tokens)
    caps = dict(cap.split("=") for cap in options.cap)
    for entry in choose_tasks(options.tasks):
        if time.perf_counter() - STARTED > options.minutes * 60:
            found["tasks"][entry.name] = {"left_out": "no time left"}
            continue
        try:
            limit = int(caps[entry.name]) if entry.name in caps else settings.limit
            found["tasks"][entry.name] = compared(model, theirs, entry, replace(settings, limit=limit), folder, about)
        except Exception as error:  # one task's fault must not cost the others
            found["tasks"][entry.name] = {"left_out": f"{type(error).__name__}: {str(error)[:200]}"}
        print(entry.name, json.dumps(found["tasks"][entry.name]), flush=True)
        write(options.out, found)


def compared(
    model: HarnessModel, theirs: Theirs, entry: TaskEntry, settings: TaskSettings, folder: Path, about: dict[str, Any]
) -> dict[str, Any]:
    """One task by both: scores, share of identical predictions, seconds."""
    is_rolling = entry.name == "wikitext103"
    ours = measure(model, entry, settings, folder / "ours", about, f"ours {entry.name}")
    hflm = theirs.model(is_rolling, settings.max_tokens)
    other = measure(hflm, entry, settings, folder / "theirs", about, f"HFLM {entry.name}")
    name = result_name(entry.name, settings.num_fewshot, settings.limit)
    pairs = list(zip(*(read_examples(folder / whose, name) for whose in ("ours", "theirs")), strict=True))
    same = [is_same(a, b) for a, b in pairs]
    differing = [
        {"doc_id": a["doc_id"], "ours": a["answers"], "hflm": b["answers"]}
        for (a, b), s in zip(pairs, same, strict=True)
        if not s
    ]
    return {
        "n": ours["n"], "n_official": ours["n_official"], "n_truncated": ours["n_truncated"],
        "identical": sum(same), "identical_share": round(sum(same) / len(same), 6),
        "scores": ours["metrics"], "hflm_scores": {m: other["metrics"][m] for m in entry.metrics},
        "largest_gap": max(abs(ours["metrics"][m] - other["metrics"][m]) for m in entry.metrics),
        "largest_logprob_gap": max((logprob_gap(a, b) for a, b in pairs), default=0.0),
        "seconds": ours["seconds"], "hflm_seconds": other["seconds"], "differing": differing[:3],
    }  # fmt: skip


def is_same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two predictions of one example are the same."""
    if isinstance(a["prediction"], str):
        return a["prediction"].strip() == b["prediction"].strip()
    if a["prediction"] is None:
        return abs(a["answers"][0] - b["answers"][0]) <= RELATIVE_TOLERANCE * abs(b["answers"][0])
    return a["prediction"] == b["prediction"]


def logprob_gap(a: dict[str, Any], b: dict[str, Any]) -> float:
    """The largest difference of log-probabilities between two answers to one example."""
    pairs = zip(a["answers"], b["answers"], strict=True)
    numbers = [(x[0], y[0]) if isinstance(x, list) else (x, y) for x, y in pairs if not isinstance(x, str)]
    return max((abs(x - y) for x, y in numbers), default=0.0)


def write(path: Path, value: dict[str, Any]) -> None:
    value["total_seconds"] = round(time.perf_counter() - STARTED, 1)
    path.write_text(json.dumps(value, indent=1) + "\n")


def table(paths: list[Path]) -> str:
    """What files of `--out` say of agreement, a line of Markdown a task; of one in two files the later."""
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        tasks = json.loads(path.read_text())["tasks"].items()
        found |= {name: row for name, row in tasks if "identical" in row}
    lines = [
        "| task | n of | identical | largest gap of a score, of a log-probability | scores | seconds ours / HFLM |",
        "|---|---:|---:|---:|---|---:|",
    ]
    for name, row in found.items():
        metrics = [key for key in row["scores"] if not key.endswith("_stderr")]
        errors = {key: row["scores"].get(f"{key}_stderr") for key in metrics}
        shown = ", ".join(
            f"{key} {row['scores'][key]:.3g}" + (f" ± {errors[key]:.2g}" if errors[key] is not None else "")
            for key in metrics
        )
        gaps = f"{row['largest_gap']:.2g}, {row['largest_logprob_gap']:.2g}"
        seconds = f"{row['seconds']:.0f} / {row['hflm_seconds']:.0f}"
        lines.append(
            f"| `{name}` | {row['n']:,} of {row['n_official']:,} | {row['identical']} | {gaps} | {shown} | {seconds} |"
        )
    ours, theirs = (sum(row[key] for row in found.values()) for key in ("seconds", "hflm_seconds"))
    n, same = (sum(row[key] for row in found.values()) for key in ("n", "identical"))
    return "\n".join([*lines, f"| all | {n:,} | {same:,} | | | {ours:.0f} / {theirs:.0f} |"])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="any MODEL")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=[], help="tasks and groups to compare on")
    parser.add_argument("--limit", type=int, help="examples a task")
    parser.add_argument("--cap", action="append", default=[], metavar="TASK=N", help="another limit for one task")
    parser.add_argument("--max-tokens", type=int, help="context; default: the network's")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=8, help="of HFLM, where speed does not choose it")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--batch-sizes", type=lambda text: list(map(int, text.split(","))), default=[32, 64, 128, 256])
    parser.add_argument("--tokens-per-batch", type=lambda text: list(map(int, text.split(","))), default=[65_536])
    parser.add_argument("--compile", action="store_true", help="time ours with compiled layers too")
    parser.add_argument("--part", type=int, default=1000, help="examples of HellaSwag on which batch sizes are tried")
    parser.add_argument("--decode-alike", action="store_true", help="compare tokens that are made, not their text")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--table", type=Path, nargs="+", help="print what these files of --out say, and do nothing else"
    )
    options = parser.parse_args()
    if not options.table and not (options.model and options.data_dir and options.out):
        parser.error("--model, --data-dir and --out are needed, or --table")
    return options


if __name__ == "__main__":
    main()
