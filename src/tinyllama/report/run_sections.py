"""What each section of the page shows, as plain values; page.html.j2 arranges and escapes them.

A section with nothing to show is empty, and the page omits it.
"""

import re
from collections.abc import Callable
from typing import Any

from tinyllama.report import timeline
from tinyllama.report.plots import Chart, Point, Series, draw, draw_all, smoothed
from tinyllama.report.run_facts import RunFacts, counts, first_number, number, table
from tinyllama.report.templates import shortened, spaced
from tinyllama.report.ticks import duration, exact, percent, short, size

MAX_REASONS = 12
MAX_SAMPLES = 24
MAX_EXAMPLES = 12
MAX_GROUP_ROWS = 20
VALIDATION_COLUMNS = ("loss", "perplexity", "accuracy", "bits_per_byte")
GROUPS = {"domain": "Domains", "language": "Languages", "licence": "Licences"}


def _unless_empty(**values: Any) -> dict[str, Any]:
    return values if any(values.values()) else {}


def abstract(facts: RunFacts) -> dict[str, Any]:
    """The model's size, and how far its training got: `step` is None before the first."""
    sizes = {key: number(facts.model_values.get(key)) for key in ("n_layers", "dim")}
    done = facts.summary("pretrain")
    last_step = facts.metrics[-1]["step"] if facts.metrics else None
    step = (number(done.get("step")) or 0) if done else last_step
    device = {"cpu": "a CPU", "cuda": "a GPU"}.get(str(done.get("device")))
    trained = {"is_finished": bool(done), "step": step, "tokens": number(done.get("tokens")), "device": device}
    return {"parameters": facts.parameters, **sizes, **trained}


def headline(facts: RunFacts) -> list[tuple[str, str, str]]:
    """Name, value and note of each main result that the run has."""
    validation, unigram = facts.validation, facts.unigram_perplexity
    perplexity = number(validation.get("perplexity"))
    baseline_note = "on held-out text"
    if unigram is not None and perplexity:
        baseline_note = f"{unigram / perplexity:.1f}x lower than a unigram baseline ({exact(round(unigram, 1))})"
    error = number(facts.last_word.get("accuracy_stderr"))
    last_word_note = f"± {error * 100:.1f} points" if error is not None else "on held-out passages"
    trained = facts.summary("pretrain")
    epochs = number(trained.get("epochs"))
    epochs_note = f"{epochs:.3g} epochs" if epochs is not None else "over all steps"
    last = facts.metrics[-1] if facts.metrics else {}
    speed = first_number(trained.get("tokens_per_second"), _median_speed(facts))
    seconds = facts.phase_seconds
    tiles: list[tuple[str, Any, Callable[[float], str], str]] = [
        ("Validation perplexity", perplexity, "{:,.2f}".format, baseline_note),
        ("Validation loss", validation.get("loss"), "{:.4f}".format, "nats per token"),
        ("Accuracy", validation.get("accuracy"), percent, "next token"),
        ("Bits per byte", validation.get("bits_per_byte"), "{:.3f}".format, "any tokenizer"),
        ("Last word", facts.last_word.get("accuracy"), percent, last_word_note),
        ("Parameters", facts.parameters, short, exact(facts.parameters or 0)),
        ("Tokens trained", first_number(trained.get("tokens"), last.get("tokens")), short, epochs_note),
        ("Speed", speed, short, "tokens per second"),
        ("Wall time", sum(seconds.values()) or None, duration, f"{len(seconds)} finished phases"),
        ("Peak memory", trained.get("peak_memory_bytes"), size, "while training"),
    ]
    return [(name, show(found), note) for name, value, show, note in tiles if (found := number(value)) is not None]


