"""Stages that are not alike: the step's time beside the schedule itself, the division of layers beside all others."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllama.devices import KINDS
from tinyllama.model.llama_config import PRESETS
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.parallel.pipeline_split import SAME_SPEED, layers_per_stage
from tinyllama.planning import stage_sizes
from tinyllama.planning.step_time import micro_batch_times, step_time
from tinyllama.train.train_config import TrainConfig

TINYLLAMA, H100 = PRESETS["tinyllama-1.1b"], KINDS["H100"]


def one_forward_one_backward(seconds: list[float], micro_batches: int) -> float:
    """1F1B, event by event: when the last stage's passes of one micro-batch take `seconds[-1]`, a third of it forward."""
    last = len(seconds) - 1
    order = []
    for stage in range(last + 1):
        begun = min(micro_batches, last + 1 - stage)
        passes = [("forward", number) for number in range(begun)]
        for number in range(micro_batches):
            passes.append(("backward", number))
            if begun + number < micro_batches:
                passes.append(("forward", begun + number))
        order.append(passes)
    done: dict[tuple[str, int, int], float] = {}
    now = [0.0] * (last + 1)
    while any(order):
        for stage, passes in enumerate(order):
            while passes:
                kind, number = passes[0]
                other = stage - 1 if kind == "forward" else stage + 1
                if 0 <= other <= last and (kind, number, other) not in done:
                    break
                now[stage] = max(now[stage], done.get((kind, number, other), 0.0))
                now[stage] += seconds[stage] * (1 / 3 if kind == "forward" else 2 / 3)
                done[kind, number, stage] = now[stage]
                passes.pop(0)
    return max(now)


@given(st.lists(st.floats(1, 2), min_size=1, max_size=6), st.integers(0, 20))
def test_the_step_of_unequal_stages_beside_the_schedule(seconds: list[float], more: int):
    """The slowest stage's passes and one micro-batch's on all others: never too fast, and exact where all are equal."""
    micro_batches = len(seconds) + more
    planned = (micro_batches - 1) * max(seconds) + sum(seconds)
    assert planned >= one_forward_one_backward(seconds, micro_batches) * (1 - 1e-9)
    equal = [max(seconds)] * len(seconds)
    assert one_forward_one_backward(equal, micro_batches) == pytest.approx(
        (micro_batches - 1 + len(seconds)) * max(seconds)
    )


@pytest.mark.parametrize("stages_count", [2, 3, 4, 5, 8, 16, 22])
def test_the_plan_s_stages_beside_the_schedule(stages_count: int):
    """What the plan says of a pipeline is what 1F1B takes, event by event, within 2%."""
    parallel, train = ParallelConfig(pipeline=stages_count), TrainConfig(tokens_per_step=64 * 2048, micro_batch_size=1)
    step = step_time(TINYLLAMA, KINDS["H100"], train, parallel)
    every = micro_batch_times(TINYLLAMA, KINDS["H100"], train, parallel)
    wanted = one_forward_one_backward([time.total for _, time in every], 64)
    assert step.total - step.data_communication - step.optimizer == pytest.approx(wanted, rel=0.02)


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize(
    ("name", "seq_len", "micro_batch_size"),
    [("tinyllama-1.1b", 2048, 16), ("tinyllama-1.1b", 8192, 4), ("article-1.1b", 2048, 16), ("small-120m", 1024, 64)],
)
def test_no_other_two_stages_are_faster_by_the_plan(
    monkeypatch: pytest.MonkeyPatch, name: str, seq_len: int, micro_batch_size: int, recompute: str
):
    """By more than counts as the same. FLOPs decide, but the plan knows element-wise work, gaps and rates too."""
    model = replace(PRESETS[name], seq_len=seq_len)
    train = TrainConfig.model_validate({
        "micro_batch_size": micro_batch_size, "seq_len": seq_len, "recompute": recompute,
        "tokens_per_step": 16 * micro_batch_size * seq_len,
    })  # fmt: skip

    def slowest(first: int) -> float:
        """Seconds of one micro-batch on the slower stage, where the first one has so many layers."""
        division = [range(first), range(first, model.n_layers)]
        monkeypatch.setattr(stage_sizes, "stage_layers", lambda *_: division)
        return max(time.total for _, time in micro_batch_times(model, H100, train, ParallelConfig(pipeline=2)))

    chosen, _ = layers_per_stage(model, 2, recompute)
    assert slowest(chosen) <= (1 + SAME_SPEED) * min(map(slowest, range(1, model.n_layers)))
