"""`train-safety`, `score-safety` and `explain` on the command line: one JSON object, or one line and exit code 2."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.cleaning.clean_inputs import prose, write_json_lines
from tests.cleaning.test_safety_train import LABELS


def command(*words: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "tinyllama", *map(str, words)]
    return subprocess.run(line, input=stdin, capture_output=True, text=True, timeout=120)


def result(*words: object, stdin: str = "") -> Any:
    done = command(*words, "--json", stdin=stdin)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def fault(*words: object, stdin: str = "") -> str:
    done = command(*words, stdin=stdin)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
    return done.stderr.strip().splitlines()[-1]


def test_train_and_score(tmp_path: Path):
    labels = write_json_lines(
        tmp_path / "labels.jsonl", [{**row, "label": int(row["label"] == "hate")} for row in LABELS]
    )
    summary = result("train-safety", labels, "--out", tmp_path / "out", "--seed", 1)
    assert {"average_precision", "recall_at_1pct_false_positives", "reliability"} <= summary["hate"].keys()
    texts = ["The grobbish keeper of the northern light", "The gentle keeper of the northern light", ""]
    scores = result("score-safety", "--model", tmp_path / "out", stdin="".join(json.dumps(t) + "\n" for t in texts))
    assert [hate > 0.5 for hate in scores["hate"]] == [True, False, False]
    assert len(scores["sexual"]) == 3
    assert result("train-safety", labels, "--out", tmp_path / "out", "--seed", 1) == summary  # nothing to do
    assert result("score-safety") == {"hate": [], "sexual": []}
    assert command("score-safety", stdin='"a"\n').stdout.startswith("hate 0.")


def test_bad_input(tmp_path: Path):
    one = write_json_lines(tmp_path / "one.jsonl", [{"text": "a", "label": "hate"}] * 3)
    out = tmp_path / "out"
    assert "all 3 rows have the label hate; add rows labelled none" in fault("train-safety", one, "--out", out)
    assert not out.exists()
    assert "no such file" in fault("train-safety", tmp_path / "none.jsonl", "--out", out)
    assert "write OLD=NEW" in fault("train-safety", one, "--out", out, "--label", "x")
    assert "no such file" in fault("score-safety", "--model", tmp_path / "none")
    assert "stdin, line 2: not a JSON string" in fault("score-safety", stdin='"a"\n{}\n')
    long = json.dumps("word " * 2_000_000)
    assert "the most is 8,000,000; split the text" in fault("score-safety", stdin=long + "\n")
    assert 'safety = "all"' in fault("clean", one, "--out", out, "clean.safety=all")
    assert "no such file or folder" in fault("clean", one, "--out", out, "clean.decontaminate=/none")


def test_explain(tmp_path: Path):
    rows = [{"id": "a", "text": prose(1)}, {"id": "b", "text": "Too short."}]
    result("clean", write_json_lines(tmp_path / "x.jsonl", rows), "--out", tmp_path / "out")
    assert result("explain", tmp_path / "out", "a")["fate"] == "train"
    assert result("explain", tmp_path / "out", "b")["fate"] == "dropped"
    assert "no document with the id 'c'" in fault("explain", tmp_path / "out", "c")
