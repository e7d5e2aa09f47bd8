"""Each figure of the page is the right one of the run, worked out by hand, in its own place."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tests.report.run_folder import chart_macro, manifest, metrics_row, section, whole, write, write_rows
from tinyllama.report.plots import Chart, Series
from tinyllama.report.run_facts import RunFacts, read_run
from tinyllama.report.run_report import render_report


def tiles(facts: RunFacts) -> dict[str, tuple[str, str]]:
    found = re.findall(r"<dt>(.*?)</dt><dd><b>(.*?)</b><span>(.*?)</span>", section(facts, "headline"))
    return {name: (value, note) for name, value, note in found}


def cells(page: str) -> list[list[str]]:
    """Texts of each table row's cells."""
    rows = re.findall(r"<tr.*?</tr>", page)
    return [[re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[dh].*?</t[dh]>", row)] for row in rows]


def widths(page: str) -> list[float]:
    return [float(width) for width in re.findall(r"width:([\d.]+)%", page)]


def pairs(page: str) -> dict[str, str]:
    return dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))


def figures(page: str) -> dict[str, str]:
    """Charts by the id of their title."""
    return {re.findall(r'<title id="(.*?)-title', part)[0]: part for part in page.split("<figure>")[1:]}


def points(chart: str) -> dict[str, list[list[Any]]]:
    """By the name of a series: [x, y, x in words, y in words] of each point."""
    data = re.findall('data-chart="(.*?)"', chart)[0]
    return {series["name"]: series["points"] for series in json.loads(unescape(data))["series"]}


# -- headline ----------------------------------------------------------------------------------------------------------


def test_every_tile_of_a_finished_run(tmp_path: Path):
    whole(tmp_path)
    summary = read_run(tmp_path).summary("pretrain") | {"epochs": 1.2345, "tokens": 3100}
    write(tmp_path, "checkpoints/manifest.json", manifest("pretrain", **summary))
    assert tiles(read_run(tmp_path)) == {
        "Validation perplexity": ("24.78", "13.5x lower than a unigram baseline (333.3)"),  # 333.3 / 24.78
        "Validation loss": ("3.2100", "nats per token"),
        "Accuracy": ("34.5%", "next token"),
        "Bits per byte": ("1.234", "any tokenizer"),
        "Last word": ("25.0%", "± 5.0 points"),
        "Parameters": ("98.8k", "98,765"),
        "Tokens trained": ("3.1k", "1.23 epochs"),
        "Speed": ("1.02k", "tokens per second"),
        "Wall time": ("14.5 s", "4 finished phases"),
        "Peak memory": ("500 MB", "while training"),
    }
    assert section(tmp_path, "headline").count('<div class="first">') == 1


def test_tiles_of_a_run_under_way(tmp_path: Path):
    rows = [
        metrics_row(step, tokens_per_second=speed) for step, speed in ((1, 400.0), (2, 500.0), (3, 10.0), (4, 20.0))
    ]
    rows[1]["validation"] = {"perplexity": 1234.567}
    write_rows(tmp_path, "metrics.jsonl", rows)
    assert tiles(read_run(tmp_path)) == {
        "Validation perplexity": ("1,234.57", "on held-out text"),
        "Tokens trained": ("400", "over all steps"),
        "Speed": ("400", "tokens per second"),  # of 10, 20, 400 and 500
    }
    write(tmp_path, "evaluation.json", {"unigram_perplexity": 9.0, "tasks": {"last_word": {"accuracy": 0.5}}})
    assert tiles(read_run(tmp_path))["Last word"] == ("50.0%", "on held-out passages")
    assert tiles(read_run(tmp_path))["Validation perplexity"][1] == "0.0x lower than a unigram baseline (9)"
    write_rows(tmp_path, "metrics.jsonl", [])
    write(tmp_path, "evaluation.json", {})
    assert section(tmp_path, "headline") == ""
    write(tmp_path, "evaluation.json", {"unigram_perplexity": 9.0})
    write(tmp_path, "crawl/manifest.json", manifest("crawl", seconds=0))
    assert section(tmp_path, "headline") == ""  # nothing to compare with, no time


