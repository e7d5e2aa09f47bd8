"""The parts of a run's page, each a function from the run's facts to HTML; empty when the run has nothing for it.

Every text goes through `text` of safe_text.py: it comes from the web, from a network or from a file, and may say anything.
"""

import re
from collections.abc import Callable
from typing import Any

from tinyllama.report import run_story
from tinyllama.report.document_groups import group_tables
from tinyllama.report.plots import Chart, Point, Series, legend, line_chart, smoothed
from tinyllama.report.run_facts import FunnelStep, RunFacts, counts, number, table
from tinyllama.report.safe_text import text
from tinyllama.report.ticks import duration, exact, percent, short, size

MAX_REASONS = 12
MAX_SAMPLES = 24
MAX_EXAMPLES = 12


def section(title: str, body: str, lead: str = "") -> str:
    """A titled part of the page; empty when its body is."""
    if not body:
        return ""
    name = title.lower().replace(" ", "-")
    lead = f'<p class="lead">{lead}</p>' if lead else ""
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>{lead}{body}</section>'


# -- headline ---------------------------------------------------------------------------------------------------------


def headline(facts: RunFacts) -> str:
    """The figures that say what came out and what it took."""
    validation, unigram = facts.validation, facts.unigram_perplexity
    perplexity = number(validation.get("perplexity"))
    beside = "on held-out text"
    if unigram is not None and perplexity:
        beside = f"{unigram / perplexity:.1f} times below the unigram model’s {exact(round(unigram, 1))}"
    last_word = facts.last_word
    error = number(last_word.get("accuracy_stderr"))
    last_word_note = f"± {error * 100:.1f} points" if error is not None else "on held-out passages"
    trained = facts.summary("pretrain")
    last = facts.metrics[-1] if facts.metrics else {}
    seconds = facts.phase_seconds
    cells = [
        _cell("Validation perplexity", perplexity, lambda v: f"{v:,.2f}", beside, "first"),
        _cell("Validation loss", validation.get("loss"), lambda v: f"{v:.4f}", "nats a token"),
        _cell("Accuracy", validation.get("accuracy"), percent, "next token"),
        _cell("Bits per byte", validation.get("bits_per_byte"), lambda v: f"{v:.3f}", "any tokenizer"),
        _cell("Last word", last_word.get("accuracy"), percent, last_word_note),
        _cell("Parameters", facts.parameters, short, _exact_note(facts.parameters)),
        _cell("Tokens trained", _first(trained.get("tokens"), last.get("tokens")), short, _epochs_note(trained)),
        _cell("Speed", _first(trained.get("tokens_per_second"), _median_speed(facts)), short, "tokens a second"),
        _cell("Wall time", sum(seconds.values()) or None, duration, f"{len(seconds)} finished phases"),
        _cell("Peak memory", trained.get("peak_memory_bytes"), size, "while training"),
    ]
    return f'<dl class="headline">{"".join(cells)}</dl>' if any(cells) else ""


def _cell(name: str, value: Any, show: Callable[[float], str], note: str, css: str = "") -> str:
    found = number(value)
    if found is None:
        return ""
    return f'<div class="{css}"><dt>{name}</dt><dd><b>{text(show(found))}</b><span>{text(note)}</span></dd></div>'


def _first(*values: Any) -> float | None:
    return next((found for value in values if (found := number(value)) is not None), None)


def _exact_note(value: float | None) -> str:
    return exact(value) if value is not None else ""


def _epochs_note(trained: dict[str, Any]) -> str:
    epochs = number(trained.get("epochs"))
    return f"{epochs:.3g} epochs" if epochs is not None else "over all steps"


