"""Builds an lm-eval task from an entry of `tasks/`, with examples from the data folder or the Hugging Face hub."""

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
logging.getLogger("lm_eval").setLevel(logging.ERROR)  # its warnings concern its own defaults
# Without a cache it compiles its templates for every example, which takes most of the host's time.
env.from_string = cache(env.from_string)  # pyright: ignore[reportAttributeAccessIssue]


class ExamplesTask(ConfigurableTask):
    """An lm-eval task with given examples, nothing is downloaded. `rows`: by split, `test` and possibly `train`."""

    def __init__(self, config: dict[str, Any], rows: dict[str, list[dict[str, Any]]] | None) -> None:
        self._rows = rows
        super().__init__(config=config)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Use the given rows; if there are none, download as lm-eval does."""
        if self._rows is None:
            super().download(dataset_kwargs, **kwargs)
        else:
            self.dataset = DatasetDict({split: Dataset.from_list(rows) for split, rows in self._rows.items()})


class AbstainingTask(ExamplesTask):
    """A generation task that also asks for the log-probability of "unanswerable" (SQuAD 2.0)."""

    def construct_requests(self, doc: dict[str, Any], ctx: Any, **kwargs: Any) -> list[Instance]:
        """The request for the answer, then the one for the log-probability."""
        asked = {key: kwargs[key] for key in ("metadata",) if key in kwargs}
        answer = super().construct_requests(doc, ctx, **kwargs)
        assert isinstance(answer, Instance)
        return [answer, Instance("loglikelihood", doc, (ctx, f" {NO_ANSWER}"), 1, **asked)]


@dataclass(frozen=True)
class LoadedTask:
    """A task with the requests of its chosen examples. `requests` of one example have the same `doc_id`."""

    entry: TaskEntry
    task: ConfigurableTask
    doc_ids: list[int]  # of the chosen examples, numbered as in their file
    requests: list[Instance]
    groups: list[str] | None = None  # the group of every example of the file

    @property
    def n(self) -> int:
        """Number of chosen examples."""
        return len(self.doc_ids)

    def share(self, rank: int, n_ranks: int) -> "LoadedTask":
        """The examples of one rank: every `n_ranks`-th, starting with number `rank`."""
        doc_ids = self.doc_ids[rank::n_ranks]
        chosen = set(doc_ids)
        return replace(self, doc_ids=doc_ids, requests=[r for r in self.requests if r.doc_id in chosen])


def load_task(entry: TaskEntry, data_dir: Path | None, *, limit: int | None = None, num_fewshot: int = 0) -> LoadedTask:
    """Build the requests of a task's examples: all, or `limit` of them, evenly spaced over the file.

    If examples come in groups, whole groups are chosen, at least one and else at most `limit` examples together. Few-shot
    examples come from the training split, or from the other evaluated examples if there is none. Raises InputError that
    names the file when data are missing or do not fit the task.
    """
    config = _config(entry, data_dir is not None, num_fewshot)
    rows = None
    if data_dir is not None:
        rows = {"test": read_rows(data_dir, entry.test, entry.fields, entry.test_rows, entry.allowed)}
        if num_fewshot and entry.train:
            rows["train"] = read_rows(data_dir, entry.train, entry.fields, entry.train_rows, entry.allowed)
    task_class = AbstainingTask if entry.scores_no_answer else ExamplesTask
    try:
        task = task_class(config, rows)
    except InputError:
        raise
    except Exception as error:  # lm-eval tries the first example, so the error concerns the data
        raise _misfit(entry, data_dir, 0, error) from None
    task.set_fewshot_seed(FEW_SHOT_SEED)
    groups = _groups(entry, task, data_dir)
    doc_ids = spread(len(task.task_docs), limit) if groups is None else spread_groups(groups, limit)
    requests: list[Instance] = []
    for doc_id in doc_ids:
        requests += _requests_of(entry, task, data_dir, doc_id, num_fewshot)
    task._instances = requests
    return LoadedTask(entry, task, doc_ids, requests, groups)


def spread(n: int, limit: int | None) -> list[int]:
    """`limit` numbers of range(n), evenly spaced, because neighbouring examples are often about the same text."""
    if limit is None or limit >= n:
        return list(range(n))
    return [i * n // limit for i in range(limit)]


def spread_groups(groups: Sequence[str], limit: int | None) -> list[int]:
    """Numbers of the examples of whole groups, evenly spaced: at most `limit` examples, but at least one group."""
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
    """The group of every example, as a hash of its `group` template; None if the task has no groups."""
    if entry.group is None:
        return None
    template, docs, found = env.from_string(entry.group), task.task_docs, []
    for number in range(len(docs)):
        doc: Any = docs[number]
        try:
            found.append(sha256(template.render(**doc).encode()).hexdigest()[:16])
        except Exception as error:
            raise _misfit(entry, data_dir, number, error) from None
    return found


def _requests_of(
    entry: TaskEntry, task: ConfigurableTask, data_dir: Path | None, doc_id: int, num_fewshot: int
) -> list[Instance]:
    try:
        doc = task.task_docs[doc_id]  # `eval_docs` would prepare all examples each time
        context = task.fewshot_context(doc, num_fewshot)
        requests = task.construct_requests(doc, context, metadata=(entry.name, doc_id, 1))
        if task.OUTPUT_TYPE == "multiple_choice":
            right_choice(task, doc)
        else:
            task.doc_to_target(doc)
    except Exception as error:
        raise _misfit(entry, data_dir, doc_id, error) from None
    return requests if isinstance(requests, list) else [requests]


def right_choice(task: ConfigurableTask, doc: dict[str, Any]) -> int:
    """The number of an example's correct choice. Raises ValueError if its answer is none of the choices."""
    choices = task.doc_to_choice(doc)
    gold: Any = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    if gold in choices:
        return choices.index(gold)
    if isinstance(gold, int) and 0 <= gold < len(choices):
        return int(gold)
    raise ValueError(f"answer {gold!r} is none of {len(choices)} choices")


def _misfit(entry: TaskEntry, data_dir: Path | None, doc_id: int, error: Exception) -> InputError:
    where = entry.name if data_dir is None else f"{data_dir / entry.test[0]}"
    reason = str(error).splitlines()[0][:200] if str(error) else ""
    return InputError(
        f"{where}: example {doc_id + 1} does not fit the task {entry.name} ({type(error).__name__}: {reason})"
    )


def _config(entry: TaskEntry, is_local: bool, num_fewshot: int) -> dict[str, Any]:
    """lm-eval's settings of a task. Local examples are in the splits `test` and `train`, whatever the hub calls them."""
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
