"""A short list of tasks measured while a network is trained: `train.evaluate_tasks`."""

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from tinyllama.errors import InputError
from tinyllama.exchange.open_model import OpenedModel
from tinyllama.harness.task_list import choose_tasks
from tinyllama.model.llama import Llama
from tinyllama.parallel.ranks import ALONE, Ranks
from tinyllama.tokenizer.bpe import Tokenizer


class TrainingTasks:
    """Tasks and groups on `limit` examples each, evenly spread. `data_dir` empty: from the hub. `max_tokens`: the context.

    Raises MissingExtraError without lm-eval, InputError for unknown tasks, for data that are missing or unfit and for
    answers that the context has no room for: before the first step, not after an hour.
    """

    def __init__(self, names: Sequence[str], data_dir: str, limit: int, max_tokens: int | None = None) -> None:
        choose_tasks(names)
        from tinyllama.harness.load_task import load_task
        from tinyllama.harness.run_tasks import TaskSettings, with_data

        settings = TaskSettings(Path(data_dir) if data_dir else None, limit)
        entries, _ = with_data(choose_tasks(names), names, settings)
        self._loaded = [load_task(entry, settings.data_dir, limit=limit) for entry in entries]
        for loaded in self._loaded:
            n_new = (loaded.task.config.generation_kwargs or {}).get("max_gen_toks", 0)
            if max_tokens is not None and n_new >= max_tokens:
                raise InputError(
                    f"train.evaluate_tasks: {loaded.entry.name} makes {n_new} new tokens, which leave no room for a "
                    f"prompt in a context of {max_tokens}; leave it out or make train.seq_len larger"
                )

    def measure(self, model: Llama, tokenizer: Tokenizer, ranks: Ranks = ALONE) -> dict[str, Any]:
        """Each task's metrics, `<metric>_stderr` and `n`; on a GPU the products are in bf16.

        Ranks, each with the whole network, share the examples; every one returns the scores of all.
        """
        from tinyllama.harness.lm_model import HarnessModel
        from tinyllama.harness.run_tasks import ask, judge, score_examples
        from tinyllama.harness.task_results import AnswerLog

        device = model.embedding.weight.device
        harness = HarnessModel(OpenedModel(model, model.config, tokenizer, Path("in training"), None))
        harness.on_progress = ranks.progress.stay  # of the watch, which would take a long list for a rank that hangs
        half = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()
        found: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as folder, half:
            for loaded in self._loaded:
                part = loaded.part(ranks.rank, ranks.size)
                answers = AnswerLog(Path(folder), loaded.entry.name, "")
                ask(harness, part, answers, "")
                answers.close()
                rows = [{name: row.get(name) for name in ("doc_id", "values", "group")} for row in judge(part, answers)]
                rows = sorted((row for told in ranks.gather(rows) for row in told), key=lambda row: row["doc_id"])
                found[loaded.entry.name] = score_examples(loaded.entry, rows)[0] | {"n": loaded.n}
        return found