def _median_speed(facts: RunFacts) -> float | None:
    speeds = sorted(y for _, y in points_of(facts, "tokens_per_second"))
    return speeds[len(speeds) // 2] if speeds else None


# -- data -------------------------------------------------------------------------------------------------------------


def data(facts: RunFacts) -> str:
    """What was crawled and left out, and the funnel of cleaning with the reason of each drop."""
    return section("Data", _crawl(facts) + _funnel(facts) + group_tables(facts) + _data_table(facts))


def _crawl(facts: RunFacts) -> str:
    crawl = facts.summary("crawl")
    left_out, stored = counts(crawl.get("left_out")), number(crawl.get("pages_stored"))
    if stored is None and not left_out:
        return ""
    requests = number(crawl.get("requests"))
    words = f"{exact(stored or 0)} pages stored" + (f" from {exact(requests)} requests" if requests is not None else "")
    words += f"; {exact(sum(left_out.values()))} left out:" if left_out else "; nothing left out."
    return f"<h3>Crawl</h3><p>{words}</p>{_reason_bars(left_out)}"


def _funnel(facts: RunFacts) -> str:
    if not facts.funnel:
        return ""
    most = max(step.documents_in for step in facts.funnel) or 1
    rows = "".join(_funnel_row(step, most) for step in facts.funnel)
    first, last = facts.funnel[0], facts.funnel[-1]
    kept = f" ({percent(last.documents_out / first.documents_in)})" if first.documents_in else ""
    words = f"{exact(last.documents_out)} of {exact(first.documents_in)} documents{kept} came through."
    head = '<div class="head"><span>step</span><span></span><span>documents</span><span>text</span></div>'
    return f'<h3>Cleaning</h3><p>{words}</p><div class="funnel">{head}{rows}</div>'


def _funnel_row(step: FunnelStep, most: int) -> str:
    kept, came = step.documents_out / most * 100, step.documents_in / most * 100
    reasons = [
        f"{_reason_name(name)} <b>{exact(count)}</b>" for name, count in list(step.reasons.items())[:MAX_REASONS]
    ]
    if len(step.reasons) > MAX_REASONS:
        reasons.append(f"and {len(step.reasons) - MAX_REASONS} more reasons")
    listed = "".join(f"<li>{reason}</li>" for reason in reasons)
    label = f"{exact(step.documents_out)} of {exact(step.documents_in)} documents kept"
    return (
        f'<div class="row"><span class="name">{_reason_name(step.name)}</span>'
        f'<span class="bar" role="img" aria-label="{label}"><i class="lost" style="width:{came:.2f}%"></i>'
        f'<i class="kept" style="width:{min(kept, came):.2f}%"></i></span>'
        f'<span class="count">{exact(step.documents_out)}</span>'
        f'<span class="count quiet">{size(step.bytes_out) if step.bytes_out is not None else ""}</span>'
        f"{f'<ul class=reasons>{listed}</ul>' if listed else ''}</div>"
    )


def _reason_bars(reasons: dict[str, int]) -> str:
    if not reasons:
        return ""
    shown = dict(list(reasons.items())[:MAX_REASONS])
    rest = sum(reasons.values()) - sum(shown.values())
    if rest:
        shown["other reasons"] = rest
    most = max(shown.values())
    rows = "".join(
        f'<div class="row"><span class="name">{_reason_name(name)}</span>'
        f'<span class="bar"><i class="quiet" style="width:{count / most * 100:.2f}%"></i></span>'
        f'<span class="count">{exact(count)}</span></div>'
        for name, count in shown.items()
    )
    return f'<div class="bars">{rows}</div>'


def _reason_name(name: str) -> str:
    return text(name.replace("_", " "), 80)


def _data_table(facts: RunFacts) -> str:
    clean, tokenizer, shards = (facts.summary(phase) for phase in ("clean", "tokenizer", "shards"))
    rows = {
        "training documents": clean.get("train_documents"),
        "validation documents": clean.get("validation_documents"),
        **{f"{_reason_name(kind)} masked": count for kind, count in counts(clean.get("masked")).items()},
        "lines that sites repeat taken out": clean.get("site_lines"),
        "paragraphs of other documents taken out": clean.get("copied_paragraphs"),
        "offensive paragraphs taken out": clean.get("unsafe_paragraphs"),
        **{f"documents with text of {text(task, 60)}": n for task, n in counts(clean.get("contaminated")).items()},
        "bytes of clean text": clean.get("text_bytes_out"),
        "pieces of the vocabulary": tokenizer.get("vocab_size"),
        "tokens in shards": shards.get("tokens"),
    }
    return _definitions({name: exact(found) for name, value in rows.items() if (found := number(value)) is not None})


# -- training ---------------------------------------------------------------------------------------------------------


def points_of(facts: RunFacts, name: str) -> list[Point]:
    """(step, value) of one column of metrics.jsonl, without the rows where it is missing or not finite."""
    return [(float(row["step"]), float(value)) for row in facts.metrics if (value := number(row.get(name))) is not None]


def training(facts: RunFacts) -> str:
    """The curves of training, and the table of validation figures."""
    loss = points_of(facts, "loss")
    measured = [(row["step"], table(row.get("validation"))) for row in facts.metrics if table(row.get("validation"))]
    held_out = [(float(step), float(v)) for step, found in measured if (v := number(found.get("loss"))) is not None]
    series = [*_curve("training", loss), *run_story.gone_back_from(facts), Series("validation", held_out, "dots")]
    chart = Chart("Loss by step", "step", "loss", series, run_story.marks(facts))
    charts = figure(chart, "loss", "Loss", "nats a token")
    small = [
        figure(_small(facts, "lr", "Learning rate", from_zero=True), "lr", "Learning rate", ""),
        figure(
            _small(facts, "grad_norm", "Gradient norm", log_y=True), "grad-norm", "Gradient norm", "before clipping"
        ),
        figure(_small(facts, "tokens_per_second", "Speed", from_zero=True), "speed", "Speed", "tokens a second"),
    ]
    if any(small):
        charts += f'<div class="small-charts">{"".join(small)}</div>'
    missing = len(facts.metrics) - len(loss)
    warning = f'<p class="warning">{exact(missing)} steps have no finite loss.</p>' if missing else ""
    return section("Training", charts + warning + _validation_table(measured) + run_story.story(facts))


def _curve(name: str, points: list[Point]) -> list[Series]:
    """A noisy column as it is, faint, and its smoothed line; a short one as it is."""
    if len(points) <= 20:
        return [Series(name, points)]
    return [
        Series(f"{name}, each step", points, "faint"),
        Series(f"{name}, smoothed", smoothed(points, max(2, len(points) // 50))),
    ]


def _small(facts: RunFacts, column: str, title: str, log_y: bool = False, from_zero: bool = False) -> Chart:
    points = points_of(facts, column)
    series = [Series("learning rate", points)] if column == "lr" else _curve(title.lower(), points)
    return Chart(f"{title} by step", "step", title, series, log_y=log_y, from_zero=from_zero, width=440, height=230)


def figure(chart: Chart, chart_id: str, title: str, unit: str) -> str:
    """A chart with its title; empty when it has nothing to draw."""
    drawn = line_chart(chart, chart_id)
    if not drawn:
        return ""
    unit = f" <span>{unit}</span>" if unit else ""
    names = legend(chart) if chart.width > 600 else ""
    return f"<figure><figcaption><b>{title}</b>{unit}{names}</figcaption><div>{drawn}</div></figure>"


def _validation_table(measured: list[tuple[int, dict[str, Any]]]) -> str:
    if not measured:
        return ""
    columns = {"loss": "loss", "perplexity": "perplexity", "accuracy": "accuracy", "bits_per_byte": "bits per byte"}
    head = "".join(f"<th>{name}</th>" for name in ("step", *columns.values()))
    rows = ""
    for step, found in measured:
        cells = "".join(f"<td>{_number_cell(found.get(column), column)}</td>" for column in columns)
        rows += f"<tr><td>{exact(step)}</td>{cells}</tr>"
    body = f'<div class="wide"><table class="numbers"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    return f"<details{' open' if len(measured) <= 12 else ''}><summary>Validation figures</summary>{body}</details>"


def _number_cell(value: Any, column: str) -> str:
    found = number(value)
    if found is None:
        return "–"
    return percent(found) if column == "accuracy" else exact(round(found, 4))


# -- what came out ----------------------------------------------------------------------------------------------------


def scores(facts: RunFacts) -> str:
    """The model beside the unigram model, and the last-word examples."""
    perplexity, unigram = number(facts.validation.get("perplexity")), facts.unigram_perplexity
    body = ""
    if perplexity is not None and unigram:
        rows = [("this model", perplexity, "kept"), ("unigram model", unigram, "quiet")]
        most = max(perplexity, unigram)
        bars = "".join(
            f'<div class="row"><span class="name">{name}</span><span class="bar"><i class="{css}" '
            f'style="width:{value / most * 100:.2f}%"></i></span><span class="count">{exact(round(value, 2))}</span></div>'
            for name, value, css in rows
        )
        tokens = number(facts.validation.get("tokens"))
        over = f"Over {exact(tokens)} tokens; lower is better." if tokens is not None else "Lower is better."
        body += f'<h3>Perplexity on held-out text</h3><p>{over}</p><div class="bars">{bars}</div>'
    return section("Scores", body + _last_word(facts.last_word))


def _last_word(last_word: dict[str, Any]) -> str:
    accuracy, n = number(last_word.get("accuracy")), number(last_word.get("n"))
    if accuracy is None:
        return ""
    of = f" of {exact(n)} passages" if n is not None else ""
    examples = last_word.get("examples")
    rows = ""
    for example in (examples if isinstance(examples, list) else [])[:MAX_EXAMPLES]:
        example = table(example)
        context, answer, guess = (str(example.get(name, "")) for name in ("context", "answer", "guess"))
        right = answer.strip() == guess.strip()
        tail = context if len(context) <= 160 else "… " + context[-160:]
        rows += (
            f"<tr><td><bdi>{text(tail)}</bdi></td><td><bdi>{text(answer, 80)}</bdi></td>"
            f'<td class="{"right" if right else "wrong"}"><bdi>{text(guess, 80)}</bdi></td></tr>'
        )
    head = "<thead><tr><th>passage</th><th>last word</th><th>guess</th></tr></thead>"
    listed = f'<div class="wide"><table class="examples">{head}<tbody>{rows}</tbody></table></div>' if rows else ""
    return f"<h3>Last word</h3><p>Guessed right in {percent(accuracy)}{of}.</p>{listed}"


def samples(facts: RunFacts) -> str:
    """Generated text, the prompt told apart from what the model wrote."""
    chosen = table(facts.recipe.get("generate"))
    settings = {name: number(chosen.get(name)) for name in ("temperature", "top_k", "top_p", "seed")}
    cards = ""
    for sample in facts.samples[:MAX_SAMPLES]:
        words = [f"{name.replace('_', ' ')} {exact(value)}" for name, value in settings.items() if value is not None]
        if isinstance(sample.get("token_ids"), list):
            words.append(f"{len(sample['token_ids'])} tokens")
        cards += (
            f'<figure class="sample"><blockquote dir="auto"><span class="prompt">{text(sample.get("prompt", ""))}</span>'
            f"{text(sample.get('text', ''))}</blockquote><figcaption>{' · '.join(words)}</figcaption></figure>"
        )
    lead = 'The <span class="prompt">prompt</span> was given; the model wrote the rest.'
    return section("Samples", f'<div class="samples">{cards}</div>' if cards else "", lead)


# -- how it was made --------------------------------------------------------------------------------------------------


def times(facts: RunFacts) -> str:
    """Wall time of each finished phase."""
    seconds = facts.phase_seconds
    total = sum(seconds.values())
    if not total:
        return ""
    parts = rows = ""
    for index, (phase, value) in enumerate(seconds.items()):
        strength = 100 - 80 * index // max(1, len(seconds) - 1)
        style = f"--strength:{strength}%"
        label = f"{phase}: {duration(value)}"
        parts += f'<i style="{style};flex-grow:{value / total:.5f}" title="{label}"></i>'
        rows += (
            f'<tr><td><i class="key block" style="{style}"></i>{phase}</td><td>{duration(value)}</td>'
            f"<td>{percent(value / total)}</td></tr>"
        )
    rows += f'<tr class="total"><td>all</td><td>{duration(total)}</td><td></td></tr>'
    bar = f'<div class="stack" role="img" aria-label="Share of each phase in the wall time">{parts}</div>'
    return section("Time", f'{bar}<table class="numbers narrow"><tbody>{rows}</tbody></table>')


def recipe(facts: RunFacts) -> str:
    """The resolved recipe as its file has it, tables and comments set off."""
    lines = []
    for line in facts.recipe_text[:100_000].splitlines():
        css = "table" if re.match(r"\s*\[", line) else "comment" if line.lstrip().startswith("#") else ""
        lines.append(f'<span class="{css}">{text(line)}</span>' if css else text(line))
    if not lines:
        return ""
    shown = "\n".join(lines)
    return section("Recipe", f"<details><summary>Every value of the run</summary><pre>{shown}</pre></details>")


def provenance(facts: RunFacts) -> str:
    """Hash of the weights, versions, and the fingerprints of the phases."""
    weights = facts.summary("pretrain").get("weights_sha256")
    rows = {"weights sha256": f"<code>{text(weights, 80)}</code>"} if isinstance(weights, str) else {}
    for phase, manifest in facts.manifests.items():
        if isinstance(manifest.get("fingerprint"), str):
            rows[f"{phase} fingerprint"] = f"<code>{text(manifest['fingerprint'], 80)}</code>"
    versions = {
        name: value for manifest in facts.manifests.values() for name, value in table(manifest.get("versions")).items()
    }
    shown = ", ".join(f"{text(name, 60)} {text(value, 60)}" for name, value in sorted(versions.items()))
    if shown:
        rows["versions"] = shown
    return section("Provenance", _definitions(rows))


def _definitions(rows: dict[str, str]) -> str:
    """Names and values side by side; values are HTML already."""
    if not rows:
        return ""
    return f'<dl class="pairs">{"".join(f"<dt>{text(name)}</dt><dd>{value}</dd>" for name, value in rows.items())}</dl>'
