"""The dry run counts what is there: by hand where that is known, and against tensors that are real."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.instruments.dry_run import PARTS, MemoryTracker, _few_micro_batches, dry_run
from tinyllama.model.llama_config import LlamaConfig, preset
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.train.train_config import TrainConfig

TINYLLAMA = preset("tinyllama-1.1b", n_layers=4)
TRAIN = TrainConfig(tokens_per_step=8 * 2048 * 64, micro_batch_size=8)
NORMS = TINYLLAMA.parameter_counts()["norms"]


def found(config: LlamaConfig = TINYLLAMA, train: TrainConfig = TRAIN, rank: int = 0, **sizes: Any) -> dict[str, int]:
    return dry_run(config, train, ParallelConfig(**sizes), rank)


@pytest.fixture(scope="module")
def replicated() -> dict[str, int]:
    return found(replicate=16)


def test_one_copy_by_hand(replicated: dict[str, int]):
    N = TINYLLAMA.n_parameters
    assert replicated["weights"] == replicated["gradients"] == 4 * N
    assert replicated["optimizer"] == 8 * N
    assert replicated["compute_copy"] == 2 * (N - TINYLLAMA.vocab_size * TINYLLAMA.dim - NORMS)
    assert replicated["peak"] == sum(replicated[part] for part in PARTS)
    # For a token and a layer, in 16 bits: stream and norm twice each, qkv with keys and values apart from it, out, gate
    # and up and their product; in fp32: log-sum-exp of each head, two 1 / rms.
    each = 2 * (4 * 2048 + 2 * 2048 + 2 * 256 + 3 * 5632) + 4 * 32 + 8
    assert replicated["activations"] == 8 * 2048 * (4 * each + BEFORE_LAYERS) + ANGLES


# Before the first layer, of a token: its id, the stream in 16 bits and 1 / rms. For all: cosines and sines of 64 angles.
BEFORE_LAYERS, ANGLES = 8 + 2 * 2048 + 4, 2 * 2 * 2048 * 64


def test_recomputed_layers_keep_the_stream_and_its_norm():
    full = found(train=TRAIN.model_copy(update={"recompute": "full"}), replicate=16)
    kept = 4 * 2 * 2 * 2048 - 2 * 2048  # of four layers; the first one's stream is the one before it
    assert full["activations"] == 8 * 2048 * (kept + BEFORE_LAYERS) + ANGLES


def test_fp8_keeps_inputs_of_products_in_one_byte(replicated: dict[str, int]):
    short = found(train=TRAIN.model_copy(update={"precision": "fp8"}), replicate=16)
    for part in ("weights", "compute_copy", "gradients", "optimizer"):
        assert short[part] == replicated[part]
    # For a token and a layer: both norms lose a byte a value; the product of gate and up, two bytes, is computed again.
    saved = 8 * 2048 * 4 * (2 * 2048 + 2 * 5632)
    assert short["activations"] == replicated["activations"] - saved


def test_shards_and_slices_divide(replicated: dict[str, int]):
    sharded, sliced = found(shard=16), found(replicate=8, tensor=2)
    N = TINYLLAMA.n_parameters
    assert sharded["weights"] == 4 * ((N - NORMS) // 16 + NORMS)
    assert sharded["optimizer"] == 2 * sharded["weights"]
    assert sharded["compute_copy"] == 0
    assert sharded["activations"] == replicated["activations"]
    assert sliced["weights"] == 4 * ((N - NORMS) // 2 + NORMS)
    assert replicated["activations"] / 2 < sliced["activations"] < 0.6 * replicated["activations"]


def test_shards_gathered_once_keep_weights_and_gradients_whole():
    by_layer, by_step = found(shard=16), found(shard=16, gather="step")
    matrices = TINYLLAMA.n_parameters - NORMS - 2 * TINYLLAMA.vocab_size * TINYLLAMA.dim
    for part in ("weights", "optimizer", "compute_copy"):
        assert by_step[part] == by_layer[part]
    assert by_step["gradients"] - by_layer["gradients"] == 4 * (matrices - matrices // 16)
    # The backward pass refers to the gathered weights: of all layers in 16 bits, where else it is of the head.
    assert by_step["peak"] - by_layer["peak"] == pytest.approx(4 * (matrices - matrices // 16) + 2 * matrices, rel=0.03)


def test_the_first_stage_holds_as_many_micro_batches_as_there_are_stages(replicated: dict[str, int]):
    """Of four layers the first stage has three, for two micro-batches; the last one the fourth and the head."""
    first, last = found(replicate=8, pipeline=2), found(replicate=8, pipeline=2, rank=15)
    assert first["weights"] + last["weights"] == replicated["weights"]
    assert first["activations"] == pytest.approx(replicated["activations"] * 2 * 3 / 4, rel=0.1)
    assert last["activations"] == pytest.approx(replicated["activations"] / 4, rel=0.1)
    more = found(train=TRAIN.model_copy(update={"tokens_per_step": 2 * TRAIN.tokens_per_step}), replicate=8, pipeline=2)
    assert more == first, "room does not grow with the micro-batches of a step"


def test_tied_stages_and_uneven_shards():
    tied = preset("tiny-2m", tied_head=True)
    train = TrainConfig(tokens_per_step=256 * 24, micro_batch_size=2, seq_len=256, precision="fp32")
    stages = [found(tied, train, rank, pipeline=2)["weights"] for rank in range(2)]
    assert sum(stages) == 4 * (tied.n_parameters + tied.vocab_size * tied.dim), "both ends hold the tied matrix"
    # Thirds of each matrix's rows, rounded up, times its columns: embedding; of a layer qkv, o, gate and up, down.
    third = 1366 * 192 + 4 * (128 * 192 + 64 * 192 + 342 * 192 + 64 * 512)
    norms = tied.parameter_counts()["norms"]
    assert [found(tied, train, rank, shard=3)["weights"] for rank in (0, 2)] == [4 * (third + norms)] * 2


def test_the_ledger_sees_what_is_made_and_let_go():
    with MemoryTracker() as tracker:
        first = torch.zeros(1000)
        tracker.book(first, "weights")
        second = first * 2
        tracker.begin()
        del second
        third = torch.zeros(500, dtype=torch.float64)
        view = third[10:]
        assert sum(tracker.at_peak.values()) == 8000
        more = torch.cat([third, view])
        assert sum(tracker.at_peak.values()) == 4000 + 4000 + more.nbytes
        assert tracker.at_peak["weights"] == 4000


def test_the_page_s_example_runs(capsys: pytest.CaptureFixture[str]):
    page = (Path(__file__).parents[2] / "docs" / "parallel.md").read_text()
    block = re.search(r"```python\n(.*?)```", page, re.S)
    assert block
    exec(block[1], {})
    weights, activations, peak = map(int, capsys.readouterr().out.split())
    assert 0 < weights < activations < peak


@pytest.mark.parametrize(
    ("micro_batches", "sizes", "each"),
    [(5, {}, 3), (3, {"replicate": 2}, 3), (2, {}, 2), (5, {"pipeline": 2}, 4), (4, {"pipeline": 2}, 4), (1, {}, 1)],
)
def test_as_few_micro_batches_as_show_the_peak(micro_batches: int, sizes: dict[str, int], each: int):
    """The first, the second, which makes sums, and one more; in a pipeline one for each stage before them."""
    parallel = ParallelConfig.model_validate(sizes)
    tokens = micro_batches * parallel.data_ranks * 8 * 2048
    for precision in ("fp8", "bf16", "fp32"):
        given = TRAIN.model_copy(update={"tokens_per_step": tokens, "precision": precision, "compile": "on"})
        few = _few_micro_batches(given, parallel)
        assert few.layout(parallel.data_ranks).micro_batches_per_rank == each
        assert (few.compile, few.precision) == ("off", "fp32" if precision == "fp32" else "bf16")


def test_the_ledger_counts_parts_and_the_peak_of_their_sum():
    with MemoryTracker() as tracker:
        one, two = torch.zeros(100), torch.zeros(200)
        tracker.book(one, "weights")
        tracker.book(one, "weights")  # again: the same bytes
        tracker.book(two, "weights")
        three = torch.zeros(50)
        assert tracker.book_activation(three) is three
        tracker.book_activation(one)  # weights that autograd keeps stay weights
        assert sum(tracker.at_peak.values()) == 1400
        tracker.begin()
        assert tracker.at_peak == dict.fromkeys(PARTS, 0) | {"weights": 1200, "activations": 200}
        del two, three
        four = torch.zeros(100)
        tracker.book(four, "gradients")
        assert sum(tracker.at_peak.values()) == 1400
        tracker.begin()
        assert tracker.at_peak == dict.fromkeys(PARTS, 0) | {"weights": 400, "gradients": 400}
        four.untyped_storage().resize_(0)
        five = torch.zeros(50)
        assert sum(tracker.at_peak.values()) == 800
        six = torch.zeros(200)
        assert tracker.at_peak == dict.fromkeys(PARTS, 0) | {"weights": 400, "buffers": five.nbytes + six.nbytes}


def test_a_dry_run_wants_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(RuntimeError, match="without a process group"):
        found()


def test_what_it_does_not_know_is_refused():
    with pytest.raises(ValueError, match="does not know deterministic_reduction"):
        found(train=TRAIN.model_copy(update={"deterministic_reduction": True}))
