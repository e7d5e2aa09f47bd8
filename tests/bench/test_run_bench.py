"""`tinyllama bench` on a CPU: every figure is there, and they fit each other."""

import json
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from tinyllama.bench import run_bench as bench
from tinyllama.bench import training_speed
from tinyllama.bench.bench_options import BenchOptions, resolve
from tinyllama.bench.bench_table import render
from tinyllama.bench.kernel_classes import CLASSES
from tinyllama.commands.app import app
from tinyllama.errors import RecipeError
from tinyllama.model.llama_config import preset

SMALL = ("--preset", "tiny-2m", "--micro-batch-size", "2", "--accumulate", "3", "--seq-len", "24", "--steps", "3")
KEYS = {
    "preset", "parameters", "precision", "micro_batch_size", "micro_batches_per_step", "seq_len", "recompute", "steps",
    "device", "torch", "triton", "uses", "tokens_per_second", "step_ms", "step_ms_min", "step_ms_max",
    "first_step_seconds", "loss_first", "loss_last", "timed_steps_called_off", "mfu_causal", "mfu_palm", "peak_flops",
    "peak_flops_source", "peak_memory_bytes", "memory", "ceilings", "shares", "kernel_classes", "top_kernels",
    "profiled_step_ms", "decode",
}  # fmt: skip
CPU = torch.device("cpu")


MEMORY_BYTES = 12 * 10**9
# The command with a limit on its memory: what asks for terabytes is refused at once, on a machine of any size.
BOUNDED = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_DATA, ({MEMORY_BYTES}, {MEMORY_BYTES}))
from tinyllama.__main__ import main
sys.argv[0] = "tinyllama"
main()
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BOUNDED, "bench", *words], capture_output=True, text=True)


@pytest.fixture(scope="module")
def result() -> dict:
    done = run(*SMALL, "--json", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    assert "bench: tiny-2m, 2,410,176 parameters, on CPU" in done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1
    return json.loads(lines[0])


def test_every_key(result: dict):
    assert set(result) == KEYS
    assert (result["preset"], result["parameters"], result["precision"]) == ("tiny-2m", 2_410_176, "fp32")
    assert (result["micro_batch_size"], result["micro_batches_per_step"], result["seq_len"]) == (2, 3, 24)
    assert (result["torch"], result["recompute"], result["steps"]) == (torch.__version__, "none", 3)
    assert "precision fp32" in result["uses"]


def test_speed(result: dict):
    assert 0 < result["step_ms_min"] <= result["step_ms"] <= result["step_ms_max"]
    assert result["tokens_per_second"] == pytest.approx(2 * 3 * 24 / result["step_ms"] * 1000, rel=1e-3)
    assert result["first_step_seconds"] > 0
    assert result["loss_first"] == pytest.approx(8.4, abs=0.5)  # ln 4096 = 8.3, of random weights
    assert result["loss_last"] < result["loss_first"]  # every step sees the same tokens


def test_mfu_by_hand(result: dict):
    n = 4096 * 192 + 4 * (192 * 48 * (2 * 4 + 2 * 2) + 3 * 192 * 512) + 4 * 2 * 192 + 192  # head, layers, norms
    rate = result["tokens_per_second"] / result["peak_flops"]
    assert result["mfu_palm"] == pytest.approx(rate * (6 * n + 12 * 4 * 192 * 24))
    assert result["mfu_causal"] == pytest.approx(rate * (6 * n + 6 * 4 * 192 * 24))
    flops = result["tokens_per_second"] * (6 * n + 6 * 4 * 192 * 24)
    for name in ("burst", "sustained"):
        share = flops / result["ceilings"][f"product_flops_{name}"]
        assert result["shares"][f"of_product_{name}"] == pytest.approx(share)
    assert result["ceilings"]["copy_bytes_per_second"] > 1e8


def test_memory(result: dict):
    memory = result["memory"]
    assert (memory["weights"], memory["moments"], memory["copies_16bit"]) == (4 * 2_410_176, 8 * 2_410_176, 0)
    assert memory["gradients"] == 4 * 2_410_176
    assert memory["peak"] == result["peak_memory_bytes"] == sum(memory.values()) - memory["peak"]


def test_profile(result: dict):
    rows = {row["class"]: row for row in result["kernel_classes"]}
    assert list(rows) == [*CLASSES, "idle"]
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1, abs=1e-4)
    assert sum(row["ms"] for row in rows.values()) == pytest.approx(result["profiled_step_ms"], rel=0.02)
    assert all(rows[name]["ms"] > 0 for name in ("product", "attention", "cross entropy", "optimizer", "embedding"))
    assert len(result["top_kernels"]) == 15


def test_decode(result: dict):
    decode = result["decode"]
    assert (decode["prompt_tokens"], decode["new_tokens"], decode["dtype"]) == (128, 64, "fp32")
    assert decode["tokens_per_second"] <= 64 / (63 * decode["step_us"] / 1e6)


def test_tables(result: dict):
    text = render(result)
    for words in (
        "tiny-2m on CPU",
        "3 x 2 sequences of 24 tokens",
        "memory: peak",
        "matmul, sustained",
        "cross entropy",
    ):
        assert words in text
    bare = {**result, "kernel_classes": None, "profiled_step_ms": None, "decode": None}
    bare["ceilings"] = dict.fromkeys(result["ceilings"])
    bare["shares"] = dict.fromkeys(result["shares"])
    assert "not measured" in render(bare)


