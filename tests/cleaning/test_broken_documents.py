"""Documents that hang, crash or fail a step, and input that is too large or too deep: dropped with a reason."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cleaning.clean_inputs import page, prose, write_json_lines, write_warc
from tests.cleaning.test_clean_run import check_counts, rows_of
from tinyllama.cleaning.clean_config import CleanConfig
from tinyllama.cleaning.clean_run import clean
from tinyllama.errors import InputError, TinyllamaError
from tinyllama.workers import worker_pool

# Run by every Python process at its start: the language step of the workers then breaks on some words.
BREAKING = """
import os, re, time
from tinyllama.cleaning import language
plain = language.LanguageDetector.detect
def detect(self, text):
    if "LOOPS" in text:
        re.match("(a+)+$", "a" * 60 + "b")
    if "SLEEPS" in text:
        time.sleep(1000)
    if "CRASHES" in text:
        os.abort()
    if "FAILS" in text:
        raise ValueError("no such language")
    return plain(self, text)
language.LanguageDetector.detect = detect
language.always_dies = lambda task, progress: os._exit(3)
language.says_hello = lambda task, progress: {"hello": True}
"""


@pytest.fixture
def breaking_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BREAKING)
    worker_pool.close_workers()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    yield
    worker_pool.close_workers()


@pytest.mark.usefixtures("breaking_workers")
def test_documents_that_break_a_step_are_dropped_and_stop_nothing(tmp_path: Path) -> None:
    rows = [
        {"id": word, "text": f"{prose(n)}\n{word}"} for n, word in enumerate(("LOOPS", "SLEEPS", "CRASHES", "FAILS"))
    ]
    rows += [{"id": f"good-{n}", "text": prose(n)} for n in range(10, 20)]
    config = CleanConfig(workers=1, document_cpu_seconds=0.5)
    inputs = [write_json_lines(tmp_path / "x.jsonl", rows)]
    summary = clean(config, inputs, tmp_path / "documents", tmp_path / "clean")
    check_counts(tmp_path, summary)
    reasons = {row["id"]: row["reason"] for row in rows_of(tmp_path / "clean" / "dropped")}
    assert reasons == {
        "LOOPS": "step_too_slow", "SLEEPS": "step_too_slow", "CRASHES": "step_crashed", "FAILS": "step_failed",
    }  # fmt: skip
    assert summary["documents_out"] == 10


def test_a_line_of_a_hundred_megabytes_and_ten_thousand_nested_tags(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with (tmp_path / "in" / "x.jsonl").open("w") as file:
        file.write(json.dumps({"id": "long", "text": "x" * 100_000_000}) + "\n")
        file.write(json.dumps({"id": "good", "text": prose(1)}) + "\n")
    deep = f"<html><body>{'<div><b>' * 10_000}{page(prose(3))}"
    pages = {"http://a.org/deep": deep.encode(), "http://a.org/good": page(prose(2)).encode()}
    write_warc(tmp_path / "in" / "y.warc.gz", pages)
    config = CleanConfig(workers=1, page_cpu_seconds=2.0)
    summary = clean(config, [tmp_path / "in"], tmp_path / "documents", tmp_path / "clean")
    check_counts(tmp_path, summary)
    assert summary["documents_in"] == 4
    assert summary["dropped"]["line_too_long"] == 1
    kept = {row["source"] or row["id"] for row in rows_of(tmp_path / "clean" / "train")}
    assert {"good", "http://a.org/good"} <= kept
    assert len(kept) + sum(summary["dropped"].values()) == 4  # the deep page is read in time, or dropped


@pytest.mark.usefixtures("breaking_workers")
def test_a_task_that_always_dies_is_one_line() -> None:
    with pytest.raises(TinyllamaError, match="a worker died in"):
        list(worker_pool.run_tasks("cleaning.language:always_dies", [{}], 1))


@pytest.mark.usefixtures("breaking_workers")
def test_after_a_failure_no_task_is_begun(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.parquet")
    tasks = [{"out": str(tmp_path / f"{n}"), "documents": missing, "min_words": 1} for n in range(40)]
    with pytest.raises(InputError, match=r"none\.parquet: not a readable parquet file"):
        list(worker_pool.run_tasks("cleaning.boilerplate_lines:file_lines", tasks, 1))
    assert list(worker_pool.run_tasks("cleaning.language:says_hello", [{}], 1)) == [{"hello": True}]
