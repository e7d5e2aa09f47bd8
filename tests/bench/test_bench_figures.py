"""How `bench` puts its figures together, with measurements of the test's own: shares, peaks, memory, failures."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.command_line import Call, recorded
from tinyllama.bench import ceilings, run_bench
from tinyllama.bench.bench_options import BenchOptions, resolve
from tinyllama.devices import KINDS
from tinyllama.errors import RecipeError

SMALL: Any = {"preset": "tiny-2m", "micro_batch_size": 2, "accumulate": 3, "seq_len": 16, "steps": 5}
RATES = {"copy_bytes_per_second": 1e9, "product_flops_burst": 4e12, "product_flops_sustained": None}


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Call]]:
    """Stand-ins of all that measures; 1,000 tokens a second."""
    training = {"tokens_per_second": 1000.0, "memory": {}}
    return {
        "training": recorded(monkeypatch, "tinyllama.bench.run_bench.measure_training", training),
        "decode": recorded(monkeypatch, "tinyllama.bench.run_bench.decode_speed", {"step_us": 1.0}),
        "ceilings": recorded(monkeypatch, "tinyllama.bench.run_bench.measure_ceilings", RATES),
        "peak": recorded(monkeypatch, "tinyllama.bench.run_bench.peak_flops", 2e12),
    }


def flops(attention: int) -> int:
    """Of one token of tiny-2m at a context of 16: head, layers, norms; attention 6 causal, 12 palm."""
    n = 4096 * 192 + 4 * (192 * 48 * (2 * 4 + 2 * 2) + 3 * 192 * 512) + 4 * 2 * 192 + 192
    return 6 * n + attention * 4 * 192 * 16


def test_shares_of_the_peak_and_of_the_ceilings(parts: dict[str, list[Call]]):
    found = run_bench.run_bench(BenchOptions(**SMALL, device="cpu"))
    assert found["mfu_causal"] == pytest.approx(1000 * flops(6) / 2e12)
    assert found["mfu_palm"] == pytest.approx(1000 * flops(12) / 2e12)
    assert found["shares"] == {"of_product_burst": 1000 * flops(6) / 4e12, "of_product_sustained": None}
    assert (found["peak_flops"], found["peak_flops_source"]) == (2e12, "measured")
    assert (found["micro_batch_size"], found["micro_batches_per_step"], found["seq_len"]) == (2, 3, 16)
    assert (found["steps"], found["precision"], found["recompute"]) == (5, "fp32", "none")
    assert (found["ceilings"], found["decode"]) == (RATES, {"step_us": 1.0})
    assert found["device"] == f"CPU, {torch.get_num_threads()} threads"


@pytest.mark.parametrize(
    ("precision", "dtype", "with_fp8"),
    [
        ("fp32", torch.float32, False),
        ("bf16", torch.bfloat16, False),
        ("fp16", torch.float16, False),
        ("fp8", torch.bfloat16, True),
    ],
)
def test_each_part_is_measured_in_the_precision_asked_for(
    parts: dict[str, list[Call]], precision: Any, dtype: torch.dtype, with_fp8: bool
):
    cpu = torch.device("cpu")
    run_bench.run_bench(BenchOptions(**SMALL, precision=precision, device="cpu", profile=False))
    (work, device, with_profile), _ = parts["training"][0]
    assert (work.train.precision, device, with_profile) == (precision, cpu, False)
    assert parts["ceilings"][0][0] == (cpu, dtype, with_fp8)
    assert parts["peak"][0][0] == (cpu, precision)
    assert parts["decode"][0][0] == (work.model, cpu, 1)
    run_bench.run_bench(BenchOptions(**SMALL, device="cpu", decode=False))
    assert parts["training"][1][0][2] is True
    assert len(parts["decode"]) == 1


@pytest.mark.parametrize(
    ("driver_name", "peak", "source"),
    [("NVIDIA H100 80GB HBM3", KINDS["H100"].peak("bf16"), "data sheet"), ("Some Card", 2e12, "measured")],
)
def test_a_known_gpu_is_measured_by_its_data_sheet(
    parts: dict[str, list[Call]], monkeypatch: pytest.MonkeyPatch, driver_name: str, peak: float, source: str
):
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(run_bench, "choose_device", lambda wanted: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: driver_name)
    monkeypatch.setattr(run_bench, "peak_flops", lambda device, precision: peak)
    freed = recorded(monkeypatch, "torch.cuda.empty_cache")
    found = run_bench.run_bench(BenchOptions(**SMALL))
    assert (found["device"], found["peak_flops"], found["peak_flops_source"]) == (driver_name, peak, source)
    assert found["precision"] == "bf16"
    assert len(freed) == 2  # after training, and after decoding


def test_the_memory_limit_is_of_training_and_decoding(parts: dict[str, list[Call]], monkeypatch: pytest.MonkeyPatch):
    gpu, story = torch.device("cuda", 0), []
    monkeypatch.setattr(run_bench, "choose_device", lambda wanted: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some Card")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=10**10))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", story.append)
    for name in ("measure_training", "decode_speed", "measure_ceilings"):
        whole = getattr(run_bench, name)
        monkeypatch.setattr(run_bench, name, lambda *words, name=name, whole=whole: story.append(name) or whole(*words))
    run_bench.run_bench(BenchOptions(**SMALL, memory_limit_gb=10))  # all of it is still a limit
    assert story == [1.0, "measure_training", "decode_speed", 1.0, "measure_ceilings"]

    def broken(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    story.clear()
    monkeypatch.setattr(run_bench, "measure_training", broken)
    with pytest.raises(RecipeError, match=r"micro_batch_size: 2 .* do not fit in memory of 2\.5 GB; "):
        run_bench.run_bench(BenchOptions(**SMALL, memory_limit_gb=2.5))
    assert story == [0.25, 1.0]
    with pytest.raises(RecipeError) as caught:
        run_bench.run_bench(BenchOptions(**SMALL, memory_limit_gb=10.1))
    assert str(caught.value) == "memory_limit_gb: 10.1 is not above 0 and at most the GPU's 10.0"
    assert story == [0.25, 1.0]


@pytest.mark.parametrize(
    ("micro_batch_size", "recompute", "mends"),
    [
        (
            2,
            "none",
            "a smaller --micro-batch-size (more --accumulate), or --recompute selective or full would need less",
        ),
        (2, "selective", "a smaller --micro-batch-size (more --accumulate), or --recompute full would need less"),
        (
            2,
            "full",
            "a smaller --micro-batch-size (more --accumulate), or a shorter --seq-len or a smaller --preset would need less",
        ),
        (1, "none", "--recompute selective or full, or a shorter --seq-len or a smaller --preset would need less"),
        (1, "full", "a shorter --seq-len or a smaller --preset would need less"),
    ],
)
def test_what_would_need_less_memory(micro_batch_size: int, recompute: Any, mends: str):
    options = BenchOptions("tiny-2m", micro_batch_size=micro_batch_size, seq_len=1024, recompute=recompute)
    with pytest.raises(RecipeError) as caught, run_bench.out_of_memory_in_words(resolve(options, "cpu"), None):
        raise MemoryError
    assert str(caught.value) == (
        f"micro_batch_size: {micro_batch_size} sequences of 1,024 tokens with recompute '{recompute}' do not fit in "
        f"memory; {mends}"
    )


def test_an_error_is_out_of_memory_when_its_cause_or_its_context_is():
    def led_to(error: BaseException, cause: BaseException | None, context: BaseException | None) -> BaseException:
        error.__cause__, error.__context__ = cause, context
        return error

    deep = led_to(ValueError("b"), None, led_to(ValueError("c"), MemoryError(), None))
    for error in (led_to(ValueError("a"), None, MemoryError()), led_to(ValueError("a"), MemoryError(), None), deep):
        assert run_bench.is_out_of_memory(error)
    for words in ("x out of memory", "can't allocate memory y", "CUBLAS_STATUS_ALLOC_FAILED"):
        assert run_bench.is_out_of_memory(RuntimeError(words))
        assert not run_bench.is_out_of_memory(ValueError(words))
    assert not run_bench.is_out_of_memory(led_to(RuntimeError("a"), ValueError("b"), ValueError("c")))
    assert not run_bench.is_out_of_memory(None)


def test_the_version_of_triton(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__version__="3.5.0"))
    assert run_bench.triton_version() == "3.5.0"
    monkeypatch.setitem(sys.modules, "triton", None)
    assert run_bench.triton_version() is None


def test_each_part_is_announced(parts: dict[str, list[Call]], capsys: pytest.CaptureFixture[str]):
    run_bench.run_bench(BenchOptions(**SMALL, device="cpu"))
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("bench: tiny-2m, 2,410,176 parameters, on CPU, ")
    assert said.endswith(" bench: decoding one sequence bench: measuring the device with a copy and large matmuls")


# -- ceilings ----------------------------------------------------------------------------------------------------------

CPU = torch.device("cpu")


def test_how_much_is_measured():
    """Records of speeds rest on these."""
    assert ceilings.COPY_BYTES == {"cuda": 2**31, "cpu": 2**28}
    assert ceilings.MATMUL_SIZE == {"cuda": 8192, "cpu": 1024}
    assert ceilings.SUSTAINED_SECONDS == {"cuda": 3.0, "cpu": 0.75}
    assert ceilings.IDLE_SECONDS == {"cuda": 1.0, "cpu": 0.0}
    assert ceilings.GROUP_SECONDS == 0.02


def test_a_copy_counts_what_is_read_and_written_by_its_best_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(ceilings.COPY_BYTES, "cpu", 1000)
    seconds = iter([5.0, 4.0, 3.0, 0.5, 9.0, 9.0, 9.0, 9.0, 9.0, 2.0, 0.1])
    copied: list[Any] = []
    monkeypatch.setattr(ceilings, "seconds_of", lambda work, device: copied.append(work()) or next(seconds))
    assert ceilings.copy_bandwidth(CPU) == 2 * 1000 / 0.5
    assert len(copied) == 10
    assert (copied[0].dtype, copied[0].numel()) == (torch.uint8, 1000)
    assert copied[0].float().std() > 50  # not zeros, which may be free


def test_products_are_timed_warm_and_after_a_rest(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(ceilings.MATMUL_SIZE, "cpu", 10)
    monkeypatch.setitem(ceilings.IDLE_SECONDS, "cpu", 7.0)
    story: list[Any] = []
    seconds = iter([0.001, *[0.5] * 12, 0.25, *[0.5] * 11, 0.125])  # the first one, then three times eight
    monkeypatch.setattr(ceilings, "time", SimpleNamespace(sleep=story.append))
    monkeypatch.setattr(ceilings, "seconds_of", lambda work, device: story.append("product") or next(seconds))
    monkeypatch.setattr(ceilings, "_sustained_seconds", lambda multiply, device, shortest: 2 * shortest)
    assert ceilings.matmul_rates(lambda: torch.ones(()), CPU) == (2000 / 0.25, 2000 / 0.5)
    assert story == ["product", *[7.0, *["product"] * 8] * 3]


@pytest.mark.parametrize(
    ("moments", "shortest", "products", "seconds"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 8, 11, 15], 1.0, 9, 2.5),  # 6 to 11, in two groups of one
        ([*range(10), 10], 1.0, 10, 1.0),  # 6 to 9: the limit ends it
        ([0, 20, 40], 1.0, 2, 20.0),  # longer than all of it
        ([0, 1, 2, 3, 4, 5, 6, 8, 11, 15], 0.4, 18, 1.25),  # groups of two
        ([0, 1, 2, 3, 4, 5, 6, 8, 11, 15], 5.0, 9, 2.5),  # a group has one at least
    ],
)
def test_the_last_third_of_the_long_run_counts(
    monkeypatch: pytest.MonkeyPatch, moments: list[float], shortest: float, products: int, seconds: float
):
    monkeypatch.setattr(ceilings, "GROUP_SECONDS", 1.0)
    monkeypatch.setitem(ceilings.SUSTAINED_SECONDS, "cpu", 9.0)
    clock = iter(map(float, moments))
    monkeypatch.setattr(ceilings, "now", lambda device: next(clock))
    made: list[Any] = []
    found = ceilings._sustained_seconds(lambda: made.append(1) or torch.ones(()), CPU, shortest)
    assert (found, len(made)) == (seconds, products)
    assert next(clock, None) is None


def test_each_kind_of_product_goes_to_its_own_figures(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(ceilings.MATMUL_SIZE, "cpu", 32)
    monkeypatch.setattr(ceilings, "copy_bandwidth", lambda device: 5.0)
    made: list[Any] = []
    monkeypatch.setattr(ceilings, "matmul_rates", lambda multiply, device: made.append(multiply()) or (len(made), 9.0))
    scaled: list[Call] = recorded(monkeypatch, "torch._scaled_mm", torch.ones(()))
    found = ceilings.measure_ceilings(CPU, torch.bfloat16, with_fp8=True)
    assert found == {
        "copy_bytes_per_second": 5.0, "product_flops_burst": 1, "product_flops_sustained": 9.0,
        "fp8_product_flops_burst": 2, "fp8_product_flops_sustained": 9.0,
    }  # fmt: skip
    assert (made[0].dtype, made[0].shape) == (torch.bfloat16, (32, 32))
    assert made[0].float().std() == pytest.approx(32**0.5, rel=0.1)
    (left, right), options = scaled[0]
    assert left.dtype == right.dtype == torch.float8_e4m3fn
    assert (left.stride(), right.stride()) == ((32, 1), (1, 32))  # as fp8 products want them
    assert (options["out_dtype"], options["use_fast_accum"]) == (torch.bfloat16, True)
    assert options["scale_a"] == options["scale_b"] == 1
    assert list(ceilings.measure_ceilings(CPU, torch.float32, with_fp8=False)) == list(found)[:3]


def test_an_attempt_gives_the_figure_or_a_warning(capsys: pytest.CaptureFixture[str]):
    assert ceilings.attempt("a", lambda: 5) == 5

    def broken() -> None:
        raise ValueError

    assert ceilings.attempt("speed", broken) is None
    assert "warning: bench: could not measure speed (ValueError: )" in capsys.readouterr().err


def test_seconds_are_those_of_the_work(monkeypatch: pytest.MonkeyPatch):
    story: list[Any] = []
    monkeypatch.setattr(ceilings, "now", lambda device: story.append("now") or 2.5 * len(story))
    assert ceilings.seconds_of(lambda: story.append("work"), CPU) == 5.0
    assert story == ["now", "work", "now"]


def test_what_is_measured_lies_on_the_device(monkeypatch: pytest.MonkeyPatch):
    """PyTorch's device without memory stands for a GPU."""
    meta = torch.device("meta")
    for table in (ceilings.COPY_BYTES, ceilings.MATMUL_SIZE):
        monkeypatch.setitem(table, "meta", 32)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(ceilings, "seconds_of", lambda work, device: seen.append(work()) or 1.0)
    monkeypatch.setattr(ceilings, "matmul_rates", lambda multiply, device: seen.append(multiply()))
    scaled: list[Call] = recorded(monkeypatch, "torch._scaled_mm", torch.ones((), device=meta))
    ceilings.measure_ceilings(meta, torch.bfloat16, with_fp8=True)
    seen += [*scaled[0][0], scaled[0][1]["scale_a"], scaled[0][1]["scale_b"]]
    assert len(seen) == 10 + 2 + 4
    assert {tensor.device for tensor in seen} == {meta}


@pytest.mark.parametrize(("free", "n_bytes"), [(4000, 1000), (10**6, 2000)])
def test_a_copy_on_a_gpu_fits_into_what_is_free(monkeypatch: pytest.MonkeyPatch, free: int, n_bytes: int):
    monkeypatch.setitem(ceilings.COPY_BYTES, "cuda", 2000)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**9))
    monkeypatch.setattr(ceilings, "seconds_of", lambda work, device: 0.5)
    made = recorded(monkeypatch, "torch.randint", torch.zeros(1))
    assert ceilings.copy_bandwidth(torch.device("cuda")) == 2 * n_bytes / 0.5
    assert made[0][0] == (256, (n_bytes,))
