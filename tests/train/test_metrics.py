"""Rows and events as they are written, the share of the peak, the summary's figures, and how steps are timed."""

import errno
import gc
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tinyllama import devices, files
from tinyllama.model.llama_config import preset
from tinyllama.train import metrics, step_clock
from tinyllama.train.metrics import (
    FinishedRun,
    MetricsFile,
    NoMetricsFile,
    model_flops_utilization,
    peak_flops,
    summarize,
    write_event,
)
from tinyllama.train.step_clock import StepClock, gc_paused
from tinyllama.train.train_config import TrainConfig

CPU = torch.device("cpu")


def rows_of(run_dir: Path) -> list[dict[str, Any]]:
    return files.read_jsonl(run_dir / "metrics.jsonl")


# -- metrics.jsonl -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("last_step", "kept"), [(0, []), (1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (9, [1, 2, 3])])
def test_rows_after_the_step_of_a_resume_are_cut_off(tmp_path: Path, last_step: int, kept: list[int]):
    first = MetricsFile(tmp_path / "metrics.jsonl", 0)
    for step in (1, 2, 3):
        first.write({"step": step})
    first.close()
    again = MetricsFile(tmp_path / "metrics.jsonl", last_step)
    assert rows_of(tmp_path) == [{"step": step} for step in kept]
    again.write({"step": 10})  # seen by others at once
    assert rows_of(tmp_path)[-1] == {"step": 10}
    again.close()


def test_what_is_no_finite_number_is_null(tmp_path: Path):
    file = MetricsFile(tmp_path / "metrics.jsonl", 0)
    file.write({"step": 1, "loss": math.nan, "grad_norm": -math.inf, "lr": 0.5, "skipped": "why"})
    file.close()
    assert rows_of(tmp_path) == [{"step": 1, "loss": None, "grad_norm": None, "lr": 0.5, "skipped": "why"}]


def test_sync_puts_the_rows_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced: list[int] = []
    file = MetricsFile(tmp_path / "metrics.jsonl", 0)
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    file.write({"step": 1})
    assert synced == []
    file.sync()
    assert synced == [(tmp_path / "metrics.jsonl").stat().st_ino]
    file.close()


class BrokenFile:
    def __init__(self, number: int) -> None:
        self.number, self.closed = number, False

    def write(self, data: bytes) -> int:
        raise OSError(self.number, os.strerror(self.number))

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(("number", "waits"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EIO, False)])
def test_only_for_room_do_rows_wait(tmp_path: Path, number: int, waits: bool, capfd: pytest.CaptureFixture[str]):
    file = MetricsFile(tmp_path / "metrics.jsonl", 0)
    file._file.close()
    broken: Any = BrokenFile(number)
    file._file = broken
    if waits:
        file.write({"step": 1})
    else:
        with pytest.raises(OSError, match="Input/output error"):
            file.write({"step": 1})
    file.close()
    assert broken.closed
    assert "the last rows are not written" in " ".join(capfd.readouterr().err.split())


def test_ranks_that_write_none_make_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    none = NoMetricsFile()
    none.write({"step": 1})
    none.sync()
    none.close()
    assert not list(tmp_path.iterdir())


# -- events.jsonl ------------------------------------------------------------------------------------------------------


def test_an_event_is_a_line_with_its_time_written_by_rank_0_or_anyway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metrics.time, "time", lambda: 12.34567)
    write_event(tmp_path, "start", step=0, reason="no checkpoint")
    monkeypatch.setenv("RANK", "1")
    write_event(tmp_path, "skip", step=1)
    write_event(tmp_path, "stop", anyway=True, step=2)
    assert files.read_jsonl(tmp_path / "events.jsonl") == [
        {"time": 12.346, "event": "start", "step": 0, "reason": "no checkpoint"},
        {"time": 12.346, "event": "stop", "step": 2},
    ]


@pytest.mark.parametrize(("number", "is_raised"), [(errno.ENOSPC, False), (errno.EACCES, True)])
def test_an_event_without_room_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_raised: bool
):
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", refuse)
    if is_raised:
        with pytest.raises(OSError, match="Permission denied"):
            write_event(tmp_path, "start", step=0)
    else:
        write_event(tmp_path, "start", step=0)


# -- the share of the peak ---------------------------------------------------------------------------------------------


def test_the_peak_of_a_device_is_its_fastest_product(monkeypatch: pytest.MonkeyPatch):
    times = iter([0.0, 9.0, 10.0, 12.0, 20.0, 20.5, 30.0, 31.0])  # 9, 2, 0.5 and 1 seconds
    products: list[Any] = []
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(times))
    monkeypatch.setattr(torch, "mm", lambda *both: products.append(both))
    assert peak_flops(CPU, "bf16") == 2 * 1024**3 / 0.5
    assert {value.dtype for both in products for value in both} == {torch.bfloat16}
    assert {value.shape for both in products for value in both} == {(1024, 1024)}
    assert next(times, None) is None, "three products, and one to warm up"


