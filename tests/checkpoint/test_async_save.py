"""Training goes on while a checkpoint is written, and the checkpoint is of the moment at which it was asked for."""

import threading
import time
from pathlib import Path

import pytest
import torch

from tests.tiny_model import run_state, tiny_llama
from tinyllama.checkpoint import checkpoint_format as form
from tinyllama.checkpoint.async_save import AsyncSaver, HostCopy, Saved
from tinyllama.checkpoint.retention import Retention
from tinyllama.checkpoint.save_load import load_moments, load_tensors

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def save(saver: AsyncSaver, model: torch.nn.Module, step: int, moments: dict[str, torch.Tensor] | None = None) -> None:
    saver.save(model.named_parameters(), (moments or {}).items(), run_state(tiny_llama(), "t", step), [])


@pytest.mark.parametrize("device", DEVICES)
def test_later_updates_are_not_in_it(tmp_path: Path, device: str):
    model, moments = tiny_llama().to(device), {"exp_avg.a": torch.ones(5, device=device)}
    before = {name: value.detach().cpu().clone() for name, value in model.named_parameters()}
    saver = AsyncSaver(tmp_path, Retention(2))
    save(saver, model, 3, moments)
    with torch.no_grad():
        for value in [*model.parameters(), *moments.values()]:
            value.add_(1)
    saver.wait()
    path = form.newest_valid(tmp_path)
    assert path is not None
    saved = load_tensors(path / form.WEIGHTS)
    assert all(torch.equal(saved[name], value) for name, value in before.items())
    found = {"exp_avg.a": torch.zeros(5)}
    load_moments(path, found)
    assert found["exp_avg.a"].tolist() == [1.0] * 5


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("is_prepared", [False, True])
def test_host_memory_is_used_again(device: str, is_prepared: bool):
    copy, tensors = HostCopy(), {"a": torch.ones(7, device=device), "b": torch.ones(2, device=device).bfloat16()}
    if is_prepared:
        copy.prepare(tensors.items())
    first = copy.take(tensors.items())
    assert copy.seconds() >= 0
    assert [value.tolist() for value in first.values()] == [[1.0] * 7, [1.0] * 2]
    places = [value.data_ptr() for value in first.values()]
    second = copy.take([(name, value + 1) for name, value in tensors.items()])
    assert copy.seconds() >= 0
    assert [value.data_ptr() for value in second.values()] == places
    assert [value.tolist() for value in second.values()] == [[2.0] * 7, [2.0] * 2]
    assert [value.dtype for value in second.values()] == [torch.float32, torch.bfloat16]


def test_save_returns_at_once_and_the_next_one_waits(tmp_path: Path):
    may_go_on, seen = threading.Event(), []

    def before_commit() -> None:
        assert may_go_on.wait(60)
        seen.append([path.name for path in form.checkpoints(tmp_path)])
        assert (threading.current_thread().name, threading.current_thread().daemon) == ("save", True)

    saved: list[Saved] = []
    saver, model = AsyncSaver(tmp_path, Retention(2), before_commit, saved.append), tiny_llama()
    save(saver, model, 1)
    assert saver.is_writing
    assert seen == []
    threading.Timer(0.3, may_go_on.set).start()
    started = time.perf_counter()
    save(saver, model, 2)
    assert time.perf_counter() - started > 0.2
    saver.wait()
    assert not saver.is_writing
    assert seen == [[], ["step_00000001"]]  # each was called before its own checkpoint had its name
    assert [row.step for row in saved] == [1, 2]
    assert saved[0].stall_seconds < 0.2 < saved[1].stall_seconds
    assert saved[0].n_bytes == sum(file.stat().st_size for file in saved[0].path.iterdir())


@pytest.mark.parametrize("asked_by", ["save", "wait"])
def test_an_error_of_the_thread_is_raised_once_and_leaves_nothing(tmp_path: Path, asked_by: str):
    def before_commit() -> None:
        raise PermissionError("not today")

    saver, model = AsyncSaver(tmp_path, Retention(2), before_commit), tiny_llama()
    save(saver, model, 1)
    with pytest.raises(PermissionError, match="not today"):
        save(saver, model, 2) if asked_by == "save" else saver.wait()
    saver.wait()
    assert list(tmp_path.iterdir()) == []