# -- data --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("summary", "words", "bars"),
    [
        ({"pages_stored": 31, "requests": 47}, "31 pages stored from 47 requests; nothing skipped.", []),
        ({"pages_stored": 0}, "0 pages stored; nothing skipped.", []),
        (
            {"left_out": {"robots": 8, "too_short": 2}, "requests": 0},
            "0 pages stored from 0 requests; 10 skipped:",
            [("robots", "8", 100), ("too short", "2", 25)],
        ),
        (
            {"pages_stored": 1, "left_out": {f"r{n:02}": 20 - n for n in range(14)}},
            "1 pages stored; 189 skipped:",
            [*((f"r{n:02}", f"{20 - n}", (20 - n) * 5) for n in range(12)), ("other reasons", "15", 75)],  # 8 + 7
        ),
        ({"left_out": {f"r{n:02}": 1 for n in range(12)}}, "0 pages stored; 12 skipped:", [("r", "1", 100)] * 12),
    ],
)
def test_the_crawl_in_numbers(tmp_path: Path, summary: dict[str, Any], words: str, bars: list[tuple[str, str, float]]):
    write(tmp_path, "crawl/manifest.json", manifest("crawl", **summary))
    page = section(tmp_path, "data")
    assert f"<p>{words}</p>" in page
    found = re.findall(r'<span class="name">(.*?)</span>.*?width:(.*?)%.*?<span class="count">(.*?)</span>', page)
    assert [(count, float(width)) for _, width, count in found] == [(count, width) for _, count, width in bars]
    assert all(name.startswith(wanted[0]) for (name, *_), wanted in zip(found, bars, strict=True))


def test_no_crawl_no_words(tmp_path: Path):
    write(tmp_path, "crawl/manifest.json", manifest("crawl", requests=3))
    assert section(tmp_path, "data") == ""


def step(name: str, came: int, kept: int, **more: Any) -> dict[str, Any]:
    return {"step": name, "documents_in": came, "documents_out": kept} | more


def test_the_funnel_is_measured_by_its_widest_step(tmp_path: Path):
    dropped = {f"reason_{n:02}": 40 - n for n in range(13)}
    steps = [step("one_step", 40, 50, bytes_out=2000), step("two", 80, 20, dropped=dropped), step("three", 20, 10)]
    write(tmp_path, "clean/funnel.json", {"steps": steps})
    page = section(tmp_path, "data")
    assert "<p>10 of 40 documents (25.0%) were kept.</p>" in page
    assert widths(page) == [50, 50, 100, 25, 25, 12.5]  # lost and kept of 80; kept is never wider than what came
    assert re.findall('aria-label="(.*?)"', page) == [
        "50 of 40 documents kept", "20 of 80 documents kept", "10 of 20 documents kept",
    ]  # fmt: skip
    assert re.findall(r'<span class="name">(.*?)</span>', page) == ["one step", "two", "three"]
    assert re.findall(r'<span class="count">(.*?)</span>', page) == ["50", "20", "10"]
    assert re.findall(r'<span class="count quiet">(.*?)</span>', page) == ["2 kB", "", ""]
    reasons = re.findall("<li>(.*?)</li>", page)
    assert reasons[0] == "reason 00 <b>40</b>"
    assert len(reasons) == 13
    assert reasons[-1] == "and 1 more reasons"
    write(tmp_path, "clean/funnel.json", {"steps": [step("a", 0, 0, dropped=dict(list(dropped.items())[:12]))]})
    page = section(tmp_path, "data")
    assert "<p>0 of 0 documents were kept.</p>" in page
    assert widths(page) == [0, 0]
    assert page.count("<li>") == 12
    assert "more reasons" not in page