def test_a_known_gpu_s_peak_is_that_of_its_data_sheet(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    kind = devices.find_gpu("NVIDIA H100 80GB HBM3")
    assert kind is not None
    assert peak_flops(torch.device("cuda"), "bf16") == kind.peak_flops["bf16"]


def test_both_shares_of_the_peak_by_hand():
    model = preset("tiny-2m")
    found = model_flops_utilization(model, 64, 1000.0, 4e9)
    wanted = {f"mfu_{name}": 1000 * model.flops_per_token(name, 64) / 4e9 for name in ("causal", "palm")}
    assert found == wanted
    assert found["mfu_palm"] > found["mfu_causal"] != model_flops_utilization(model, 32, 1000.0, 4e9)["mfu_causal"]


def test_a_cpu_s_memory_is_the_process_s(monkeypatch: pytest.MonkeyPatch):
    class Usage:
        ru_maxrss = 7

    monkeypatch.setattr(metrics.resource, "getrusage", lambda _: Usage)
    monkeypatch.setattr(metrics.sys, "platform", "linux")
    assert metrics.peak_memory_bytes(CPU) == 7 * 1024
    monkeypatch.setattr(metrics.sys, "platform", "darwin")
    assert metrics.peak_memory_bytes(CPU) == 7


# -- the summary -------------------------------------------------------------------------------------------------------


class FakeShards:
    n_tokens = 3000


def finished(run_dir: Path, speeds: list[float], **changes: Any) -> FinishedRun:
    rows = [{"step": step, "loss": 10.0 - step, "tokens_per_second": speed} for step, speed in enumerate(speeds, 1)]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = TrainConfig(tokens_per_step=64, micro_batch_size=2, seq_len=16, steps=3)
    shards: Any = FakeShards()
    values = {
        "config": preset("tiny-2m"), "train": train, "run_dir": run_dir, "device": CPU, "ranks": 2, "step": 3,
        "train_shards": shards, "validation_shards": shards, "vocab_size": 512, "validation": None, "skipped_steps": 1,
        "weights_sha256": "ab",
    }  # fmt: skip
    return FinishedRun(**(values | changes))


def test_the_summary_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metrics, "peak_flops", lambda device, precision: {"cpu": {"bf16": 1e9}}[device.type][precision])
    monkeypatch.setattr(metrics, "peak_memory_bytes", lambda _: 77)
    model = preset("tiny-2m")
    assert summarize(finished(tmp_path, [1.0, 100.0, 300.0])) == {
        "parameters": model.n_parameters, "device": "cpu", "ranks": 2, "step": 3, "tokens": 192, "epochs": 0.064,
        "loss": 7.0, "validation": None, "unigram_perplexity": None, "tokens_per_second": 150.0, "peak_memory_bytes": 77,
        **model_flops_utilization(model, 16, 150.0, 2e9), "skipped_steps": 1, "weights_sha256": "ab",
    }  # fmt: skip
    (event,) = files.read_jsonl(tmp_path / "events.jsonl")
    assert (event["event"], event["step"]) == ("finish", 3)


def test_the_unigram_model_is_of_the_training_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metrics, "peak_flops", lambda *_: 1e9)
    monkeypatch.setattr(metrics, "unigram_perplexity", lambda *given: given)
    train, validation = object(), object()
    shards: Any = FakeShards()
    run = finished(tmp_path, [40.0], validation={"loss": 1.0}, train_shards=shards, validation_shards=validation)
    summary = summarize(run)
    assert summary["unigram_perplexity"] == (shards, validation, 512)
    assert summary["tokens_per_second"] == 40.0, "of a run of one step, that step's"
    assert train is not validation


# -- a step's time -----------------------------------------------------------------------------------------------------


def test_a_lap_is_from_the_end_of_the_one_before_or_the_last_start(monkeypatch: pytest.MonkeyPatch):
    times = iter([10.0, 13.0, 14.5, 20.0, 20.25])
    monkeypatch.setattr(step_clock.time, "perf_counter", lambda: next(times))
    clock = StepClock(CPU)
    values = [torch.tensor(1.5), torch.tensor(2.0, dtype=torch.float64)]
    assert clock.lap(values).read() == ([1.5, 2.0], 3.0)
    assert clock.lap([torch.tensor(0.1)]).read() == ([0.10000000149011612], 1.5)
    clock.start()
    assert clock.lap(values).read()[1] == 0.25


def test_garbage_is_kept_while_steps_are_made_and_collected_again_after_an_error():
    def work() -> None:
        with gc_paused():
            assert not gc.isenabled()
            assert gc.get_freeze_count() > 0
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        work()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