def _median_speed(facts: RunFacts) -> float | None:
    speeds = sorted(y for _, y in _points(facts, "tokens_per_second"))
    return speeds[len(speeds) // 2] if speeds else None


# -- data -------------------------------------------------------------------------------------------------------------


def data(facts: RunFacts) -> dict[str, Any]:
    """The crawl, the cleaning funnel, the kept documents by group, and counts of the data phases."""
    return _unless_empty(crawl=_crawl(facts), funnel=_funnel(facts), groups=_groups(facts), counts=_data_counts(facts))


def _crawl(facts: RunFacts) -> dict[str, Any]:
    crawl = facts.summary("crawl")
    skipped, stored = counts(crawl.get("left_out")), number(crawl.get("pages_stored"))
    if stored is None and not skipped:
        return {}
    shown: dict[str, float] = dict(list(skipped.items())[:MAX_REASONS])
    if len(skipped) > MAX_REASONS:
        shown["other reasons"] = sum(skipped.values()) - sum(shown.values())
    requests, reasons = number(crawl.get("requests")), _bars(shown)
    return {"stored": stored or 0, "requests": requests, "n_skipped": sum(skipped.values()), "reasons": reasons}


def _bars(values: dict[str, float]) -> list[tuple[str, str, float]]:
    """Name, value in words, and percentage of the largest value."""
    most = max(values.values(), default=1)
    return [(name, exact(round(value, 2)), value / most * 100) for name, value in values.items()]


def _funnel(facts: RunFacts) -> dict[str, Any]:
    """Each step of cleaning, with the documents before and after it as percentages of the largest step."""
    if not facts.funnel:
        return {}
    most = max(step.documents_in for step in facts.funnel) or 1
    first, last = facts.funnel[0], facts.funnel[-1]
    steps = [(step, step.documents_in / most * 100, step.documents_out / most * 100) for step in facts.funnel]
    return {"steps": steps, "documents_in": first.documents_in, "documents_out": last.documents_out}


def _groups(facts: RunFacts) -> list[dict[str, Any]]:
    """The values of each group with most documents; damaged rows are left out."""
    found = []
    for name, title in GROUPS.items():
        rows = []
        for value, counted in facts.document_groups.get(name, {}).items():
            came, kept, n_bytes = (number(table(counted).get(key)) for key in ("in", "out", "bytes_out"))
            if came is not None and kept is not None and n_bytes is not None:
                rows.append((value, came, kept, n_bytes))
        if rows:
            n_more = max(0, len(rows) - MAX_GROUP_ROWS)
            found.append({"name": name, "title": title, "rows": rows[:MAX_GROUP_ROWS], "n_more": n_more})
    return found


def _data_counts(facts: RunFacts) -> dict[str, float]:
    clean, tokenizer, shards = (facts.summary(phase) for phase in ("clean", "tokenizer", "shards"))
    rows = {
        "training documents": clean.get("train_documents"),
        "validation documents": clean.get("validation_documents"),
        **{f"{shortened(spaced(kind), 80)} masked": count for kind, count in counts(clean.get("masked")).items()},
        "boilerplate lines removed": clean.get("site_lines"),
        "duplicate paragraphs removed": clean.get("copied_paragraphs"),
        "offensive paragraphs removed": clean.get("unsafe_paragraphs"),
        **{f"documents with text of {shortened(task, 60)}": n for task, n in counts(clean.get("contaminated")).items()},
        "bytes of clean text": clean.get("text_bytes_out"),
        "vocabulary size": tokenizer.get("vocab_size"),
        "tokens in shards": shards.get("tokens"),
    }
    return {name: found for name, value in rows.items() if (found := number(value)) is not None}


# -- training ---------------------------------------------------------------------------------------------------------


def _points(facts: RunFacts, name: str) -> list[Point]:
    """(step, value) of one column of metrics.jsonl, without the rows where it is missing or not finite."""
    return [(float(row["step"]), float(value)) for row in facts.metrics if (value := number(row.get(name))) is not None]


def training(facts: RunFacts) -> dict[str, Any]:
    """The curves of training, the validation metrics and the timeline."""
    loss = _points(facts, "loss")
    measured = [(row["step"], found) for row in facts.metrics if (found := table(row.get("validation")))]
    held_out = [(float(step), float(v)) for step, found in measured if (v := number(found.get("loss"))) is not None]
    series = [*_curve("training", loss), *timeline.discarded_losses(facts), Series("validation", held_out, "dots")]
    small = [
        _small(facts, "lr", "Learning rate", from_zero=True),
        _small(facts, "grad_norm", "Gradient norm", "before clipping", log_y=True),
        _small(facts, "tokens_per_second", "Speed", "tokens per second", from_zero=True),
    ]
    return _unless_empty(
        loss=draw(Chart("loss", "Loss", "nats per token", "Loss by step", "loss", series, timeline.marks(facts))),
        small_charts=draw_all(small),
        n_missing=len(facts.metrics) - len(loss),
        validation=[(step, [number(found.get(column)) for column in VALIDATION_COLUMNS]) for step, found in measured],
        events=timeline.rows(facts),
    )


def _curve(name: str, points: list[Point]) -> list[Series]:
    """A short column as it is; a long one is noisy and is shown faint, with its smoothed line."""
    if len(points) <= 20:
        return [Series(name, points)]
    return [
        Series(f"{name}, each step", points, "faint"),
        Series(f"{name}, smoothed", smoothed(points, max(2, len(points) // 50))),
    ]


def _small(
    facts: RunFacts, column: str, title: str, unit: str = "", *, log_y: bool = False, from_zero: bool = False
) -> Chart:
    points = _points(facts, column)
    series = [Series("learning rate", points)] if column == "lr" else _curve(title.lower(), points)
    return Chart(
        column.replace("_", "-"), title, unit, f"{title} by step", title, series,
        log_y=log_y, from_zero=from_zero, width=440, height=230,
    )  # fmt: skip


# -- results ----------------------------------------------------------------------------------------------------------


def scores(facts: RunFacts) -> dict[str, Any]:
    """Perplexity of the model and of the unigram baseline, and last-word accuracy with examples."""
    perplexity, unigram = number(facts.validation.get("perplexity")), facts.unigram_perplexity
    perplexities = []
    if perplexity is not None and unigram:
        perplexities = _bars({"this model": perplexity, "unigram baseline": unigram})
    found = _unless_empty(perplexities=perplexities, last_word=_last_word(facts.last_word))
    return found and found | {"tokens": number(facts.validation.get("tokens"))}


def _last_word(last_word: dict[str, Any]) -> dict[str, Any]:
    accuracy = number(last_word.get("accuracy"))
    if accuracy is None:
        return {}
    examples = last_word.get("examples")
    rows = []
    for example in (examples if isinstance(examples, list) else [])[:MAX_EXAMPLES]:
        context, answer, guess = (str(table(example).get(name, "")) for name in ("context", "answer", "guess"))
        tail = context if len(context) <= 160 else "… " + context[-160:]
        rows.append((tail, answer, guess, answer.strip() == guess.strip()))
    return {"accuracy": accuracy, "n": number(last_word.get("n")), "examples": rows}


def samples(facts: RunFacts) -> list[tuple[Any, Any, str]]:
    """Prompt, generated text and settings of each sample."""
    chosen = table(facts.recipe.get("generate"))
    settings = {name: number(chosen.get(name)) for name in ("temperature", "top_k", "top_p", "seed")}
    shown = [f"{name.replace('_', ' ')} {exact(value)}" for name, value in settings.items() if value is not None]
    found = []
    for sample in facts.samples[:MAX_SAMPLES]:
        ids = sample.get("token_ids")
        words = [*shown, f"{len(ids)} tokens"] if isinstance(ids, list) else shown
        found.append((sample.get("prompt", ""), sample.get("text", ""), " · ".join(words)))
    return found


# -- how it was made --------------------------------------------------------------------------------------------------


def times(facts: RunFacts) -> dict[str, Any]:
    """Wall time of each finished phase: seconds, share of the total, and strength of its colour in percent."""
    seconds = facts.phase_seconds
    total = sum(seconds.values())
    if not total:
        return {}
    step = max(1, len(seconds) - 1)
    phases = [(phase, n, n / total, 100 - 80 * index // step) for index, (phase, n) in enumerate(seconds.items())]
    return {"phases": phases, "total": total}


def recipe(facts: RunFacts) -> list[tuple[str, str]]:
    """The lines of recipe.toml, each with its kind: table, comment or nothing."""
    lines = []
    for line in facts.recipe_text[:100_000].splitlines():
        kind = "table" if re.match(r"\s*\[", line) else "comment" if line.lstrip().startswith("#") else ""
        lines.append((kind, line))
    return lines


def provenance(facts: RunFacts) -> dict[str, Any]:
    """Hash of the weights, fingerprints of the phases, and versions of the libraries."""
    weights = facts.summary("pretrain").get("weights_sha256")
    hashes = {"weights sha256": weights} if isinstance(weights, str) else {}
    for phase, manifest in facts.manifests.items():
        if isinstance(manifest.get("fingerprint"), str):
            hashes[f"{phase} fingerprint"] = manifest["fingerprint"]
    versions: dict[str, Any] = {}
    for manifest in facts.manifests.values():
        versions |= table(manifest.get("versions"))
    return _unless_empty(hashes=hashes, versions=sorted(versions.items()))
