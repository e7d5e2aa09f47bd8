"""Evaluation data is found in training text, whatever its case and layout; other text is not."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cleaning.clean_inputs import prose
from tests.conftest import SHARED
from tinyllama.cleaning.decontaminate import RUN_WORDS, ContaminationIndex, _texts, build_index, remove_evaluation_data
from tinyllama.errors import InputError
from tinyllama.hashing import plain_words

QUESTION = "Which of these two rivers, seen from the old stone bridge at dawn, runs faster towards the sea?"
SHORT = {"goal": "how to wash a very old woollen carpet", "sol1": "with cold water", "sol2": "with hot oil"}


@pytest.fixture(scope="module")
def eval_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    rows = {
        "rivers": [{"id": "1", "question": QUESTION, "choices": {"text": ["the left", "the right"]}}],
        "carpets": [SHORT],
    }
    rows["again"] = [{"text": f"Before it. {QUESTION}"}]
    for task, examples in rows.items():
        (folder / task).mkdir()
        with gzip.open(folder / task / "test.jsonl.gz", "wt") as file:
            file.write("".join(json.dumps(row) + "\n" for row in examples))
    return folder


@pytest.fixture(scope="module")
def index(eval_folder: Path) -> ContaminationIndex:
    return build_index(eval_folder)


def test_copies_are_found_whatever_their_case_and_layout(index: ContaminationIndex) -> None:
    words = len(plain_words(QUESTION))
    runs = words - RUN_WORDS + 1
    assert index.tasks_of(f"x {QUESTION} y") == {"again": runs, "rivers": runs}
    assert index.tasks_of(QUESTION.upper().replace(" ", "\n  ").replace("two", "“two”")) == {
        "again": runs,
        "rivers": runs,
    }
    assert index.tasks_of(" ".join(QUESTION.split()[:RUN_WORDS])) == {"again": 1, "rivers": 1}
    assert index.tasks_of(" ".join(QUESTION.split()[: RUN_WORDS - 1])) == {}
    assert index.tasks_of(QUESTION.replace("stone", "iron")) == {}


def test_short_fields_are_found_whole_and_short_examples_as_one_text(index: ContaminationIndex) -> None:
    assert index.tasks_of("He asked how to wash a very old woollen carpet, twice.") == {"carpets": 1}
    assert index.tasks_of("He asked how to wash a very old woollen.") == {}
    joined = "to wash a very old woollen carpet with cold water with hot oil"
    assert index.tasks_of(joined) == {"carpets": 1}


def test_other_text_is_kept(index: ContaminationIndex) -> None:
    assert index.tasks_of("") == {}
    assert all(index.tasks_of(prose(seed)) == {} for seed in range(30))


def test_saved_and_mapped_is_the_same(index: ContaminationIndex, tmp_path: Path) -> None:
    index.save(tmp_path)
    text = f"{prose(1)} {QUESTION} {SHORT['goal']}"
    assert ContaminationIndex.load(tmp_path).tasks_of(text) == index.tasks_of(text)


def test_what_goes(index: ContaminationIndex) -> None:
    text = f"{prose(1)}\n\n{QUESTION}\n\n{prose(2)}"
    shared = index.tasks_of(text)
    assert remove_evaluation_data(text, index, "document") == ("", shared, 0)
    assert remove_evaluation_data(text, index, "paragraph") == (f"{prose(1)}\n\n{prose(2)}", shared, 1)
    across = text.replace("bridge at dawn", "bridge at\n\ndawn")
    assert remove_evaluation_data(across, index, "paragraph")[0] == ""
    assert remove_evaluation_data(prose(1), index, "paragraph") == (prose(1), {}, 0)


def reference_tasks(text: str, examples: dict[str, list[str]]) -> set[str]:
    """Runs of words as sets of tuples."""

    def runs(words: list[bytes]) -> set[tuple[bytes, ...]]:
        return {tuple(words[place : place + RUN_WORDS]) for place in range(len(words) - RUN_WORDS + 1)}

    there = runs(plain_words(text))
    return {task for task, fields in examples.items() if any(runs(plain_words(field)) & there for field in fields)}


WORDS = st.sampled_from(["a", "b", "é", "the", "x" * 70, "中", "Z9"])
LONG = st.lists(WORDS, min_size=13, max_size=16).map(" ".join)


@given(
    LONG, LONG, st.lists(WORDS, max_size=30).map(" ".join), st.lists(WORDS, max_size=30).map(" ".join), st.booleans()
)
@settings(max_examples=40, deadline=None)
def test_as_sets_of_tuples(
    tmp_path_factory: pytest.TempPathFactory, one: str, two: str, before: str, after: str, planted: bool
) -> None:
    folder = tmp_path_factory.mktemp("eval")
    for task, text in (("one", one), ("two", two)):
        (folder / task).mkdir()
        (folder / task / "test.jsonl").write_text(json.dumps({"text": text}))
    text = f"{before}, {one if planted else ''}. {after}"
    assert set(build_index(folder).tasks_of(text)) == reference_tasks(text, {"one": [one], "two": [two]})


def test_long_documents_are_searched_to_their_end(index: ContaminationIndex) -> None:
    filler = prose(3, 2000)
    assert index.tasks_of(filler) == {}
    for place in (1040, 1050, 1057, 5000, 36_000):
        words = filler.split()
        words[place:place] = QUESTION.split()
        assert set(index.tasks_of(" ".join(words))) == {"again", "rivers"}


def test_bad_folders_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        build_index(tmp_path / "none")
    with pytest.raises(InputError, match="no task"):
        build_index(tmp_path)
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "test.jsonl").write_text('{"text": "a"}\nnot json\n')
    with pytest.raises(InputError, match=r"test\.jsonl, line 2: not JSON"):
        build_index(tmp_path)


@pytest.mark.full
@pytest.mark.skipif(not (SHARED / "eval").is_dir(), reason="no shared data")
def test_a_planted_leak_of_every_task_is_found() -> None:
    """Ten examples spread over each file of each task, put into ordinary text; the same text without them stays."""
    index = build_index(SHARED / "eval")
    for folder in sorted(path for path in (SHARED / "eval").iterdir() if path.is_dir()):
        planted = 0
        for path in sorted(folder.glob("*.jsonl.gz")):
            with gzip.open(path, "rt", encoding="utf-8") as file:
                rows = [json.loads(line) for line in file]
            for row in rows[:: max(1, len(rows) // 10)]:
                fields = [field for field in _texts(row) if len(plain_words(field)) > 1]
                longest = max(fields, key=lambda field: len(plain_words(field)), default="")
                text = longest if len(plain_words(longest)) >= RUN_WORDS else " ".join(fields)
                if len(plain_words(text)) < RUN_WORDS:
                    continue  # shorter than a run: stated in docs/safety.md
                planted += 1
                leaked = f"{prose(planted)} {text} {prose(planted + 1)}"
                assert folder.name in index.tasks_of(leaked), (path, text)
        assert planted, folder
    assert not any(index.tasks_of(prose(seed)) for seed in range(100))
