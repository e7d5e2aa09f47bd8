"""Evaluates a short list of tasks during training: `train.evaluate_tasks`."""

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
    """Tasks and groups on `limit` examples each, evenly spaced. `data_dir` empty: from the hub. `max_tokens`: the context.

    Raises, before the first step, MissingExtraError without lm-eval and InputError for unknown tasks, missing or wrong
    data, and tasks whose answers do not fit into the context.
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
                    f"train.evaluate_tasks: {loaded.entry.name} generates {n_new} tokens, which leaves no room for a "
                    f"prompt in a context of {max_tokens}; remove it or raise train.seq_len"
                )

    def measure(self, model: Llama, tokenizer: Tokenizer, ranks: Ranks = ALONE) -> dict[str, Any]:
        """Each task's metrics, `<metric>_stderr` and `n`; on a GPU the matmuls are in bf16.

        Each rank has the whole network and evaluates a share of the examples; all ranks return the scores of all examples.
        """
        from tinyllama.harness.lm_model import HarnessModel
        from tinyllama.harness.run_tasks import ask, score_answers, score_examples
        from tinyllama.harness.task_results import AnswerLog

        device = model.embedding.weight.device
        harness = HarnessModel(OpenedModel(model, model.config, tokenizer, Path("in training"), None))
        harness.on_progress = ranks.progress.stay  # else a long list looks like a hanging rank
        autocast = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()
        found: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as folder, autocast:
            for loaded in self._loaded:
                share = loaded.share(ranks.rank, ranks.size)
                answers = AnswerLog(Path(folder), loaded.entry.name, "")
                ask(harness, share, answers, "")
                answers.close()
                rows = [
                    {name: row.get(name) for name in ("doc_id", "values", "group")}
                    for row in score_answers(share, answers)
                ]
                rows = sorted(
                    (row for rank_rows in ranks.gather(rows) for row in rank_rows), key=lambda row: row["doc_id"]
                )
                found[loaded.entry.name] = score_examples(loaded.entry, rows)[0] | {"n": loaded.n}
        return found
