"""A task of `tasks/` as an lm-eval task, with its examples from the data folder or the hub."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

from datasets import Dataset, DatasetDict
from lm_eval import tasks as lm_eval_tasks
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import env

from tinyllama.errors import InputError
from tinyllama.harness.task_data import read_rows
from tinyllama.harness.task_functions import NO_ANSWER
from tinyllama.harness.task_list import TaskEntry

FEW_SHOT_SEED = 1234  # of the choice of few-shot examples; lm-eval's default
logging.getLogger("lm_eval").setLevel(logging.ERROR)  # its warnings are about its own defaults
# Else its templates are compiled for every example: most of the host's time.
env.from_string = cache(env.from_string)  # pyright: ignore[reportAttributeAccessIssue]


class ExamplesTask(ConfigurableTask):
    """An lm-eval task whose examples are given: nothing is fetched. `rows`: by split, `test` and maybe `train`."""

    def __init__(self, config: dict[str, Any], rows: dict[str, list[dict[str, Any]]] | None) -> None:
        self._rows = rows
        super().__init__(config=config)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Take the given rows; without any, ask the hub as lm-eval does."""
        if self._rows is None:
            super().download(dataset_kwargs, **kwargs)
        else:
            self.dataset = DatasetDict({split: Dataset.from_list(rows) for split, rows in self._rows.items()})


class AbstainingTask(ExamplesTask):
    """A task of answers that also asks how likely "unanswerable" is (SQuAD 2.0)."""

    def construct_requests(self, doc: dict[str, Any], ctx: Any, **kwargs: Any) -> list[Instance]:
        """The answer, then the log-probability."""
        asked = {key: kwargs[key] for key in ("metadata",) if key in kwargs}
        answer = super().construct_requests(doc, ctx, **kwargs)
        assert isinstance(answer, Instance)
        return [answer, Instance("loglikelihood", doc, (ctx, f" {NO_ANSWER}"), 1, **asked)]


@dataclass(frozen=True)
class LoadedTask:
    """A task with the requests of its chosen examples. `requests` of one example have the same `doc_id`."""

    entry: TaskEntry
    task: ConfigurableTask
    doc_ids: list[int]  # numbers of the chosen examples in their file
    requests: list[Instance]
    groups: list[str] | None = None  # of every example of the file, which others it belongs to

    @property
    def n(self) -> int:
        """Examples that are measured."""
        return len(self.doc_ids)

    def part(self, number: int, n_parts: int) -> "LoadedTask":
        """Every `n_parts`-th example, from example `number` on."""
        doc_ids = self.doc_ids[number::n_parts]
        chosen = set(doc_ids)
        return replace(self, doc_ids=doc_ids, requests=[r for r in self.requests if r.doc_id in chosen])


def load_task(entry: TaskEntry, data_dir: Path | None, *, limit: int | None = None, num_fewshot: int = 0) -> LoadedTask:
    """Make the requests of a task's examples: all, or `limit` of them, evenly spread over the file.

    Of examples in groups, whole groups of at most `limit` examples together, but one group at least.
    Few-shot examples are drawn from the training part; where there is none, from the measured examples but the one asked.
    Raises InputError that names the file when data are missing or unfit.
    """
    config = _config(entry, data_dir is not None, num_fewshot)
    rows = None
    if data_dir is not None:
        rows = {"test": read_rows(data_dir, entry.test, entry.fields, entry.test_rows, entry.allowed)}
        if num_fewshot and entry.train:
            rows["train"] = read_rows(data_dir, entry.train, entry.fields, entry.train_rows, entry.allowed)
    made = AbstainingTask if entry.scores_no_answer else ExamplesTask
    try:
        task = made(config, rows)
    except InputError:
        raise
    except Exception as error:  # lm-eval tries the first example; what it raises is about the data
        raise _unfit(entry, data_dir, 0, error) from None
    task.set_fewshot_seed(FEW_SHOT_SEED)
    groups = _groups(entry, task, data_dir)
    doc_ids = spread(len(task.task_docs), limit) if groups is None else spread_groups(groups, limit)
    requests: list[Instance] = []
    for doc_id in doc_ids:
        requests += _requests_of(entry, task, data_dir, doc_id, num_fewshot)
    task._instances = requests
    return LoadedTask(entry, task, doc_ids, requests, groups)


