"""The plan beside what GPUs took: records/plan_measured_*.json, by benchmarks/plan_against_measured.py."""

from pathlib import Path
from typing import Any

import pytest

from tinyllama import files
from tinyllama.devices import find_gpu
from tinyllama.model.llama_config import preset
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.planning.memory import WORKSPACE_BYTES, allocated_bytes, memory_parts
from tinyllama.planning.step_time import step_time
from tinyllama.train.train_config import TrainConfig

RECORDS = Path(__file__).parents[2] / "records"
MEASURED = {name: files.read_json(RECORDS / f"plan_measured_{name}.json") for name in ("h100", "h200", "2xh200")}
KEYS = ("micro_batch_size", "precision", "recompute", "optimizer_state", "seq_len")
ROWS = [
    pytest.param(
        name, row, id=f"{name}-{row['preset']}-{row['precision']}-{row['recompute']}-{row.get('parallel', '')}"
    )
    for name, measured in MEASURED.items()
    for row in measured["rows"]
]


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_peak_within_5_percent_and_step_within_10(name: str, row: dict[str, Any]):
    tokens = row["micro_batches"] * row["micro_batch_size"] * row["seq_len"]
    train = TrainConfig(tokens_per_step=tokens, **{key: row[key] for key in KEYS})
    parallel = ParallelConfig(**row.get("parallel", {}))
    model, gpu = preset(row["preset"]), find_gpu(MEASURED[name]["device"])
    assert gpu is not None
    parts = memory_parts(model, train, parallel)
    left_over = max(0, row["left_over_bytes"] - WORKSPACE_BYTES)  # by the setting before, in the same processes
    assert allocated_bytes(parts) == pytest.approx(row["peak_bytes"] - left_over, rel=0.05)
    if not left_over:  # else the driver counts that setting's groups of ranks too
        assert sum(parts.values()) == pytest.approx(row["device_bytes"], rel=0.05)
    time = step_time(model, gpu, train, parallel)
    if name == "h100" or time.gaps < 0.2 * time.total:  # what the host needs was measured beside the H100
        assert time.total == pytest.approx(row["step_seconds"], rel=0.10)
