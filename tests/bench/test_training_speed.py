"""What training costs, by clocks and states of the test's own: medians, warm-up left out, bytes by hand."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tinyllama.bench import decode_speed, training_speed
from tinyllama.bench.bench_options import WARM_UP_STEPS, BenchOptions, Workload, resolve
from tinyllama.generate.generate_config import GenerateConfig
from tinyllama.model.llama import Llama
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.train import step_clock

CPU = torch.device("cpu")
TINY = LlamaConfig(vocab_size=50, seq_len=48, dim=16, n_layers=1, n_heads=2, n_kv_heads=1, ffn_dim=24)


def workload(**changes: Any) -> Workload:
    """Three micro-batches of 2 x 8 tokens a step, three timed steps."""
    options = BenchOptions("tiny-2m", micro_batch_size=2, accumulate=3, seq_len=8, steps=3, device="cpu", **changes)
    return replace(resolve(options, "cpu"), model=TINY)


class Updates:
    """In place of `train_step`: writes down its calls, and what the state's 16-bit copies were."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.rates: set[float] = set()
        self.batches: list[Any] = []
        self.copies_are_fresh: list[bool] = []
        self.weights: list[torch.Tensor] = []

    def __call__(self, state: Any, micro_batches: Any, train: Any, *, step: int, lr: float) -> Any:
        self.steps.append(step)
        self.rates.add(lr)
        self.batches.append(micro_batches)
        pairs = [(parameter.copy, parameter.master) for parameter in state.network.packed if parameter.copy is not None]
        self.copies_are_fresh.append(all(torch.equal(copy, master.to(copy.dtype)) for copy, master in pairs))
        self.weights = [parameter.detach().clone() for parameter in state.model.parameters()]
        return SimpleNamespace(loss=torch.tensor(9.0 - step), is_skipped=torch.tensor(0.0))


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> Updates:
    made = Updates()
    monkeypatch.setattr(training_speed, "train_step", made)
    monkeypatch.setattr(training_speed, "peak_memory_bytes", lambda device: 10**6)
    return made


def test_the_first_step_is_timed_alone(updates: Updates, monkeypatch: pytest.MonkeyPatch):
    clock = itertools.count(10.0, 2.5)
    monkeypatch.setattr(training_speed.time, "perf_counter", lambda: next(clock))
    assert training_speed.measure_training(workload(), CPU, False)["first_step_seconds"] == 2.5


def test_only_the_timed_steps_count_and_by_their_median(updates: Updates, monkeypatch: pytest.MonkeyPatch):
    asked: list[range] = []

    def timed_steps(update: Any, steps: range, device: torch.device) -> list[tuple[list[float], float]]:
        asked.append(steps)
        warm = [([7.0, 1.0], 100.0)] * (WARM_UP_STEPS - 1)
        return [*warm, ([6.0, 1.0], 1.0), ([5.0, 0.0], 4.0), ([4.0, 1.0], 2.0)]

    monkeypatch.setattr(training_speed, "timed_steps", timed_steps)
    found = training_speed.measure_training(workload(), CPU, with_profile=False)
    assert WARM_UP_STEPS == 4
    assert asked == [range(1, 7)]
    assert (updates.steps, updates.rates) == ([0], {1e-4})
    wanted = Llama(TINY)
    training_speed.fill_random(wanted, 1)
    assert all(map(torch.equal, updates.weights, wanted.parameters()))
    assert found["tokens_per_second"] == 3 * 2 * 8 / 2
    assert (found["step_ms"], found["step_ms_min"], found["step_ms_max"]) == (2000, 1000, 4000)
    assert (found["loss_first"], found["loss_last"], found["timed_steps_called_off"]) == (9, 4, 2)
    assert found["peak_memory_bytes"] == found["memory"]["peak"] == 10**6
    assert found["kernel_classes"] is found["top_kernels"] is found["profiled_step_ms"] is None


