"""Evaluates a model on tasks one after another; writes each result when the task ends; resumes an interrupted task."""

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from tinyllama import files, log
from tinyllama.checkpoint.save_load import weights_sha256
from tinyllama.errors import InputError
from tinyllama.exchange.open_model import OpenedModel
from tinyllama.harness.lm_model import HarnessModel
from tinyllama.harness.load_task import LoadedTask, load_task
from tinyllama.harness.task_data import read_rows
from tinyllama.harness.task_list import TaskEntry, averages, choose_tasks
from tinyllama.harness.task_results import AnswerLog, finished, groups_of, result_name, write_result
from tinyllama.harness.task_scores import estimate


@dataclass(frozen=True)
class TaskSettings:
    """How tasks are evaluated. `limit`: examples per task, evenly spaced; None: all. `max_tokens`: None: the network's.

    `compiled`: whether layers are compiled; None: on a GPU, if there is enough to compute.
    """

    data_dir: Path | None
    limit: int | None = None
    num_fewshot: int = 0
    tokens_per_batch: int | None = None
    max_tokens: int | None = None
    compiled: bool | None = None


def evaluate_tasks(opened: OpenedModel, names: Sequence[str], settings: TaskSettings, out: Path) -> dict[str, Any]:
    """Evaluate an opened model on tasks and groups; write each task's results to the folder `out` when it ends.

    Returns `tasks` (by task: its metrics by name, `<metric>_stderr`, `n`, `n_official` ...), `averages` if all seven of
    `zero_shot` are there, `left_out` (tasks of a group that have no data here, with the reason) and `results` (the folder).
    Raises InputError for an unknown task or for missing or wrong data, before the evaluation starts.
    """
    entries, left_out = with_data(choose_tasks(names), names, settings)
    for name, reason in left_out.items():
        log.warn(f"{name}: skipped; {reason}")
    about = about_model(opened)
    model = HarnessModel(
        opened,
        tokens_per_batch=settings.tokens_per_batch,
        max_tokens=settings.max_tokens,
        compiled=settings.compiled,
    )
    about["max_tokens"] = model.max_tokens
    found: dict[str, Any] = {}
    for number, entry in enumerate(entries, 1):
        found[entry.name] = measure(model, entry, settings, out, about, f"{number}/{len(entries)} {entry.name}")
    shown = {name: scores["metrics"] | _details(scores) for name, scores in found.items()}
    return {"tasks": shown, "averages": averages(found), "left_out": left_out, "results": str(out)}


def about_model(opened: OpenedModel) -> dict[str, Any]:
    """What a result records about the model, to recognise it later."""
    state = opened.state
    return {
        "origin": str(opened.origin),
        "weights_sha256": weights_sha256(opened.model),
        "tokenizer": opened.tokenizer.fingerprint,
        "add_bos": opened.add_bos,
        "parameters": opened.config.n_parameters,
        "step": state.step if state else None,
        "tokens": state.tokens if state else None,
        "dtype": str(opened.model.embedding.weight.dtype).removeprefix("torch."),
    }


def measure(
    model: LM, entry: TaskEntry, settings: TaskSettings, out: Path, about: dict[str, Any], title: str = ""
) -> dict[str, Any]:
    """One task's scores, from `out` if the same model was evaluated with the same settings before.

    `title`: of the progress line; empty: no output.
    """
    loaded = load_task(entry, settings.data_dir, limit=settings.limit, num_fewshot=settings.num_fewshot)
    name = result_name(entry.name, settings.num_fewshot, settings.limit)
    fingerprint = _fingerprint(loaded, about)
    before = finished(out, name, fingerprint)
    if before is not None:
        _say(title, f"already evaluated, {out / name}.json")
        return before
    answers = AnswerLog(out, name, fingerprint)
    try:
        ask(model, loaded, answers, title)
    finally:
        answers.close()
    examples = score_answers(loaded, answers)
    metrics, kinds = score_examples(entry, examples)
    scores = {
        "task": entry.name,
        "metrics": metrics,
        "n": loaded.n,
        "n_official": entry.n_official,
        "n_truncated": answers.n_truncated,
        "num_fewshot": settings.num_fewshot,
        "note": entry.note,
        "seconds": round(answers.seconds, 3),
        "kinds": kinds,
        "model": about,
        "versions": {"lm_eval": version("lm_eval"), "torch": torch.__version__},
        "fingerprint": fingerprint,
    }
    write_result(out, name, scores, examples)
    _say(title, line_of(scores))
    return scores


