import base64
import hashlib
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from tests.report.run_folder import WEIGHTS_SHA256, crawl_only, metrics_row, whole, write, write_rows
from tinyllama.errors import InputError
from tinyllama.report.run_report import write_report

VOID = {"meta", "br", "img", "link", "input", "hr"}
HOSTILE = "</script></style><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u202e\x00\ud800{{ 7*7 }}{% raw %}"


class _Page(HTMLParser):
    """Reads a page as a browser would: its elements, their attributes, its text; tags must pair."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


def _written(run_dir) -> str:
    path = write_report(run_dir)
    assert path == run_dir / "report.html"
    return path.read_text(encoding="utf-8")


def test_a_whole_run_shows_everything(tmp_path):
    whole(tmp_path)
    page = _written(tmp_path)
    read = _Page(page)
    for words in (
        "24.78", "3.2100", "34.5%", "1.234", "333.3", "25.0%", "± 5.0 points", "98,765", "1.02k", "14.5 s", "500 MB",
        "31 pages stored from 47 requests", "too short", "17 of 31 documents (54.8%)", "few words", "4.32 kB",
        "7,654", "validation documents2", "email masked6",
        "Learning rate", "Gradient norm", "Speed", "resumed at step 10", "checkpoint saved at step 10",  # training
        "4,242", "the cat sat on the", "hat", "temperature 0.7 · seed 5 · 3 tokens", "Once upon a test",  # scores, samples
        "peak_lr = 0.00123", WEIGHTS_SHA256, "testlib 9.8.7", "crawl-print", "3 layers, width 64",  # how it was made
    ):  # fmt: skip
        assert words in read.text, words
    charts = [attributes["data-chart"] or "" for tag, attributes in read.elements if tag == "svg"]
    assert len(charts) == 4
    for step in range(1, 31):  # every plotted number
        row = metrics_row(step)
        assert f'"{row["loss"]:.6g}"' in charts[0]
        assert f'"{row["lr"]:.6g}"' in charts[1]
        assert f'"{row["tokens_per_second"]:,.0f}"' in charts[3]
    prompts = re.findall(r'<span class="prompt">(.*?)</span>', page)
    assert "Once" in prompts


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    whole(tmp_path)
    page = _written(tmp_path)
    for tag, attributes in _Page(page).elements:
        assert tag not in {"link", "iframe", "object", "embed", "img", "base", "form"}
        assert not attributes.keys() & {"src", "href", "srcset", "action", "xlink:href"}
    assert "http:" not in page
    assert "https:" not in page
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_hostile_texts_are_only_text(tmp_path):
    whole(tmp_path)
    harmless = [tag for tag, _ in _Page(_written(tmp_path)).elements]
    hostile_manifest = {
        "phase": HOSTILE,
        "fingerprint": HOSTILE,
        "summary": {"pages_stored": 1, "left_out": {HOSTILE: 3}, "seconds": 2.5},
        "versions": {HOSTILE: HOSTILE},
    }
    write(tmp_path, "crawl/manifest.json", hostile_manifest)
    step = {"step": HOSTILE, "documents_in": 3, "documents_out": 2, "dropped": {HOSTILE: 1}}
    write(tmp_path, "clean/funnel.json", {"steps": [step, step]})
    example = {"context": HOSTILE, "answer": HOSTILE, "guess": "no"}
    evaluation = {
        "validation": {"perplexity": 5.0},
        "unigram_perplexity": 9.0,
        "tasks": {"last_word": {"accuracy": 0.5, "examples": [example]}},
    }
    write(tmp_path, "evaluation.json", evaluation)
    write(
        tmp_path,
        "samples.json",
        {"samples": [{"prompt": HOSTILE, "text": HOSTILE, "temperature": HOSTILE, "token_ids": HOSTILE}]},
    )
    recipe = "# </pre><script>alert(3)</script>\n[model]\ndim = 64\n"
    write(tmp_path, "recipe.toml", recipe)
    write_rows(tmp_path, "events.jsonl", [{"event": HOSTILE, "step": 3}, {"event": ["save"], "step": 3}])
    score = {
        "task": HOSTILE,
        "metric": HOSTILE,
        "value": 0.5,
        "tokens": 10,
        "ours": {"a": {"value": 1, "n": 1, "n_official": 1}},
    }
    write(tmp_path, "scorecard.json", {"rows": [score], "checkpoints": [score]})
    page = _written(tmp_path)
    read = _Page(page)
    assert page.count("<script") == 1
    assert read.text.count("{{ 7*7 }}{% raw %}") > 5
    assert "alert(1)</script><img" in read.text  # shown as it is written
    assert {tag for tag, _ in read.elements} <= set(harmless)
    for _, attributes in read.elements:
        assert not [name for name in attributes if name.startswith("on")]
    assert "\x00" not in page


def test_a_hostile_folder_name(tmp_path):
    run_dir = tmp_path / "<img src=x onerror=alert(1)> $title"
    crawl_only(run_dir)
    page = _written(run_dir)
    assert "<img" not in page
    assert "&lt;img src=x onerror=alert(1)&gt; $title" in page


def test_only_the_crawl_is_done(tmp_path):
    crawl_only(tmp_path)
    read = _Page(_written(tmp_path))
    assert "Not trained yet." in read.text
    assert "31 pages stored" in read.text
    for absent in ("Training", "Scores", "Samples", "Recipe", "Validation"):
        assert absent not in [word.strip() for word in read.words]


def test_training_has_not_finished(tmp_path):
    write_rows(tmp_path, "metrics.jsonl", [metrics_row(step) for step in range(1, 8)])
    read = _Page(_written(tmp_path))
    assert "Training has not finished: the last recorded step is 7." in read.text
    assert "svg" in [tag for tag, _ in read.elements]


def test_empty_metrics(tmp_path):
    write(tmp_path, "metrics.jsonl", "")
    read = _Page(_written(tmp_path))
    assert "svg" not in [tag for tag, _ in read.elements]
    assert "Not trained yet." in read.text


def test_values_that_are_no_numbers(tmp_path):
    nan = float("nan")
    rows = [metrics_row(1), metrics_row(2, loss=nan, grad_norm=nan, lr=None), metrics_row(3, loss=float("inf"))]
    rows.append(metrics_row(4, validation={"loss": nan, "perplexity": None, "accuracy": "x"}))
    write_rows(tmp_path, "metrics.jsonl", rows)
    read = _Page(_written(tmp_path))
    assert "2 steps have no finite loss." in read.text
    assert not re.search(r"\b(nan|inf|None)\b", read.text)


def test_the_same_files_give_the_same_bytes(tmp_path):
    whole(tmp_path)
    first = write_report(tmp_path).read_bytes()
    assert write_report(tmp_path).read_bytes() == first


def test_no_run_leaves_nothing_behind(tmp_path):
    with pytest.raises(InputError):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_script_in_the_page_is_the_one_allowed(tmp_path):
    crawl_only(tmp_path)
    page = _written(tmp_path)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page


def test_reporting_imports_no_torch():
    code = "import sys, tinyllama.report.run_report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
