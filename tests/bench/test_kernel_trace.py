"""Time by kernel from a profiler's trace: sums, steps, and the gaps between kernels."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tinyllama.bench import kernel_trace
from tinyllama.bench.kernel_trace import covered, kernels_of_trace, profile_steps


def kernel(name: str, begin: float, duration: float, category: str = "kernel") -> dict:
    """An event as Kineto writes it; times in microseconds."""
    return {"ph": "X", "cat": category, "name": name, "ts": begin, "dur": duration, "args": {"stream": 7}}


# Two steps: 0 to 5000 us, of which 1000 to 2000 and 4500 to 4800 are idle; two streams overlap from 3000 to 3500.
EVENTS = [
    {"ph": "M", "name": "process_name", "pid": 0, "args": {"name": "python3"}},
    kernel("ProfilerStep#0", 0, 5000, "gpu_user_annotation"),
    kernel("cudaLaunchKernel", 0, 5000, "cuda_runtime"),
    kernel("nvjet_tst_1", 2000, 1500),
    kernel("nvjet_tst_1", 0, 1000),
    kernel("_rows", 3000, 1500),
    kernel("Memset (Device)", 4800, 200, "gpu_memset"),
]


def test_kernels_of_trace():
    kernels, step_ms, idle_ms = kernels_of_trace(EVENTS, n_steps=2)
    assert {(kernel.name, kernel.ms, kernel.launches) for kernel in kernels} == {
        ("nvjet_tst_1", 1.25, 1.0),
        ("_rows", 0.75, 0.5),
        ("Memset (Device)", 0.1, 0.5),
    }
    assert step_ms == 2.5
    assert idle_ms == pytest.approx(0.65)
    assert kernels_of_trace(EVENTS[:3], n_steps=2) == ([], 0.0, 0.0)


def test_covered():
    assert covered([]) == 0
    assert covered([(0, 10), (2, 3), (5, 12), (20, 21)]) == 13


class FakeProfile:
    """Writes EVENTS, whatever ran."""

    def __enter__(self) -> "FakeProfile":
        return self

    def __exit__(self, *_: object) -> None: ...

    def export_chrome_trace(self, path: str) -> None:
        Path(path).write_text(json.dumps({"traceEvents": EVENTS}))


def test_gpu_way_with_a_made_up_trace(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernel_trace, "profile", lambda **_: FakeProfile())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    runs = []
    result = profile_steps(lambda: runs.append(1), 2, torch.device("cuda"))
    assert len(runs) == 3  # one starts the tracer
    assert result["profiled_step_ms"] == 2.5
    assert {row["class"]: row["ms"] for row in result["kernel_classes"] if row["ms"]} == {
        "product": 1.25,
        "cross entropy": 0.75,
        "copies and casts": 0.1,
        "idle": 0.65,
    }
    monkeypatch.setattr(
        FakeProfile, "export_chrome_trace", lambda self, path: Path(path).write_text('{"traceEvents": []}')
    )
    with pytest.raises(RuntimeError, match="recorded no kernel"):
        profile_steps(lambda: None, 2, torch.device("cuda"))


def test_cpu_way():
    matrix = torch.randn(128, 128)
    result = profile_steps(lambda: torch.sigmoid(matrix @ matrix), 3, torch.device("cpu"))
    rows = {row["class"]: row for row in result["kernel_classes"]}
    assert rows["product"]["launches"] >= 1
    assert rows["elementwise"]["launches"] == 1
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1, abs=1e-4)
    assert sum(row["ms"] for row in rows.values()) == pytest.approx(result["profiled_step_ms"], rel=0.02)


def test_the_kinds_of_events_that_are_device_work():
    found = kernels_of_trace(
        [
            kernel("a", 10, 1), kernel("b", 12, 2, "gpu_memcpy"), kernel("c", 15, 4, "gpu_memset"),
            kernel("d", 0, 100, "cpu_op"), kernel("e", 0, 100) | {"ph": "i"},
        ],
        n_steps=1,
    )  # fmt: skip
    assert {(one.name, one.ms) for one in found[0]} == {("a", 0.001), ("b", 0.002), ("c", 0.004)}
    assert found[1:] == (pytest.approx(0.009), pytest.approx(0.002))  # 10 to 19 us, idle 1 + 1


def test_operations_of_a_cpu_by_hand(monkeypatch: pytest.MonkeyPatch):
    rows = [("aten::mm", 3000.0, 4), ("aten::empty", 0.0, 9), ("aten::mul", 500.0, 2)]

    class Traced(FakeProfile):
        def key_averages(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(key=key, self_cpu_time_total=us, count=count) for key, us, count in rows]

    asked: list[dict] = []
    monkeypatch.setattr(kernel_trace, "profile", lambda **words: asked.append(words) or Traced())
    for wall, idle in ((0.010, 3.25), (0.002, 0.0)):
        moments = iter([1.0, 1.0 + wall])
        monkeypatch.setattr(kernel_trace, "time", SimpleNamespace(perf_counter=lambda moments=moments: next(moments)))
        runs: list[int] = []
        found = profile_steps(lambda runs=runs: runs.append(1), 2, torch.device("cpu"))
        assert len(runs) == 2
        assert found["profiled_step_ms"] == pytest.approx(wall * 500)
        assert [(row["name"], row["ms"], row["launches"]) for row in found["top_kernels"]] == [
            ("aten::mm", 1.5, 2), ("aten::mul", 0.25, 1),
        ]  # fmt: skip
        assert found["kernel_classes"][-1]["ms"] == pytest.approx(idle)
    assert [[str(one) for one in words["activities"]] for words in asked] == [["ProfilerActivity.CPU"]] * 2
    assert os.environ["KINETO_LOG_LEVEL"]