def test_the_steps_that_are_made_and_profiled(
    updates: Updates, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def profile_steps(run_step: Callable[[], Any], n_steps: int, device: torch.device) -> dict[str, Any]:
        run_step()
        return {"kernel_classes": [n_steps], "top_kernels": [], "profiled_step_ms": 5.0}

    monkeypatch.setattr(training_speed, "profile_steps", profile_steps)
    found = training_speed.measure_training(workload(precision="bf16"), CPU, with_profile=True)
    assert updates.steps == [0, 1, 2, 3, 4, 5, 6, 7]
    assert (found["kernel_classes"], found["profiled_step_ms"]) == ([2], 5.0)
    assert (found["loss_first"], found["loss_last"]) == (9, 3)
    assert updates.copies_are_fresh == [True] * 8
    assert all(batches is updates.batches[0] for batches in updates.batches)
    said = " ".join(capsys.readouterr().err.split()).split("bench: ")[1:]
    assert said[0].startswith("precision bf16, not compiled, ")
    assert said[1:] == ["first step ", "3 more warm-up steps, then 3 timed steps ", "profiling 2 steps"]


def test_a_step_is_read_while_the_next_is_in_flight(monkeypatch: pytest.MonkeyPatch):
    story: list[Any] = []
    moments = iter([10.0, 11.0, 14.0, 15.5])
    monkeypatch.setattr(step_clock, "now", lambda device: next(moments))
    between = step_clock.seconds_between
    monkeypatch.setattr(step_clock, "seconds_between", lambda a, b: story.append("read") or between(a, b))

    def update(step: int) -> Any:
        story.append(step)
        return SimpleNamespace(loss=torch.tensor(2.0 * step), is_skipped=torch.tensor(step == 6))

    rows = training_speed.timed_steps(update, range(5, 8), CPU)  # pyright: ignore[reportArgumentType]
    assert rows == [([10.0, 0.0], 1.0), ([12.0, 1.0], 3.0), ([14.0, 0.0], 1.5)]
    assert story == [5, 6, "read", 7, "read", "read"]


def test_random_batches_by_hand():
    train = workload().train
    batches = training_speed.random_batches(50, train, CPU)
    assert [batch.tokens.shape for batch in batches] == [(2, 8)] * 3
    assert [batch.samples.tolist() for batch in batches] == [[0, 1], [2, 3], [4, 5]]
    for batch in batches:
        assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])  # the next token of each
        assert not torch.equal(batch.tokens, batch.targets)
        assert batch.tokens.is_contiguous()
        assert batch.targets.is_contiguous()
    assert not torch.equal(batches[0].tokens, batches[1].tokens)
    many = training_speed.random_batches(5, train.model_copy(update={"seq_len": 400, "tokens_per_step": 800}), CPU)
    assert set(many[0].tokens.flatten().tolist()) == {0, 1, 2, 3, 4}
    again = training_speed.random_batches(50, train, CPU)
    other = training_speed.random_batches(50, train.model_copy(update={"seed": 2}), CPU)
    assert torch.equal(batches[0].tokens, again[0].tokens)
    assert not torch.equal(batches[0].tokens, other[0].tokens)


def test_random_weights_have_the_variance_of_their_fan_in():
    def filled(seed: int) -> list[torch.Tensor]:
        model = torch.nn.ParameterList([torch.zeros(7), torch.zeros(300, 1000), torch.zeros(300, 1000)])
        training_speed.fill_random(model, seed)
        return list(model)

    norm, first, second = filled(1)
    assert torch.equal(norm, torch.ones(7))
    assert first.std().item() == pytest.approx(math.sqrt(2 / 5 / 1000), rel=0.01)
    assert first.mean().item() == pytest.approx(0, abs=2e-4)
    assert not torch.equal(first, second)
    assert torch.equal(first, filled(1)[1])
    assert not torch.equal(first, filled(2)[1])


def test_the_parts_of_memory_by_hand():
    def packed(master: int, copy: int | None) -> Any:
        half = None if copy is None else torch.zeros(copy, dtype=torch.bfloat16)
        return SimpleNamespace(master=torch.zeros(master), copy=half)

    moments = {"a": torch.zeros(5), "b": torch.zeros(6, dtype=torch.bfloat16)}
    state: Any = SimpleNamespace(
        network=SimpleNamespace(packed=[packed(10, 3), packed(20, None), packed(1, 4)]),
        optimizer=SimpleNamespace(moments=lambda: moments),
    )
    assert training_speed.memory_parts(state, 7, 1000) == {
        "weights": 4 * 31, "copies_16bit": 2 * 7, "moments": 20 + 12, "gradients": 7,
        "activations_and_rest": 1000 - 124 - 14 - 32 - 7, "peak": 1000,
    }  # fmt: skip


