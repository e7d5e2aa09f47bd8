"""Texts without end are cut where the page has room for them: each of these is one character too long."""

from pathlib import Path
from typing import Any

import pytest

from tests.report.run_folder import manifest, section, write
from tinyllama.report.run_facts import read_run
from tinyllama.report.run_report import render_report

LAST_WORD = {"accuracy": 0.5, "examples": [{"context": "c", "answer": "a" * 81, "guess": "g" * 81}]}
SCORE = {"task": "t" * 41, "metric": "m" * 41}
CELL = {"value": 1, "n": 1, "n_official": 1}
STEP = {"step": "s" * 81, "documents_in": 1, "documents_out": 1, "dropped": {"d" * 81: 1}}


@pytest.mark.parametrize(
    ("name", "content", "part", "wanted"),
    [
        ("crawl/manifest.json", manifest("crawl", left_out={"r" * 81: 1}), "data", ["r" * 80]),
        ("clean/funnel.json", {"steps": [STEP]}, "data", ["s" * 80, "d" * 80]),
        ("clean/manifest.json", manifest("clean", contaminated={"p" * 61: 1}), "data", ["p" * 60]),
        ("clean/manifest.json", manifest("clean", masked={"k" * 81: 1}), "data", ["k" * 80]),
        ("evaluation.json", {"tasks": {"last_word": LAST_WORD}}, "scores", ["a" * 80, "g" * 80]),
        (
            "checkpoints/manifest.json",
            manifest("pretrain", weights_sha256="w" * 81),
            "provenance",
            ["w" * 80],
        ),
        ("crawl/manifest.json", {"fingerprint": "f" * 81}, "provenance", ["f" * 80]),
        ("crawl/manifest.json", {"versions": {"n" * 61: "v" * 61}}, "provenance", ["n" * 60, "v" * 60]),
        ("scorecard.json", {"rows": [SCORE | {"ours": {"a": CELL}}]}, "standard-tasks", ["t" * 40, "m" * 40]),
        (
            "scorecard.json",
            {"checkpoints": [SCORE | {"value": 1, "tokens": 1}]},
            "standard-tasks",
            ["t" * 40, "m" * 40],
        ),
        ("recipe.toml", "# " + "x" * 3999, "recipe", ["# " + "x" * 3998]),
    ],
)
def test_one_character_too_many_is_cut(tmp_path: Path, name: str, content: Any, part: str, wanted: list[str]):
    write(tmp_path, name, content)
    page = section(tmp_path, part)
    assert [text for text in wanted if f"{text} …" not in page] == []
    assert page.count("…") == len(wanted)


def test_a_title_has_room_for_a_hundred_and_twenty_characters(tmp_path: Path):
    write(tmp_path / ("n" * 121), "recipe.toml", "[model]\ndim = 64\n")
    write(tmp_path / ("n" * 121), "checkpoints/manifest.json", manifest("pretrain", parameters=5, step=1))
    page = render_report(read_run(tmp_path / ("n" * 121)))
    assert f"<h1>{'n' * 120} …</h1>" in page
    assert "A Llama network of 5 parameters. Trained" in page  # one of two shapes alone is not named
    assert (
        "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; script-src 'sha256-"
        in page
    )