def score_examples(
    entry: TaskEntry, examples: Sequence[dict[str, Any]]
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Each metric and `<metric>_stderr`, and the kind of each. Metrics that no example has (`answerable_f1`) are omitted."""
    metrics: dict[str, float | None] = {}
    kinds: dict[str, str] = {}
    groups = groups_of(examples)
    for metric, kind in entry.metrics.items():
        try:
            score = estimate(kind, [example["values"][metric] for example in examples], groups)
        except ValueError:
            continue
        kinds[metric] = kind
        metrics |= {metric: score.value, f"{metric}_stderr": score.stderr}
    return metrics, kinds


def ask(model: LM, loaded: LoadedTask, log_file: AnswerLog, title: str) -> None:
    """Send the requests without an answer to the model; append answers to the log batch by batch."""
    by_kind: dict[str, list[Instance]] = defaultdict(list)
    for request in loaded.requests:
        by_kind[request.request_type].append(request)
    with log.progress(title, len(loaded.requests)) if title else nullcontext() as line:
        for kind, requests in by_kind.items():
            known = log_file.answers.setdefault(kind, {})
            todo = [number for number in range(len(requests)) if number not in known]
            # Both are sums over all tries: what was before, less what the clock and the model show now.
            seconds = log_file.seconds - time.perf_counter()
            n_truncated = log_file.n_truncated - getattr(model, "n_truncated", 0)

            def add(
                found: list[tuple[int, Any]],
                kind: str = kind,
                todo: list[int] = todo,
                seconds: float = seconds,
                n_truncated: int = n_truncated,
            ) -> None:
                answers = [(todo[n], answer) for n, answer in found]
                truncated = n_truncated + getattr(model, "n_truncated", 0)
                log_file.add(kind, answers, seconds + time.perf_counter(), truncated)
                if line is not None:
                    line.update(sum(len(answers) for answers in log_file.answers.values()))

            if isinstance(model, HarnessModel):
                model.on_answers = add
            answers = getattr(model, kind)([requests[number] for number in todo], disable_tqdm=True) if todo else []
            if not isinstance(model, HarnessModel):
                add(list(enumerate(answers)))


def _say(title: str, words: str) -> None:
    if title:
        log.info(f"{title}: {words}")


def score_answers(loaded: LoadedTask, log_file: AnswerLog) -> list[dict[str, Any]]:
    """Each example with its answers, its prediction and its values by metric."""
    numbers: dict[str, int] = defaultdict(int)
    by_example: dict[int, list[Any]] = defaultdict(list)
    for request in loaded.requests:
        kind = request.request_type
        answer = log_file.answers[kind][numbers[kind]]
        numbers[kind] += 1
        assert request.doc_id is not None
        by_example[request.doc_id].append(tuple(answer) if isinstance(answer, list) else answer)
    found = []
    for doc_id in loaded.doc_ids:
        doc, answers = loaded.task.task_docs[doc_id], by_example[doc_id]
        answered = prediction(answers)
        values = loaded.task.process_results(doc, answers)
        of_groups = {"all_right": values.get("acc"), "all_same": answered}  # the values of group metrics
        metrics = loaded.entry.metrics.items()
        row = {
            "doc_id": doc_id,
            "doc_sha256": sha256(json.dumps(doc, sort_keys=True, default=str).encode()).hexdigest()[:16],
            "prediction": answered,
            "answers": answers,
            "values": {m: _plain(of_groups[kind] if kind in of_groups else values[m]) for m, kind in metrics},
        }
        found.append(row if loaded.groups is None else row | {"group": loaded.groups[doc_id]})
    return found


def prediction(answers: Sequence[Any]) -> Any:
    """The model's answer: the number of the most probable choice, whether a single text was greedy, or a text."""
    if isinstance(answers[0], str):
        return answers[0]
    if not isinstance(answers[0], tuple):
        return None  # the log-probability of a whole text is not a prediction
    if len(answers) == 1:
        return bool(answers[0][1])
    logprobs = [logprob for logprob, _ in answers]
    return logprobs.index(max(logprobs))


def line_of(scores: dict[str, Any]) -> str:
    """A task's scores as one line: `acc 0.612 ± 0.014 on 100 of 1,838 examples`."""
    shown = []
    for metric in scores["kinds"]:
        value, stderr = scores["metrics"][metric], scores["metrics"][f"{metric}_stderr"]
        shown.append(f"{metric} {value:.4g}" + (f" ± {stderr:.2g}" if stderr is not None else ""))
    words = f"{', '.join(shown)} on {scores['n']:,}" + (
        "" if scores["n"] == scores["n_official"] else f" of {scores['n_official']:,}"
    )
    words += f" examples, {scores['seconds']:.0f} s"
    if scores["n_truncated"]:
        words += f"; {scores['n_truncated']} texts were longer than the context and lost tokens on the left"
    return words + (f" ({scores['note']})" if scores["note"] else "")


def _details(scores: dict[str, Any]) -> dict[str, Any]:
    names = ("n", "n_official", "n_truncated", "num_fewshot", "seconds", "note")
    return {name: scores[name] for name in names if scores[name] is not None}


def with_data(
    entries: list[TaskEntry], names: Sequence[str], settings: TaskSettings
) -> tuple[list[TaskEntry], dict[str, str]]:
    """The tasks with data, and why others of a group were skipped. Raises InputError for a named task without data."""
    if settings.data_dir is None:
        return entries, {}
    kept, left_out = [], {}
    for entry in entries:
        needed = [(entry.test, entry.test_rows), *([(entry.train, entry.train_rows)] if settings.num_fewshot else [])]
        try:
            for paths, rows in needed:
                read_rows(settings.data_dir, paths, entry.fields, rows, entry.allowed)
        except InputError as error:
            if entry.name in names or "no such file" not in str(error) or str(error).startswith("--data-dir"):
                raise
            left_out[entry.name] = str(error)
            continue
        kept.append(entry)
    if not kept:
        raise InputError(f"--data-dir {settings.data_dir}: none of the tasks {', '.join(left_out)} has data there")
    return kept, left_out


def _fingerprint(loaded: LoadedTask, about: dict[str, Any]) -> str:
    """Hash of all that changes the answers: texts of the requests; the model, its number format and its context."""
    texts = sha256()
    for request in loaded.requests:
        texts.update(json.dumps([request.request_type, request.args], ensure_ascii=False, sort_keys=True).encode())
    model = {key: about.get(key) for key in ("weights_sha256", "tokenizer", "add_bos", "dtype", "max_tokens")}
    return files.sha256_json({"requests": texts.hexdigest(), "metrics": loaded.entry.metrics} | model)


def _plain(value: Any) -> Any:
    """A value as plain JSON types."""
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    return value.item() if hasattr(value, "item") else value
