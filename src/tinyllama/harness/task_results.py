"""Result files of an evaluation: two per task, and a third while the task is running.

    NAME.json                  the scores, the model and the settings
    NAME.examples.jsonl.zst    one row per example: number, hash, prediction, answers, values by metric, group if any
    .NAME.answers.jsonl        answers so far, from which an interrupted evaluation resumes

NAME is the task's, with endings such as `-5shot` and `-limit100` for settings that are not the default.
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
OTHERS_FOLDER = Path("evaluations")  # of models that are not runs, below the working directory
Answers = dict[str, dict[int, Any]]  # by kind of request, then by number


def results_folder(model: Path, checkpoint: str | None = None) -> Path:
    """The results folder of a MODEL: in its run folder, by checkpoint; for other models `evaluations/NAME`."""
    if (model / "checkpoints").is_dir():
        return model / RUN_FOLDER / (checkpoint or "latest")
    if model.parent.name == "checkpoints":
        return model.parent.parent / RUN_FOLDER / model.name
    return OTHERS_FOLDER / (model.resolve().name or "model")


def result_name(task: str, num_fewshot: int, limit: int | None) -> str:
    """The name of a task's files for these settings."""
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
        raise InputError(
            f"{folder}: no task results in it; create them with: tinyllama evaluate MODEL --tasks zero_shot"
        )
    return found


def finished(folder: Path, name: str, fingerprint: str) -> dict[str, Any] | None:
    """The scores of a task that was finished with this fingerprint; None if there are none."""
    path = folder / f"{name}{SCORES}"
    if not path.is_file():
        return None
    value = files.read_json(path)
    is_same = isinstance(value, dict) and value.get("fingerprint") == fingerprint
    return value if is_same and (folder / f"{name}{EXAMPLES}").is_file() else None


def write_result(folder: Path, name: str, scores: dict[str, Any], examples: Iterable[dict[str, Any]]) -> None:
    """Write the files of a finished task, the scores last; remove the log of answers."""
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
            raise ValueError("truncated")
        return [json.loads(line) for line in content.splitlines()]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; evaluate the task again") from None
    except (zstandard.ZstdError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error}); remove {name}{SCORES} and evaluate the task again") from None


def groups_of(examples: Sequence[dict[str, Any]]) -> list[str] | None:
    """The group of each example; None if the task has no groups."""
    groups = [example.get("group") for example in examples]
    return None if None in groups else [str(group) for group in groups]


class AnswerLog:
    """The answers of a running task, one appended line per batch, so that a kill loses at most one batch."""

    def __init__(self, folder: Path, name: str, fingerprint: str) -> None:
        self._path, self._fingerprint = folder / f".{name}{ANSWERS}", fingerprint
        self.answers: Answers = {}
        self.seconds = 0.0  # that the answers took
        self.n_truncated = 0
        rows = files.read_jsonl(self._path)
        is_ours = bool(rows) and rows[0] == {"fingerprint": fingerprint}
        for row in rows[1:] if is_ours else []:
            self._apply(row)
        folder.mkdir(parents=True, exist_ok=True)
        kept = [{"fingerprint": fingerprint}, *(rows[1:] if is_ours else [])]
        with files.atomic_file(self._path) as file:  # rewritten without an incomplete last line
            file.write("".join(_line(row) for row in kept).encode())
        self._file = self._path.open("a", encoding="utf-8")

    def add(self, kind: str, answers: list[tuple[int, Any]], seconds: float, n_truncated: int) -> None:
        """Add answers and write them to the file."""
        row = {"kind": kind, "answers": answers, "seconds": seconds, "n_truncated": n_truncated}
        self._apply(row)
        self._file.write(_line(row))
        self._file.flush()

    def close(self) -> None:
        """Close the file; it stays until the task's result is written."""
        self._file.close()

    def _apply(self, row: dict[str, Any]) -> None:
        self.answers.setdefault(row["kind"], {}).update((int(number), answer) for number, answer in row["answers"])
        self.seconds, self.n_truncated = row["seconds"], row["n_truncated"]


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
