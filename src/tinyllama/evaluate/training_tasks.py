"""A short list of tasks measured while a network is trained: `train.evaluate_tasks`."""

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from tinyllama.evaluate.task_list import choose_tasks
from tinyllama.exchange.open_model import OpenedModel
from tinyllama.model.llama import Llama
from tinyllama.tokenizer.bpe import Tokenizer


class TrainingTasks:
    """Tasks and groups on `limit` examples each, evenly spread. `data_dir` empty: from the hub.

    Raises MissingExtraError without lm-eval, InputError for unknown tasks and for data that are missing or unfit: before
    the first step, not after an hour.
    """

    def __init__(self, names: Sequence[str], data_dir: str, limit: int) -> None:
        choose_tasks(names)
        from tinyllama.evaluate.run_tasks import TaskSettings, with_data

        self._settings = TaskSettings(Path(data_dir) if data_dir else None, limit)
        self._entries, _ = with_data(choose_tasks(names), names, self._settings)

    def measure(self, model: Llama, tokenizer: Tokenizer) -> dict[str, Any]:
        """Each task's metrics, `<metric>_stderr` and `n`; on a GPU the products are in bf16."""
        from tinyllama.evaluate.harness import HarnessModel
        from tinyllama.evaluate.run_tasks import measure

        device = model.embedding.weight.device
        harness = HarnessModel(OpenedModel(model, model.config, tokenizer, Path("in training"), None))
        half = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()
        found: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as folder, half:
            for entry in self._entries:
                scores = measure(harness, entry, self._settings, Path(folder), {})
                found[entry.name] = scores["metrics"] | {"n": scores["n"]}
        return found