def test_the_figures_of_the_data_by_name(tmp_path: Path):
    clean = {
        "train_documents": 1234, "validation_documents": 5, "masked": {"e_mail": 6, "ip": 7}, "site_lines": 8,
        "copied_paragraphs": 9, "unsafe_paragraphs": 10, "contaminated": {"piqa": 11}, "text_bytes_out": 12,
    }  # fmt: skip
    write(tmp_path, "clean/manifest.json", manifest("clean", **clean))
    write(tmp_path, "tokenizer/manifest.json", manifest("tokenizer", vocab_size=13))
    write(tmp_path, "shards/manifest.json", manifest("shards", tokens=14))
    assert pairs(section(tmp_path, "data")) == {
        "training documents": "1,234",
        "validation documents": "5",
        "ip masked": "7",
        "e mail masked": "6",
        "boilerplate lines removed": "8",
        "duplicate paragraphs removed": "9",
        "offensive paragraphs removed": "10",
        "documents with text of piqa": "11",
        "bytes of clean text": "12",
        "vocabulary size": "13",
        "tokens in shards": "14",
    }


# -- training ----------------------------------------------------------------------------------------------------------


def test_the_curves_of_training(tmp_path: Path):
    rows = [metrics_row(step, grad_norm=10.0**step) for step in range(1, 4)]
    rows[1]["validation"], rows[2]["validation"] = {"loss": 2.5}, {"loss": None, "accuracy": 0.5}
    rows.append({"step": 4, "loss": None})
    write_rows(tmp_path, "metrics.jsonl", rows)
    page = section(tmp_path, "training")
    charts = figures(page)
    assert list(charts) == ["loss", "lr", "grad-norm", "tokens-per-second"]
    names = [list(points(chart)) for chart in charts.values()]
    assert names == [["training", "validation"], ["learning rate"], ["gradient norm"], ["speed"]]
    assert charts["loss"].count("<circle") == 1  # validation as dots, one of them with a loss
    assert [place[1] for place in points(charts["grad-norm"])["gradient norm"]] == [190, 102, 14]  # by powers of ten
    for name in ("lr", "tokens-per-second"):
        assert 'x="48" y="190.0" dy="0.32em" text-anchor="end">0<' in charts[name]  # from zero
    units = re.findall(r"<figcaption><b>(.*?)</b>(?: <span>(.*?)</span>)?", page)
    assert units == [
        ("Loss", "nats per token"), ("Learning rate", ""), ("Gradient norm", "before clipping"),
        ("Speed", "tokens per second"),
    ]  # fmt: skip
    assert "1 steps have no finite loss." in page
    assert page.count('class="legend"') == 1  # of the large chart
    assert re.findall('viewBox="0 0 (.*?)"', page) == ["920 340", *["440 230"] * 3]


@pytest.mark.parametrize(("width", "legends"), [(600, 0), (601, 1)])
def test_a_wide_chart_has_a_legend(width: int, legends: int):
    series = [Series("a", [(0.0, 1.0)]), Series("b", [(0.0, 1.0)], "dots")]
    page = chart_macro("figure", Chart("c", "T", "unit", "t", "y", series, width=width))
    assert page.count('class="legend"') == legends
    assert "<b>T</b> <span>unit</span>" in page


@pytest.mark.parametrize(("count", "names"), [(20, ["training"]), (21, ["training, each step", "training, smoothed"])])
def test_a_long_curve_is_smoothed(tmp_path: Path, count: int, names: list[str]):
    rows = [metrics_row(step, loss=float(step % 2)) for step in range(1, count + 1)]
    write_rows(tmp_path, "metrics.jsonl", rows)
    chart = figures(section(tmp_path, "training"))["loss"]
    assert list(points(chart)) == names
    if count == 21:  # two on each side of the 17th point, of 0 and 1 in turn
        assert [place[3] for place in points(chart)["training, smoothed"] if place[2] == "17"] == ["0.6"]


def test_the_radius_of_smoothing_grows_with_the_run(tmp_path: Path):
    rows = [metrics_row(step, loss=float(step == 150)) for step in range(1, 201)]  # 200 // 50 = 4 on each side
    write_rows(tmp_path, "metrics.jsonl", rows)
    smooth = points(figures(section(tmp_path, "training"))["loss"])["training, smoothed"]
    raised = [int(place[2]) for place in smooth if place[3] == "0.111111"]
    assert raised == list(range(146, 155))


