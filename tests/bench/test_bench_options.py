"""What `bench` is asked for: every option reaches the work, defaults by device, and what is refused."""

from dataclasses import asdict
from typing import Any

import pytest

from tests.command_line import recorded, result, tinyllama
from tinyllama.bench.bench_options import BenchOptions, resolve
from tinyllama.errors import RecipeError

DEFAULTS = {
    "preset": None, "precision": None, "micro_batch_size": None, "accumulate": 1, "seq_len": None, "steps": 10,
    "recompute": "none", "device": "auto", "compile": "auto", "decode": True, "profile": True, "memory_limit_gb": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ((), {}),
        (("--preset", "tiny-2m"), {"preset": "tiny-2m"}),
        (("--precision", "fp16"), {"precision": "fp16"}),
        (("--micro-batch-size", "3"), {"micro_batch_size": 3}),
        (("--micro-batch-size", "1048576"), {"micro_batch_size": 2**20}),
        (("--accumulate", "1048576"), {"accumulate": 2**20}),
        (("--seq-len", "2"), {"seq_len": 2}),
        (("--seq-len", "1048576"), {"seq_len": 2**20}),
        (("--steps", "1"), {"steps": 1}),
        (("--steps", "1048576"), {"steps": 2**20}),
        (("--recompute", "selective"), {"recompute": "selective"}),
        (("--device", "cpu"), {"device": "cpu"}),
        (("--compile", "off"), {"compile": "off"}),
        (("--no-decode",), {"decode": False}),
        (("--no-profile",), {"profile": False}),
        (("--memory-limit-gb", "2.5"), {"memory_limit_gb": 2.5}),
    ],
)
def test_each_option_of_the_command_changes_its_own_value(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], changed: dict[str, Any]
):
    calls = recorded(monkeypatch, "tinyllama.bench.run_bench.run_bench", {"a": 1})
    assert result("bench", *words) == {"a": 1}
    assert asdict(calls[0][0][0]) == DEFAULTS | changed
    assert asdict(BenchOptions()) == DEFAULTS


@pytest.mark.parametrize("option", ["--micro-batch-size", "--accumulate", "--seq-len", "--steps"])
def test_counts_have_bounds(monkeypatch: pytest.MonkeyPatch, option: str):
    calls = recorded(monkeypatch, "tinyllama.bench.run_bench.run_bench", {})
    for wrong in (1 if option == "--seq-len" else 0, 2**20 + 1):
        assert tinyllama("bench", option, wrong).exit_code == 2
    assert calls == []


def test_people_read_tables(monkeypatch: pytest.MonkeyPatch):
    recorded(monkeypatch, "tinyllama.bench.run_bench.run_bench", {"a": 1})
    rendered = recorded(monkeypatch, "tinyllama.bench.bench_table.render", "the tables")
    assert tinyllama("bench").stdout == "the tables\n"
    assert rendered == [(({"a": 1},), {})]


def test_options_become_the_training_that_is_timed():
    options = BenchOptions("tiny-2m", "bf16", 3, 5, 16, 7, "full", "cpu", "on")
    work = resolve(options, "cpu")
    train = work.train
    assert (work.preset, work.model.dim, work.timed_steps, train.steps) == ("tiny-2m", 192, 7, 11)
    assert (train.micro_batch_size, train.seq_len, train.tokens_per_step) == (3, 16, 3 * 5 * 16)
    assert (train.precision, train.recompute, train.device, train.compile, train.seed) == (
        "bf16",
        "full",
        "cpu",
        "on",
        1,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BenchOptions("tiny"), "preset: unknown 'tiny'; did you mean tiny-2m? known: tinyllama-1.1b, article-1.1b, "),
        (BenchOptions("t2m"), "preset: unknown 't2m'; did you mean tiny-2m? known: "),  # 2 x 3 of 3 + 7 letters
        (BenchOptions("tim"), "preset: unknown 'tim'; did you mean tiny-2m? known: "),
        (BenchOptions("txm"), "preset: unknown 'txm'; known: "),  # 2 x 2 of 3 + 7
        (BenchOptions(memory_limit_gb=2.5), "memory_limit_gb: 2.5 limits a GPU; remove it on a CPU"),
        (BenchOptions("tiny-2m", "fp8", 2, seq_len=12), "train.precision: 'fp8' needs widths that are multiples of 16; the "
         "tokens of a micro-batch (micro_batch_size x seq_len) are 24"),
    ],
)  # fmt: skip
def test_what_is_refused(options: BenchOptions, message: str):
    with pytest.raises(RecipeError) as caught:
        resolve(options, "cpu")
    assert str(caught.value).startswith(message)


def test_what_a_gpu_may_have():
    work = resolve(BenchOptions("tiny-2m", "fp8", 4, seq_len=12, memory_limit_gb=2.5), "cuda")
    assert work.train.precision == "fp8"
