"""A small run folder for the report's tests. Its numbers are invented and mean nothing."""

import json
import re
from pathlib import Path
from typing import Any

from tinyllama.report.plots import Chart, draw
from tinyllama.report.run_facts import RunFacts, read_run
from tinyllama.report.run_report import render_report
from tinyllama.report.templates import environment

WEIGHTS_SHA256 = "ab" * 32


def write(run_dir: Path, name: str, value: Any) -> None:
    """One file of the run: text as it is, anything else as JSON."""
    path = run_dir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def write_rows(run_dir: Path, name: str, rows: list[dict[str, Any]]) -> None:
    write(run_dir, name, "".join(json.dumps(row) + "\n" for row in rows))


def manifest(phase: str, **summary: Any) -> dict[str, Any]:
    return {"phase": phase, "fingerprint": f"{phase}-print", "summary": summary, "versions": {"testlib": "9.8.7"}}


def metrics_row(step: int, **changes: Any) -> dict[str, Any]:
    row = {"step": step, "tokens": step * 100, "loss": 5.0 - step / 10, "grad_norm": 1.0, "lr": 1e-3 / step}
    return row | {"tokens_per_second": 1000.0 + step} | changes


def crawl_only(run_dir: Path) -> None:
    write(
        run_dir,
        "crawl/manifest.json",
        manifest("crawl", pages_stored=31, requests=47, left_out={"too_short": 5}, seconds=2.5),
    )


def whole(run_dir: Path) -> None:
    crawl_only(run_dir)
    write(
        run_dir,
        "recipe.toml",
        "# test recipe\n[model]\ndim = 64\nn_layers = 3\n\n[train]\npeak_lr = 0.00123\n\n"
        "[generate]\ntemperature = 0.7\nseed = 5\n",
    )
    write(
        run_dir,
        "clean/manifest.json",
        manifest("clean", train_documents=15, validation_documents=2, masked={"email": 6, "ip": 0}, seconds=1.5),
    )
    funnel = [
        {
            "step": "extract",
            "documents_in": 31,
            "documents_out": 29,
            "bytes_in": 9000,
            "bytes_out": 7000,
            "dropped": {"empty": 2},
        },
        {
            "step": "quality",
            "documents_in": 29,
            "documents_out": 17,
            "bytes_in": 7000,
            "bytes_out": 4321,
            "dropped": {"few_words": 12},
        },
    ]
    languages = {"en": {"in": 19, "out": 13, "bytes_out": 3000}, "fr": {"in": 10, "out": 4, "bytes_out": 1321}}
    domains = {"docs.example.org": {"in": 29, "out": 17, "bytes_out": 4321}}
    write(run_dir, "clean/funnel.json", {"steps": funnel, "language": languages, "domain": domains})
    write(run_dir, "shards/manifest.json", manifest("shards", documents=16, tokens=7654, seconds=0.5))
    found = {"loss": 3.21, "perplexity": 24.78, "accuracy": 0.345, "bits_per_byte": 1.234}
    rows = [metrics_row(step) for step in range(1, 31)]
    rows[29]["validation"] = found
    write_rows(run_dir, "metrics.jsonl", rows)
    events = [{"time": 1, "event": "start", "step": 0}, {"time": 2, "event": "save", "step": 10}]
    write_rows(run_dir, "events.jsonl", [*events, {"time": 3, "event": "resume", "step": 10}])
    trained = {
        "parameters": 98_765,
        "step": 30,
        "tokens": 3000,
        "tokens_per_second": 1017.0,
        "peak_memory_bytes": 5 * 10**8,
    }
    trained |= {"weights_sha256": WEIGHTS_SHA256, "validation": found, "device": "cpu", "seconds": 10.0}
    write(run_dir, "checkpoints/manifest.json", manifest("pretrain", **trained))
    example = {"context": "the cat sat on the", "answer": "mat", "guess": "hat"}
    last_word = {"accuracy": 0.25, "accuracy_stderr": 0.05, "n": 75, "examples": [example]}
    validation = found | {"tokens": 4242}
    write(
        run_dir,
        "evaluation.json",
        {"validation": validation, "unigram_perplexity": 333.3, "tasks": {"last_word": last_word}},
    )
    sample = {"prompt": "Once", "text": " upon a test", "token_ids": [1, 2, 3]}
    write(run_dir, "samples.json", {"samples": [sample]})


def section(run: Path | RunFacts, name: str) -> str:
    """The markup of one section of a run's page, without line feeds between elements; empty when the page has none."""
    page = render_report(read_run(run) if isinstance(run, Path) else run)
    start, end = ("dl class", "dl") if name == "headline" else ("section aria-labelledby", "section")
    found = re.search(f'<{start}="{name}">.*?</{end}>', page, re.DOTALL)
    return re.sub(">\n+<", "><", found[0]) if found else ""


def chart_macro(name: str, chart: Chart) -> str:
    """What a macro of chart.html.j2 writes for a chart; empty for a chart without a point."""
    drawing = draw(chart)
    return str(getattr(environment.get_template("chart.html.j2").module, name)(drawing)) if drawing else ""