def test_the_table_of_validation(tmp_path: Path):
    found = {"loss": 2.34567, "perplexity": 10.44321, "accuracy": 0.4567, "bits_per_byte": 1.00006}
    rows = [metrics_row(step) for step in range(1, 14)]
    rows[0]["validation"], rows[3]["validation"] = found, {"loss": 2.0, "accuracy": "x"}
    write_rows(tmp_path, "metrics.jsonl", rows)
    page = section(tmp_path, "training")
    assert cells(page) == [
        ["step", "loss", "perplexity", "accuracy", "bits per byte"],
        ["1", "2.3457", "10.4432", "45.7%", "1.0001"],
        ["4", "2", "–", "–", "–"],
    ]
    for count in (12, 13):
        for row in rows[:count]:
            row["validation"] = found
        write_rows(tmp_path, "metrics.jsonl", rows)
        page = section(tmp_path, "training")
        assert ("<details open>" in page) == (count == 12)


# -- what came out -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("perplexity", "unigram", "bars"), [(25.0, 100.0, [25, 100]), (200.126, 50.0, [100, 24.98])])
def test_perplexities_are_measured_by_the_larger(tmp_path: Path, perplexity: float, unigram: float, bars: list[float]):
    validation = {"perplexity": perplexity, "tokens": 1234}
    write(tmp_path, "evaluation.json", {"validation": validation, "unigram_perplexity": unigram})
    page = section(tmp_path, "scores")
    assert widths(page) == bars
    assert re.findall(r'class="name">(.*?)<.*?class="(kept|quiet)"', page) == [
        ("this model", "kept"), ("unigram baseline", "quiet"),
    ]  # fmt: skip
    assert "Over 1,234 tokens; lower is better." in page
    assert f'<span class="count">{perplexity:.5g}</span>' in page


def test_guesses_of_last_words(tmp_path: Path):
    examples: list[Any] = [
        {"context": "c" * 160, "answer": " mat", "guess": "mat "},
        {"context": "d" * 161, "answer": "mat", "guess": "hat"},
        7,
        *[{"context": "e", "answer": "a", "guess": "b"}] * 10,
    ]
    last_word = {"accuracy": 0.25, "n": 1234, "examples": examples}
    write(tmp_path, "evaluation.json", {"tasks": {"last_word": last_word}})
    page = section(tmp_path, "scores")
    assert "Correct in 25.0% of 1,234 passages." in page
    rows = cells(page)
    assert rows[:4] == [
        ["passage", "last word", "guess"],
        ["c" * 160, " mat", "mat "],
        ["… " + "d" * 160, "mat", "hat"],
        ["", "", ""],
    ]
    assert len(rows) == 1 + 12
    assert re.findall('class="(right|wrong)"', page)[:3] == ["right", "wrong", "right"]
    write(tmp_path, "evaluation.json", {"tasks": {"last_word": {"accuracy": 0.5}}})
    assert section(tmp_path, "scores").count("Correct in 50.0%.") == 1
    write(tmp_path, "evaluation.json", {"tasks": {"last_word": {"n": 5}}, "unigram_perplexity": 3.0})
    assert section(tmp_path, "scores") == ""


def test_samples_with_their_settings(tmp_path: Path):
    write(tmp_path, "recipe.toml", "[generate]\ntemperature = 0.5\ntop_k = 3\ntop_p = 0.9\nseed = 7\nmin_p = 0.1\n")
    samples: list[Any] = [{"prompt": f"p{n}", "text": f"t{n}", "token_ids": [0] * n} for n in range(23)]
    write(tmp_path, "samples.json", {"samples": [{}, *samples, {"prompt": "last", "text": "one"}]})
    page = section(tmp_path, "samples")
    assert page.count("<figure") == 24
    captions = re.findall("<figcaption>(.*?)</figcaption>", page)
    assert captions[0] == "temperature 0.5 · top k 3 · top p 0.9 · seed 7"
    assert captions[3] == "temperature 0.5 · top k 3 · top p 0.9 · seed 7 · 2 tokens"
    assert '<span class="prompt">p2</span>t2<' in page


# -- how it was made ---------------------------------------------------------------------------------------------------


