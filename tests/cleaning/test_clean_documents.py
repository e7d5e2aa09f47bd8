"""What cleaning does around its steps: what it refuses early, clears away, leaves alone, and tells libraries."""

import importlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cleaning.clean_inputs import prose, write_json_lines
from tests.cleaning.cleaning_here import in_this_process, tasks_here
from tinyllama import document_files
from tinyllama.cleaning import clean_documents, clean_run
from tinyllama.cleaning.clean_config import CleanConfig
from tinyllama.cleaning.decontaminate import build_index
from tinyllama.cleaning.extract import main_text
from tinyllama.cleaning.extract_documents import extract_documents
from tinyllama.dedup import components, hash_records
from tinyllama.errors import InputError
from tinyllama.workers import worker_pool, worker_process

CONFIG = CleanConfig(workers=1, languages=[], safety="off")


def documents(tmp_path: Path) -> Path:
    lines = write_json_lines(tmp_path / "x.jsonl", [{"id": f"{n}", "text": prose(n)} for n in range(3)])
    extract_documents(CONFIG, [lines], tmp_path / "documents")
    return tmp_path / "documents"


def test_bad_input_leaves_what_is_not_ours(tmp_path: Path) -> None:
    def spoil(folder: Path) -> None:
        with document_files.removed_on_bad_input(folder):
            raise InputError("bad")

    out = tmp_path / "out"
    for name in ("dropped/a.parquet", "work/deep/x", "a.parquet"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).touch()
    with pytest.raises(InputError, match="bad"):
        spoil(out)
    assert not out.exists()
    (out / "work").mkdir(parents=True)
    (out / "unfinished.json").touch()
    with pytest.raises(InputError, match="bad"):
        spoil(out)
    assert [path.name for path in out.iterdir()] == ["unfinished.json"]
    with document_files.removed_on_bad_input(out):
        (out / "b.parquet").touch()
    assert (out / "b.parquet").exists()


def test_leftovers_of_a_killed_run_are_cleared_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    found, out = documents(tmp_path), tmp_path / "new" / "clean"
    (out / "train").mkdir(parents=True)
    leftover = out / ".funnel.json.abcd1234"
    leftover.touch()
    clean_documents.clean_documents(CONFIG, found, out)
    assert not leftover.exists()
    assert not (out / "work").exists()
    (found / ".00000-00000.parquet.abcd1234").touch()
    extract_documents(CONFIG, [tmp_path / "x.jsonl"], found)
    assert not list(found.glob(".*"))


def test_a_bad_model_is_refused_before_any_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(function: str, tasks: list[Any], workers: int) -> Any:
        raise AssertionError(function)

    found = documents(tmp_path)
    for module in (worker_pool, clean_documents):
        monkeypatch.setattr(module, "run_tasks", none)
    config = CONFIG.model_copy(update={"safety": "score", "safety_model": str(tmp_path / "none")})
    with pytest.raises(InputError, match="no such file"):
        clean_documents.clean_documents(config, found, tmp_path / "out")


def test_a_killed_runs_index_is_used_again(tmp_path: Path) -> None:
    (tmp_path / "eval" / "task").mkdir(parents=True)
    write_json_lines(tmp_path / "eval" / "task" / "x.jsonl", [{"q": prose(1, 1)}])
    config = CONFIG.model_copy(update={"decontaminate": str(tmp_path / "eval")})
    folder = clean_documents._contamination_index(config, tmp_path / "deep" / "work")
    assert folder is not None
    assert folder == tmp_path / "deep" / "work" / "contamination"
    stamp = (folder / "run_hashes.npy").stat().st_mtime_ns
    assert clean_documents._contamination_index(config, tmp_path / "deep" / "work") == folder
    assert (folder / "run_hashes.npy").stat().st_mtime_ns == stamp
    (folder / "tasks.json").unlink()  # the sign that it is whole
    clean_documents._contamination_index(config, tmp_path / "deep" / "work")
    assert (folder / "run_hashes.npy").stat().st_mtime_ns > stamp
    assert clean_documents._contamination_index(CONFIG, tmp_path / "none") is None
    build_index(tmp_path / "eval").save(tmp_path / "a" / "b")


