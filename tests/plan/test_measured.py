"""The plan beside what one H100 took: records/plan_measured.json, by benchmarks/plan_against_measured.py."""

from pathlib import Path
from typing import Any

import pytest

from tinyllama import files
from tinyllama.gpu_kinds import find_gpu
from tinyllama.model.llama_config import preset
from tinyllama.plan.memory import allocated_bytes, memory_parts
from tinyllama.plan.step_time import step_time
from tinyllama.train.train_config import TrainConfig

MEASURED = files.read_json(Path(__file__).parents[2] / "records" / "plan_measured.json")
KEYS = ("micro_batch_size", "precision", "recompute", "optimizer_state", "seq_len")


@pytest.mark.parametrize(
    "row", MEASURED["rows"], ids=lambda row: f"{row['preset']}-{row['precision']}-{row['recompute']}"
)
def test_peak_within_5_percent_and_step_within_10(row: dict[str, Any]):
    tokens = row["micro_batches"] * row["micro_batch_size"] * row["seq_len"]
    train = TrainConfig(tokens_per_step=tokens, **{key: row[key] for key in KEYS})
    model, gpu = preset(row["preset"]), find_gpu(MEASURED["device"])
    assert gpu is not None
    parts = memory_parts(model, train)
    assert allocated_bytes(parts) == pytest.approx(row["peak_bytes"], rel=0.05)
    assert sum(parts.values()) == pytest.approx(row["device_bytes"], rel=0.05)
    assert step_time(model, gpu, train).total == pytest.approx(row["step_seconds"], rel=0.10)
