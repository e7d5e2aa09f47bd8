"""What evaluation leaves on disk: a folder with two files a task, and while a task is under way a third.

    NAME.json                  the scores, what they are of, and how they were made
    NAME.examples.jsonl.zst    one row an example: number, hash, prediction, answers, its value by metric, maybe its group
    .NAME.answers.jsonl        answers so far, so that a killed evaluation goes on within the task

NAME is the task's, with `-5shot` and `-first100` style endings where the setting is not the plain one.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import zstandard

from tinyllama import files
from tinyllama.errors import InputError

SCORES, EXAMPLES, ANSWERS = ".json", ".examples.jsonl.zst", ".answers.jsonl"
RUN_FOLDER = "evaluation"  # in a run folder
OTHERS_FOLDER = Path("evaluations")  # of models that are not runs, in the working directory
Answers = dict[str, dict[int, Any]]  # by kind of request, then by number


def results_folder(model: Path, checkpoint: str | None = None) -> Path:
    """Where the results of a MODEL go: into its run folder by checkpoint, else under `evaluations/` by name."""
    if (model / "checkpoints").is_dir():
        return model / RUN_FOLDER / (checkpoint or "latest")
    if model.parent.name == "checkpoints":
        return model.parent.parent / RUN_FOLDER / model.name
    return OTHERS_FOLDER / (model.resolve().name or "model")


def result_name(task: str, num_fewshot: int, limit: int | None) -> str:
    """The name of a task's files in one setting."""
    shots = f"-{num_fewshot}shot" if num_fewshot else ""
    return f"{task}{shots}{f'-limit{limit}' if limit else ''}"


def read_scores(folder: Path) -> dict[str, dict[str, Any]]:
    """The scores of every finished task in a results folder, by result name. Raises InputError when there is none."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob(f"*{SCORES}")):
        value = files.read_json(path)
        if isinstance(value, dict) and "metrics" in value and "task" in value:
            found[path.name.removesuffix(SCORES)] = value
    if not found:
        raise InputError(f"{folder}: no task results in it; make them with: tinyllama evaluate MODEL --tasks zero_shot")
    return found


def finished(folder: Path, name: str, fingerprint: str) -> dict[str, Any] | None:
    """The scores of a task that was finished with this fingerprint; None where it was not."""
    path = folder / f"{name}{SCORES}"
    if not path.is_file():
        return None
    value = files.read_json(path)
    is_same = isinstance(value, dict) and value.get("fingerprint") == fingerprint
    return value if is_same and (folder / f"{name}{EXAMPLES}").is_file() else None


def write_result(folder: Path, name: str, scores: dict[str, Any], examples: Iterable[dict[str, Any]]) -> None:
    """Write a finished task, its scores last; its answers so far are no longer needed."""
    with (
        files.atomic_file(folder / f"{name}{EXAMPLES}") as file,
        zstandard.ZstdCompressor().stream_writer(file, closefd=False) as out,
    ):
        for example in examples:
            out.write(json.dumps(example, ensure_ascii=False).encode() + b"\n")
    files.write_json(folder / f"{name}{SCORES}", scores)
    (folder / f".{name}{ANSWERS}").unlink(missing_ok=True)


def read_examples(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of one task's examples. Raises InputError when they are missing or damaged."""
    path = folder / f"{name}{EXAMPLES}"
    try:
        stream = zstandard.ZstdDecompressor().decompressobj()
        content = stream.decompress(path.read_bytes())
        if not stream.eof:
            raise ValueError("cut off")
        return [json.loads(line) for line in content.splitlines()]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; evaluate the task again") from None
    except (zstandard.ZstdError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error}); remove {name}{SCORES} and evaluate the task again") from None


def groups_of(examples: Sequence[dict[str, Any]]) -> list[str] | None:
    """Which of the examples belong together, by hash; None where they are single."""
    groups = [example.get("group") for example in examples]
    return None if None in groups else [str(group) for group in groups]


class AnswerLog:
    """A task's answers while it is under way: a line a batch, appended, so that a kill loses one batch at most."""

    def __init__(self, folder: Path, name: str, fingerprint: str) -> None:
        self._path, self._fingerprint = folder / f".{name}{ANSWERS}", fingerprint
        self.answers: Answers = {}
        self.seconds = 0.0  # that the answers took
        self.n_truncated = 0
        rows = files.read_jsonl(self._path)
        is_ours = bool(rows) and rows[0] == {"fingerprint": fingerprint}
        for row in rows[1:] if is_ours else []:
            self._take(row)
        folder.mkdir(parents=True, exist_ok=True)
        kept = [{"fingerprint": fingerprint}, *(rows[1:] if is_ours else [])]
        with files.atomic_file(self._path) as file:  # anew: a last line that was cut off is gone
            file.write("".join(_line(row) for row in kept).encode())
        self._file = self._path.open("a", encoding="utf-8")

    def add(self, kind: str, answers: list[tuple[int, Any]], seconds: float, n_truncated: int) -> None:
        """Take more answers, and write them down."""
        row = {"kind": kind, "answers": answers, "seconds": seconds, "n_truncated": n_truncated}
        self._take(row)
        self._file.write(_line(row))
        self._file.flush()

    def close(self) -> None:
        """End writing; the file stays until the task's result is written."""
        self._file.close()

    def _take(self, row: dict[str, Any]) -> None:
        self.answers.setdefault(row["kind"], {}).update((int(number), answer) for number, answer in row["answers"])
        self.seconds, self.n_truncated = row["seconds"], row["n_truncated"]


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
