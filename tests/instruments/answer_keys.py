"""Two models that show whether a task's answers are read rightly: one that knows them, and one that draws them.

The first must score 100%, the second what drawing gives: a wrong label, a turned-round choice or a lost field shows at once.
"""

import math
import random
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from tinyllama.harness.load_task import LoadedTask, right_choice
from tinyllama.harness.task_functions import NO_ANSWER

IMPOSSIBLE = -1e6  # a log-probability


class _Keyed(LM):
    """A model that answers from the example itself."""

    def __init__(self, loaded: LoadedTask) -> None:
        super().__init__()
        self._loaded = loaded

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return [self._choice(request) for request in requests]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        return [self._whole(str(request.args[0])) for request in requests]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        return [self._text(request) for request in requests]

    @abstractmethod
    def _choice(self, request: Instance) -> tuple[float, bool]: ...

    @abstractmethod
    def _whole(self, text: str) -> float: ...

    @abstractmethod
    def _text(self, request: Instance) -> str: ...


class Oracle(_Keyed):
    """Knows every answer."""

    def _choice(self, request: Instance) -> tuple[float, bool]:
        doc, task = request.doc, self._loaded.task
        if self._loaded.entry.name == "stsb":  # the two whole ratings around the rating, weighted so that it comes out
            weight = max(0.0, 1 - abs(float(doc["label"]) - request.idx))
            return (math.log(weight) if weight else IMPOSSIBLE), False
        if self._loaded.entry.scores_no_answer:
            return (IMPOSSIBLE if doc["answers"]["text"] else 0.0), False
        if task.OUTPUT_TYPE != "multiple_choice":
            return 0.0, True
        right = right_choice(task, doc)
        return (0.0, True) if request.idx == right else (IMPOSSIBLE, False)

    def _whole(self, text: str) -> float:
        return 0.0

    def _text(self, request: Instance) -> str:
        return str(self._loaded.task.doc_to_target(request.doc))


class Chance(_Keyed):
    """Draws every answer: each choice is as likely as the others (per character too), words come from the example."""

    def __init__(self, loaded: LoadedTask, seed: int = 0) -> None:
        super().__init__(loaded)
        self._draw = random.Random(seed)

    def _choice(self, request: Instance) -> tuple[float, bool]:
        task, length = self._loaded.task, 1
        if task.OUTPUT_TYPE == "multiple_choice" and not task.multiple_input:
            length = max(1, len(task.doc_to_choice(request.doc)[request.idx]))
        if "acc_norm" not in self._loaded.entry.metrics:
            length = 1
        return -self._draw.random() * length, False

    def _whole(self, text: str) -> float:
        return -math.log(256) * len(text.encode())  # every byte as likely as the others

    def _text(self, request: Instance) -> str:
        words = str(request.args[0]).split()
        return " ".join(self._draw.choices(words, k=3)) if self._draw.random() < 0.5 else NO_ANSWER


def chance_score(loaded: LoadedTask, metric: str) -> float | None:
    """What drawing scores on average; None where that is not plain (F1, ROUGE, perplexities)."""
    kind, task = loaded.entry.metrics[metric], loaded.task
    if kind in ("mcc", "pearson", "spearman"):
        return 0.0
    if kind != "mean" or task.OUTPUT_TYPE == "generate_until" or metric == "f1":
        return None
    if metric == "acc" and "acc_norm" in loaded.entry.metrics:
        return None  # drawn so that no choice is likelier per character
    if task.OUTPUT_TYPE == "loglikelihood":
        return 0.0
    docs = [task.task_docs[doc_id] for doc_id in loaded.doc_ids]
    share: Callable[[Any], float] = lambda doc: 1 / len(task.doc_to_choice(doc))  # noqa: E731
    if loaded.entry.name == "record":
        share = lambda doc: len(set(doc["answers"]) & set(doc["entities"])) / len(set(doc["entities"]))  # noqa: E731
    return sum(map(share, docs)) / len(docs)