def test_16_bit_copies_and_gradients(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        bench, "measure_ceilings", lambda *_: dict.fromkeys(("copy_bytes_per_second", "product_flops_burst"))
    )
    options = BenchOptions(
        "tiny-2m", "bf16", 1, seq_len=8, steps=1, recompute="full", device="cpu", decode=False, profile=False
    )
    found = bench.run_bench(options)
    assert found["decode"] is found["kernel_classes"] is found["shares"]["of_product_burst"] is None
    counts = preset("tiny-2m").parameter_counts()
    layers, head = counts["attention"] + counts["feed_forward"], counts["embedding"]  # tied: the head is a copy of it
    assert found["memory"]["copies_16bit"] == 2 * (layers + head)
    assert found["memory"]["gradients"] == 2 * layers + 4 * (head + counts["norms"])
    assert "recompute full" in found["uses"]


def test_a_failing_profile_and_decoding_cost_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def broken(*_: object) -> dict:
        raise RuntimeError("no tracer")

    monkeypatch.setattr(training_speed, "profile_steps", broken)
    monkeypatch.setattr(bench, "decode_speed", broken)
    monkeypatch.setattr(bench, "measure_ceilings", lambda *_: {})
    found = bench.run_bench(BenchOptions("tiny-2m", micro_batch_size=1, seq_len=8, steps=1, device="cpu"))
    assert set(found) == KEYS
    assert found["tokens_per_second"] > 0
    assert found["kernel_classes"] is found["profiled_step_ms"] is found["decode"] is None
    assert capsys.readouterr().err.count("warning: ") == 2


# -- what a user gets wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--preset", "tiny-2"), "preset: unknown 'tiny-2'; did you mean tiny-2m?"),
        (
            ("--micro-batch-size", "1000000", "--seq-len", "1000000"),
            "do not fit in memory; a smaller --micro-batch-size",
        ),
    ],
)
def test_one_line_and_exit_code_2(words: tuple[str, ...], message: str):
    done = run(*words, "--json", "--device", "cpu")
    assert (done.returncode, done.stdout) == (2, "")
    lines = [line for line in done.stderr.splitlines() if not line.startswith("bench: ")]
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BenchOptions(precision="fp8", device="cpu"), "train.precision: 'fp8' needs a GPU"),
        (BenchOptions(memory_limit_gb=3, device="cpu"), "memory_limit_gb: 3 limits a GPU"),
    ],
)
def test_what_a_cpu_cannot(options: BenchOptions, message: str):
    with pytest.raises(RecipeError, match=message):
        bench.run_bench(options)


@pytest.mark.parametrize(
    "words", [("--steps", "0"), ("--recompute", "some"), ("--precision", "fp4"), ("--seq-len", "x")]
)
def test_values_that_the_command_line_refuses(words: tuple[str, ...]):
    done = CliRunner().invoke(app, ["bench", *words])
    assert (done.exit_code, done.stdout) == (2, "")
    assert words[0] in done.stderr


def wrapped(cause: Exception) -> Exception:
    """An error as a compiler passes it on."""
    try:
        raise RuntimeError("backend='inductor' raised") from cause
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        MemoryError(),
        wrapped(torch.OutOfMemoryError("CUDA out of memory.")),
    ],
)
def test_out_of_memory_names_the_mend(error: Exception):
    work = resolve(BenchOptions("tiny-2m", recompute="selective"), "cpu")
    with (
        pytest.raises(
            RecipeError, match=r"micro_batch_size: 8 sequences of 256 .* of 20 GB; .*--recompute full"
        ) as caught,
        bench.out_of_memory_in_words(work, 20.0),
    ):
        raise error
    assert "\n" not in str(caught.value)


def test_other_errors_stay_what_they_are():
    work = resolve(BenchOptions("tiny-2m"), "cpu")
    with pytest.raises(ValueError, match="wrong"), bench.out_of_memory_in_words(work, None):
        raise ValueError("wrong")


@pytest.mark.parametrize(
    ("name", "device", "wanted"),
    [
        (None, "cuda", ("tinyllama-1.1b", 16, 2048, "bf16")),
        ("small-120m", "cuda", ("small-120m", 8, 1024, "bf16")),
        (None, "cpu", ("tiny-2m", 8, 256, "fp32")),
        ("tinyllama-1.1b", "cpu", ("tinyllama-1.1b", 8, 2048, "fp32")),
    ],
)
def test_defaults(name: str | None, device: str, wanted: tuple):
    work = resolve(BenchOptions(name), device)
    train = work.train
    assert (work.preset, train.micro_batch_size, train.seq_len, train.precision) == wanted
    assert (work.timed_steps, train.steps, train.micro_batches_per_step) == (10, 14, 1)


def test_memory_limit(monkeypatch: pytest.MonkeyPatch):
    shares: list[float] = []
    properties = type("Properties", (), {"total_memory": 80_000_000_000})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    device = torch.device("cuda")
    with bench.memory_limit(20.0, device):
        assert shares == [0.25]
    assert shares == [0.25, 1.0]
    for wrong in (0.0, -1.0, 81.0, float("nan")):
        refused = pytest.raises(RecipeError, match=r"memory_limit_gb: .* at most the GPU's 80.0")
        with refused, bench.memory_limit(wrong, device):
            pass