def test_gradients_are_weighed_whenever_they_are_let_go():
    class Gradients:
        totals = (torch.zeros(3), torch.zeros(2, dtype=torch.bfloat16))

        def all(self) -> Any:
            return self.totals

    gradients: Any = Gradients()
    with pytest.MonkeyPatch.context() as patch:
        cleared: list[Any] = []
        patch.setattr(training_speed.Gradients, "clear", cleared.append)
        with training_speed.gradient_bytes(gradients) as seen:
            gradients.clear()
            gradients.totals = gradients.totals[:1]
            gradients.clear()
        assert seen == [12 + 4, 12]
        assert cleared == [gradients, gradients]
    assert "clear" not in vars(gradients)


@pytest.mark.parametrize(("value", "wanted"), [(1.5, 1.5), (math.nan, None), (math.inf, None), (0.0, 0.0)])
def test_what_json_cannot_say_is_none(value: float, wanted: float | None):
    assert training_speed.finite(value) == wanted


# -- decoding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seq_len", "prompt_tokens", "new_tokens"),
    [(256, 128, 64), (192, 128, 64), (190, 126, 64), (150, 100, 50), (48, 32, 16), (2, 1, 1)],
)
def test_decoding_is_timed_by_the_medians_of_whole_calls(
    monkeypatch: pytest.MonkeyPatch, seq_len: int, prompt_tokens: int, new_tokens: int
):
    calls = iter([
        [9.0, 99.0], [9.0, 99.0],  # compiled, recorded
        [1.0, 2.0, 3.0], [0.5, 2.0, 4.5], [2.0, 3.0, 8.0], [0.25, 1.0, 6.25], [1.5, 2.0, 11.5],
    ])  # fmt: skip
    asked: list[tuple[Any, list[int], GenerateConfig]] = []
    monkeypatch.setattr(decode_speed, "seconds_to_each_token", lambda *words: asked.append(words) or next(calls))
    monkeypatch.setattr(decode_speed, "Decoder", lambda model: model)
    config = replace(TINY, seq_len=seq_len)
    found = decode_speed.decode_speed(config, CPU, seed=3)
    assert found == {
        "tokens_per_second": round(new_tokens / 6.25, 1),  # of calls of 3, 4.5, 8, 6.25 and 11.5 s
        "step_us": 3e6,  # of 1, 2, 3, 3 and 5 s
        "first_token_ms": 1000.0,  # of 1, .5, 2, .25 and 1.5 s
        "prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "dtype": "fp32",
    }  # fmt: skip
    assert len(asked) == 7
    model, prompt, choice = asked[0]
    assert len(prompt) == prompt_tokens
    assert (choice.max_new_tokens, choice.temperature) == (new_tokens, 0.0)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    if prompt_tokens > 1:
        assert set(prompt) <= set(range(50))
        assert len(set(prompt)) > 10


def test_one_token_is_its_own_median(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decode_speed, "seconds_to_each_token", lambda *_: [0.5])
    found = decode_speed.decode_speed(replace(TINY, seq_len=2), CPU, seed=1)
    assert (found["tokens_per_second"], found["step_us"], found["first_token_ms"]) == (2.0, 0.0, 500.0)


def test_a_random_network_decodes_only_and_follows_its_seed():
    model = decode_speed.random_model(TINY, CPU, torch.bfloat16, 5)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    same, wanted = decode_speed.random_model(TINY, CPU, torch.float32, 5), Llama(TINY)
    training_speed.fill_random(wanted, 5)
    for a, b in zip(same.parameters(), wanted.parameters(), strict=True):
        assert torch.equal(a, b)


def test_each_token_is_timed_from_the_calls_begin(monkeypatch: pytest.MonkeyPatch):
    moments = iter([10.0, 11.0, 13.0])
    monkeypatch.setattr(decode_speed, "time", SimpleNamespace(perf_counter=lambda: next(moments)))
    choice = GenerateConfig(max_new_tokens=2)
    asked: list[Any] = []
    decoder: Any = SimpleNamespace(new_tokens=lambda *words: asked.append(words) or iter([[1], [2]]))
    assert decode_speed.seconds_to_each_token(decoder, [4, 5], choice) == [1.0, 3.0]
    assert asked == [([[4, 5]], choice)]