def test_shares_of_the_phases_in_the_time(tmp_path: Path):
    for name, seconds in (("crawl", 10.0), ("tokenizer", 30.0), ("shards", 60.0)):
        write(tmp_path, f"{name}/manifest.json", manifest(name, seconds=seconds))
    page = section(tmp_path, "time")
    assert cells(page) == [
        ["crawl", "10.0 s", "10.0%"], ["tokenizer", "30.0 s", "30.0%"], ["shards", "1 min 00 s", "60.0%"],
        ["all", "1 min 40 s", ""],
    ]  # fmt: skip
    assert re.findall('flex-grow:(.*?)"', page) == ["0.10000", "0.30000", "0.60000"]
    assert re.findall(r'<i style="--strength:(\d+)%', page) == ["100", "60", "20"]
    assert re.findall('title="(.*?)"', page) == ["crawl: 10.0 s", "tokenizer: 30.0 s", "shards: 1 min 00 s"]
    assert '<tr class="total">' in page
    for name in ("tokenizer", "shards"):
        (tmp_path / name / "manifest.json").unlink()
    assert re.findall(r"--strength:(\d+)%", section(tmp_path, "time")) == ["100", "100"]
    write(tmp_path, "crawl/manifest.json", manifest("crawl", seconds=0))
    assert section(tmp_path, "time") == ""


def test_the_recipe_as_its_file_has_it(tmp_path: Path):
    write(tmp_path, "recipe.toml", '# "a" <b>\n  [model]\ndim = 64\n\n  # c\n[train]\nseed = 1\n')
    page = render_report(read_run(tmp_path))
    assert re.findall("<pre>(.*)</pre>", page, re.DOTALL) == [
        '<span class="comment"># &#34;a&#34; &lt;b&gt;</span>\n<span class="table">  [model]</span>\ndim = 64\n\n'
        '<span class="comment">  # c</span>\n<span class="table">[train]</span>\nseed = 1'
    ]
    write(tmp_path, "recipe.toml", "#23456789\n" * 10_001)
    assert section(tmp_path, "recipe").count('class="comment"') == 10_000  # of 100,000 characters
    write(tmp_path, "recipe.toml", "")
    assert section(tmp_path, "recipe") == ""


def test_where_it_came_from(tmp_path: Path):
    whole(tmp_path)
    write(tmp_path, "shards/manifest.json", manifest("shards") | {"versions": {"a": 1, "testlib": "0.1"}})
    write(tmp_path, "crawl/manifest.json", {"summary": {"seconds": 1}, "versions": {"b": "2"}})
    found = pairs(section(tmp_path, "provenance"))
    assert found == {
        "weights sha256": f"<code>{'ab' * 32}</code>",
        "clean fingerprint": "<code>clean-print</code>",
        "shards fingerprint": "<code>shards-print</code>",
        "pretrain fingerprint": "<code>pretrain-print</code>",
        "versions": "a 1, b 2, testlib 9.8.7",  # of the latest phase
    }


def test_the_parts_of_a_page_in_their_order(tmp_path: Path):
    whole(tmp_path)
    page = render_report(read_run(tmp_path))
    assert re.findall("<h2 id=.*?>(.*?)</h2>", page) == [
        "Training", "Scores", "Samples", "Data", "Time", "Recipe", "Provenance",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("summary", "words"),
    [
        ({"step": 30, "tokens": 3000, "device": "cpu"}, "Trained for 30 steps on 3k tokens on a CPU."),
        ({"step": 1234, "device": "cuda"}, "Trained for 1,234 steps on a GPU."),
        ({"tokens": 0, "device": "tpu"}, "Trained for 0 steps on 0 tokens."),
        (
            {"parameters": 2_500_000, "step": 1},
            "A Llama network of 2.5M parameters (3 layers, width 64). Trained for 1 ",
        ),
    ],
)
def test_the_first_sentences(tmp_path: Path, summary: dict[str, Any], words: str):
    write(tmp_path, "recipe.toml", "[model]\ndim = 64\nn_layers = 3\n")
    write(tmp_path, "checkpoints/manifest.json", manifest("pretrain", **summary))
    assert f'<p class="abstract">{words}' in render_report(read_run(tmp_path))