def test_rounds_leave_one_folder_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "run_tasks", tasks_here)
    hash_records.write_array(tmp_path / "a.npy", np.array([[1, 2], [2, 3], [9, 3], [5, 6]]))
    groups = components.components_in_rounds([tmp_path / "a.npy"], tmp_path / "rounds", 2, 1)
    rows = np.concatenate([hash_records.read_array(path) for group in groups for path in group])
    assert sorted(map(tuple, rows[rows[:, 0] < rows[:, 1]].tolist())) == [(1, 2), (1, 3), (1, 9), (5, 6)]
    (folder,) = (tmp_path / "rounds").iterdir()
    assert folder.name.endswith("-small")
    assert len(groups) == 2


def test_libraries_are_told_to_send_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        "DO_NOT_TRACK": "1",
        "DAFT_ANALYTICS_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "DAFT_PROGRESS_BAR": "0",
    }
    for name in names:
        monkeypatch.delenv(name, raising=False)
    importlib.reload(clean_run)
    assert {name: clean_run.os.environ.get(name) for name in names} == names
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    importlib.reload(clean_run)
    assert clean_run.os.environ["DO_NOT_TRACK"] == "0"


def test_the_time_of_both_parts_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1000.0, 1002.5004])
    monkeypatch.setattr(clean_run, "extract_documents", lambda *words: seen.append(words))
    monkeypatch.setattr(clean_run, "clean_documents", lambda *words: seen.append(words) or {"documents_in": 3})
    monkeypatch.setattr(clean_run.time, "monotonic", lambda: next(clock))
    seen: list[Any] = []
    assert clean_run.clean(CONFIG, [tmp_path], Path("d"), Path("o")) == {"documents_in": 3, "seconds": 2.5}
    monkeypatch.undo()
    assert seen == [(CONFIG, [tmp_path], Path("d")), (CONFIG, Path("d"), Path("o"))]
    assert time.monotonic() > 0


def test_workers_are_those_asked_for_or_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool.os, "sched_getaffinity", lambda process: {0, 4, 7} if process == 0 else set())
    assert (worker_pool.worker_count(0), worker_pool.worker_count(1), worker_pool.worker_count(8)) == (3, 1, 8)


def test_a_worker_watches_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    started: list[Any] = []
    monkeypatch.setattr(worker_process.threading, "Thread", lambda **options: started.append(options) or Started())
    for target, name in (
        (worker_process.os, "dup2"),
        (worker_process.signal, "signal"),
        (worker_process.resource, "setrlimit"),
    ):
        monkeypatch.setattr(target, name, lambda *_: None)
    monkeypatch.setattr(worker_process.sys, "stdin", io.StringIO(""))
    worker_process.serve(77, 0)
    assert started == [{"target": worker_process._end_with, "args": (77,), "daemon": True}]
    assert Started.seen == ["started"]
    Started.seen.clear()


class Started:
    seen: list[str] = []  # noqa: RUF012

    def start(self) -> None:
        Started.seen.append("started")


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ('<p>one</p><img alt="hidden words"><p>two</p>', "one\n\ntwo"),
        ("<article><p>in</p><ul><li>an item</li></ul></article>", "in\n\n  • an item"),
        ("<p>a  b</p><PRE class=x>c  d\n e</PRE >f", "a b\n\nc  d\n e\n\nf"),
        ("<main><p>x</p></main><article><p>y</p></article>", "x\n\ny"),
        ("<p>end  </p>\n\n", "end"),
    ],
)
def test_the_text_of_a_page(html: str, text: str) -> None:
    assert main_text(f"<html><body>{html}</body></html>") == text
