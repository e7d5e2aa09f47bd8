"""A run with everything that can happen to one, stopped after every single step, ends as the one that was left alone.

fp16 whose range is left again and again, loss spikes with quarantine and roll-back until the limit, dropout, accumulation:
whatever the next step depends on must be in the checkpoint, or follow from the recipe.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.train.run_processes import events, untimed
from tinyllama import api, files
from tinyllama.errors import RunStoppedError
from tinyllama.train import metrics, precision

VALUES: dict[str, Any] = {
    "tokenizer.vocab_size": 512, "model.preset": "tiny-2m", "model.dim": 16, "model.n_layers": 2, "model.ffn_dim": 24,
    "model.n_heads": 4, "model.n_kv_heads": 2, "model.tied_head": False, "model.dropout": 0.1, "train.seq_len": 16,
    "train.micro_batch_size": 2, "train.tokens_per_step": 128, "train.device": "cpu", "train.precision": "fp16",
    "train.save_every_steps": 1, "train.keep_checkpoints": 9, "train.keep_best": False, "parallel.threads": 1,
    "train.steps": 22, "train.warmup_steps": 20, "train.peak_lr": 0.8, "train.min_lr": 0.1, "train.max_grad_norm": 0.5,
    "train.spike_threshold": 0.5, "train.spike_window": 8, "train.spike_steps_in_a_row": 1, "train.validation_tokens": 60,
    "train.max_spike_roll_backs": 2, "train.validate_every_steps": 4, "train.on_spike_limit": "go_on",
}  # fmt: skip


def left_behind(run_dir: Path) -> dict[str, Any]:
    """What two runs of the same must share."""
    newest = max((run_dir / "checkpoints").glob("step_*"))
    return {
        "files": {path.name: files.sha256_file(path) for path in newest.glob("*.safetensors")},
        "state": files.read_json(newest / "state.json"),
        "rows": untimed(files.read_jsonl(run_dir / "metrics.jsonl")),
    }


@pytest.fixture(autouse=True)
def scale_that_leaves_its_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins far too large, and grows again after every third good update."""
    monkeypatch.setattr(precision, "FIRST_SCALE", 2.0**18)
    monkeypatch.setattr(precision, "LARGEST_SCALE", 2.0**40)
    monkeypatch.setattr(precision, "GROWTH_INTERVAL", 3)
    monkeypatch.setattr(metrics, "peak_flops", lambda *_: 1e12)


def test_stopped_after_every_step_it_ends_as_the_undisturbed_run(small_run: Callable[[str], Path]):
    words = [f"{key}={json.dumps(value)}" for key, value in VALUES.items()]
    undisturbed, stopped = small_run("undisturbed"), small_run("stopped")
    wanted = api.pretrain("small-120m", undisturbed, words).to_dict()
    found: dict[str, Any] = {}
    for _ in range(60):
        try:
            found = api.pretrain("small-120m", stopped, [*words, "train.time_limit_minutes=1e-9"]).to_dict()
            break
        except RunStoppedError:
            continue
    assert left_behind(stopped) == left_behind(undisturbed)
    for key in ("step", "loss", "validation", "weights_sha256", "skipped_steps"):
        assert found[key] == wanted[key], key
    skips = [row["step"] for row in events(undisturbed, "skip")]
    assert len(skips) > wanted["skipped_steps"] >= 4, "the range must be left, before a spike and after it too"
    assert min(skips) < 4
    answers = [row["answer"] for row in events(undisturbed, "spike")]
    assert answers[:2] == ["rolling back to a checkpoint before it"] * 2
    assert "after rolling back 2 times" in answers[2]
    assert max(skips) > events(undisturbed, "spike")[2]["step"]
    assert len(left_behind(undisturbed)["state"]["quarantine"]) == 2
    assert len(events(stopped, "resume")) > 20
    assert {row["exit_code"] for row in events(stopped, "stop")} == {75}