def spread(n: int, limit: int | None) -> list[int]:
    """`limit` numbers of range(n), evenly spread: neighbours in a file are often about the same text."""
    if limit is None or limit >= n:
        return list(range(n))
    return [i * n // limit for i in range(limit)]


def spread_groups(groups: Sequence[str], limit: int | None) -> list[int]:
    """Numbers of the examples of whole groups, evenly spread: at most `limit` of them, but one group at least."""
    members: dict[str, list[int]] = {}
    for number, group in enumerate(groups):
        members.setdefault(group, []).append(number)
    sizes = [len(group) for group in members.values()]
    n_groups = next(
        n
        for n in range(len(sizes), 0, -1)
        if n == 1 or limit is None or sum(sizes[g] for g in spread(len(sizes), n)) <= limit
    )
    chosen = list(members.values())
    return sorted(number for group in spread(len(sizes), n_groups) for number in chosen[group])


def _groups(entry: TaskEntry, task: ConfigurableTask, data_dir: Path | None) -> list[str] | None:
    """Of every example the hash of what it shares with those of its group; None where the task has no groups."""
    if entry.group is None:
        return None
    template, docs, found = env.from_string(entry.group), task.task_docs, []
    for number in range(len(docs)):
        doc: Any = docs[number]
        try:
            found.append(sha256(template.render(**doc).encode()).hexdigest()[:16])
        except Exception as error:
            raise _unfit(entry, data_dir, number, error) from None
    return found


def _requests_of(
    entry: TaskEntry, task: ConfigurableTask, data_dir: Path | None, doc_id: int, num_fewshot: int
) -> list[Instance]:
    try:
        doc = task.task_docs[doc_id]  # `eval_docs` would prepare all of them anew
        context = task.fewshot_context(doc, num_fewshot)
        made = task.construct_requests(doc, context, metadata=(entry.name, doc_id, 1))
        found = made if isinstance(made, list) else [made]
        if task.OUTPUT_TYPE == "multiple_choice":
            right_choice(task, doc)
        else:
            task.doc_to_target(doc)
    except Exception as error:
        raise _unfit(entry, data_dir, doc_id, error) from None
    return found


def right_choice(task: ConfigurableTask, doc: dict[str, Any]) -> int:
    """The number of an example's right choice. Raises ValueError when its answer is none of the choices."""
    choices = task.doc_to_choice(doc)
    gold: Any = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    if gold in choices:
        return choices.index(gold)
    if isinstance(gold, int) and 0 <= gold < len(choices):
        return int(gold)
    raise ValueError(f"answer {gold!r} is none of {len(choices)} choices")


def _unfit(entry: TaskEntry, data_dir: Path | None, doc_id: int, error: Exception) -> InputError:
    where = entry.name if data_dir is None else f"{data_dir / entry.test[0]}"
    reason = str(error).splitlines()[0][:200] if str(error) else ""
    return InputError(
        f"{where}: example {doc_id + 1} does not fit the task {entry.name} ({type(error).__name__}: {reason})"
    )


def _config(entry: TaskEntry, is_local: bool, num_fewshot: int) -> dict[str, Any]:
    """lm-eval's settings of a task. Local examples are in the splits `test` and `train` whatever the hub calls them."""
    base = load_yaml(Path(lm_eval_tasks.__file__).parent / entry.base) if entry.base else {}
    config = {**base, **entry.config, "num_fewshot": num_fewshot}
    config.pop("tag", None)
    metrics: Sequence[dict[str, Any]] = [
        {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in entry.metrics
    ]
    config.setdefault("metric_list", metrics)
    if is_local:
        drawn_from = "train" if entry.train and num_fewshot else "test"
        config |= {
            "dataset_path": "json",
            "dataset_name": None,
            "training_split": "train" if drawn_from == "train" else None,
            "validation_split": None,
            "test_split": "test",
            "fewshot_split": drawn_from,
        }
    return config
