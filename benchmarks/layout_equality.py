"""Every parallel layout gives the same training: losses and gradients beside those of one process, as a table.

    python benchmarks/layout_equality.py --processes 2 4 8 [--case dropout ...] [--dtype float64] [--json table.json]

Each number of processes is one launch (gloo, CPU), which goes through all layouts of it and all cases. What is compared:
the losses and gradient norms of 10 steps, relative to the reference's, and every canonical gradient of step 1 and weight
after the last step, relative to the reference's largest value of that tensor. The last step is made by a new state that was
given the weights, moments and counters of the one before it; then a batch is judged. The reference is one process without
any layout, which goes on with its state.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from tinyllama.drill.rank_processes import LOADED, free_port
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.model.loss import IGNORED
from tinyllama.model.packed_llama import PackedLlama
from tinyllama.parallel import fp8, parallelize
from tinyllama.parallel.launch import join
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.parallel.mesh import RankMesh
from tinyllama.parallel.ranks import Ranks
from tinyllama.train import train_state
from tinyllama.train.forward_backward import DeviceBatch
from tinyllama.train.precision import FORMATS
from tinyllama.train.train_config import TrainConfig
from tinyllama.train.train_state import TrainState
from tinyllama.train.train_step import train_step

STEPS, SEQ_LEN, MICRO_BATCH_SIZE, MICRO_BATCHES = 10, 16, 2, 8
LEARNING_RATE = 1e-2
# The largest relative difference that counts as equal: of losses and gradients, and in float64 of the norms too. Else
# rounding grows over 10 steps of a rate this high, and a norm shows it first. In 16 bits: 16 roundings of a product.
# fp8 is emulated. Where all else is in float64 the same values are rounded to fp8, in the same way; where the rest is bf16,
# whose last bit may move an operand by an eighth, only losses are held.
LIMITS = {
    "float64": 1e-9, "fp8 in float64": 1e-9, "float32": 1e-5, "bf16": 16 * 2**-8, "fp16": 16 * 2**-11, "fp8": 16 * 2**-8,
}  # fmt: skip
EXACT = [name for name in LIMITS if name.endswith("float64")]
TINY: dict[str, Any] = {
    "vocab_size": 64, "seq_len": SEQ_LEN, "dim": 32, "n_layers": 4, "n_heads": 8, "n_kv_heads": 4, "ffn_dim": 48,
}  # fmt: skip
ARTICLE = {"dim": 48, "n_heads": 8, "n_kv_heads": 4, "ffn_dim": 32, "embedding_dim": 24}  # article-1.1b, scaled down
UNEVEN = {"dim": 17, "head_dim": 4, "vocab_size": 68, "ffn_dim": 52}  # rows that shards cannot share evenly, if at all

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # changes of the network, of the training
    "untied": ({}, {}),
    "tied": ({"tied_head": True}, {}),
    "dropout": ({"dropout": 0.2, "attention_dropout": 0.2}, {}),
    "tied, dropout, z-loss": (UNEVEN | {"tied_head": True, "dropout": 0.2, "attention_dropout": 0.1}, {"z_loss": 1e-3}),
    "recompute full": ({"dropout": 0.1}, {"recompute": "full"}),
    "recompute selective": ({"tied_head": True}, {"recompute": "selective"}),
    "article-1.1b scaled down": (ARTICLE, {"z_loss": 1e-3}),
    "article-1.1b, dropout": (ARTICLE | {"dropout": 0.1, "attention_dropout": 0.1}, {}),
}
COMPILED = {  # layers in one graph each, which PyTorch's own operations then run: no compiler is needed
    "compiled": ({"dropout": 0.1}, {"compile": "on"}),
    "compiled, recompute full": ({}, {"compile": "on", "recompute": "full"}),
}

LAYOUTS: dict[int, list[dict[str, Any]]] = {
    2: [{"replicate": 2}, {"shard": 2}, {"shard": 2, "gather": "step"}, {"tensor": 2}, {"pipeline": 2}],
    3: [{"pipeline": 3}],
    4: [
        {"replicate": 4}, {"shard": 4}, {"tensor": 4}, {"pipeline": 4},
        {"replicate": 2, "shard": 2}, {"replicate": 2, "tensor": 2}, {"replicate": 2, "pipeline": 2},
        {"shard": 2, "tensor": 2}, {"shard": 2, "pipeline": 2}, {"tensor": 2, "pipeline": 2},
        {"replicate": 2, "shard": 2, "gather": "step"}, {"shard": 2, "tensor": 2, "gather": "step"},
    ],
    6: [{"replicate": 2, "pipeline": 3}, {"shard": 2, "pipeline": 3}, {"tensor": 2, "pipeline": 3}],
    8: [
        {"replicate": 8}, {"shard": 8}, {"replicate": 2, "shard": 2, "tensor": 2},
        {"replicate": 2, "shard": 2, "pipeline": 2}, {"replicate": 2, "tensor": 2, "pipeline": 2},
        {"shard": 2, "tensor": 2, "pipeline": 2}, {"tensor": 2, "pipeline": 4},
        {"shard": 2, "pipeline": 4}, {"tensor": 4, "pipeline": 2},
    ],
    16: [{"replicate": 2, "shard": 2, "tensor": 2, "pipeline": 2}],
}  # fmt: skip


class Found(NamedTuple):
    """What one training gave."""

    losses: list[float]
    norms: list[float]
    gradients: dict[str, Tensor]  # of step 1, whole and canonical
    weights: dict[str, Tensor]  # after the last step
    judged: list[float]  # of a batch after it: loss, right predictions


def batches(step: int, vocab_size: int) -> list[DeviceBatch]:
    """A step's micro-batches, the same whoever computes them; of unequal numbers of targets that count."""
    generator = torch.Generator().manual_seed(step)
    found = []
    for number in range(MICRO_BATCHES):
        ids = torch.randint(vocab_size, (MICRO_BATCH_SIZE, SEQ_LEN + 1), generator=generator)
        samples = torch.arange(number * MICRO_BATCH_SIZE, (number + 1) * MICRO_BATCH_SIZE)
        targets = ids[:, 1:].clone()
        targets[0, :number] = IGNORED
        found.append(DeviceBatch(ids[:, :-1], targets, samples))
    return found


def own_batches(step: int, config: LlamaConfig, train: TrainConfig, ranks: Ranks) -> list[DeviceBatch]:
    """Those of a step's micro-batches that this rank computes."""
    own = train.layout(ranks.data_size).of_rank(ranks.data_rank)
    return [batch for number, batch in enumerate(batches(step, config.vocab_size)) if number in own]


def start(case: str, dtype: str, ranks: Ranks) -> tuple[LlamaConfig, TrainConfig, TrainState]:
    """A case's network, recipe, and state with undefined weights."""
    network, changes = (CASES | COMPILED)[case]
    config = LlamaConfig(**(TINY | network))
    precision: Any = "fp8" if "fp8" in dtype else dtype if dtype in ("bf16", "fp16") else "fp32"
    train = TrainConfig(
        seq_len=SEQ_LEN, micro_batch_size=MICRO_BATCH_SIZE, tokens_per_step=SEQ_LEN * MICRO_BATCH_SIZE * MICRO_BATCHES,
        max_grad_norm=0.3, precision=precision, **changes,
    )  # fmt: skip
    masters = torch.float64 if dtype in EXACT else torch.float32
    with mock.patch.dict(FORMATS, {"fp8": FORMATS["fp32" if dtype in EXACT else "bf16"]}):
        return config, train, TrainState(config, train, torch.device("cpu"), masters, ranks)


def training(
    case: str, dtype: str, ranks: Ranks, nudge: float = 0.0, steps: int = STEPS, *, resumes: bool = False
) -> Found:
    """So many updates; gradients and weights are rank 0's. `nudge`: by which share the first weights are moved, of one
    process. `resumes`: the last update is a new state's, which was given all that a checkpoint holds."""
    torch.compiler.reset()  # a process compiles for one network, not for one after another
    config, train, state = start(case, dtype, ranks)
    state.init_weights(7)
    if nudge:
        generator = torch.Generator().manual_seed(1)
        for _, value in state.weights():
            value.mul_(1 + nudge * torch.randn(value.shape, generator=generator))
        state.network.refresh()
    gradients: dict[str, Tensor] = {}

    def clear() -> None:
        if not gradients:
            gradients.update(canonical_gradients(state))
        type(state.gradients).clear(state.gradients)

    vars(state.gradients)["clear"] = clear
    losses, norms = [], []
    for step in range(steps):
        mine = own_batches(step, config, train, ranks)
        if resumes and step == steps - 1:
            state = resumed(case, dtype, state)
        result = train_step(state, mine, train, step=step, lr=LEARNING_RATE)
        losses.append(result.loss.item())
        norms.append(result.grad_norm.item())
    judged = judge(state, batches(steps, config.vocab_size)[1])
    weights = {name: value.clone() for name, value in state.weights()}
    with state.full_model() as model:
        assert model is not None
        for name, value in weights.items():
            assert torch.equal(model.get_parameter(name).float(), value.float()), name
    return Found(losses, norms, gradients, weights, judged)


def resumed(case: str, dtype: str, state: TrainState) -> TrainState:
    """A new state with the weights, moments and counters of another one, which go through rank 0."""
    weights, moments = ({name: value.clone() for name, value in held} for held in (state.weights(), state.moments()))
    _, _, new = start(case, dtype, state.ranks)
    if state.ranks.is_first:
        new.optimizer.updates.copy_(state.optimizer.updates)
        new.loss_scale.factor.copy_(state.loss_scale.factor)
        new.loss_scale.good_updates.copy_(state.loss_scale.good_updates)
        new._read = weights, moments
    new.broadcast()
    return new


def judge(state: TrainState, batch: DeviceBatch) -> list[float]:
    """A batch's loss and right predictions, each data rank's share of them."""
    found = state.passes.token_losses(batch.tokens, batch.targets)
    state.reshard()
    sums = (
        torch.zeros(2, dtype=torch.float64) if found is None else torch.stack([part.double().sum() for part in found])
    )
    return (state.ranks.sum(sums) / state.ranks.data_size).tolist()


def emulate_fp8() -> None:
    """From now on operands are rounded to fp8 as on a GPU, on this process's CPU; what is in float64 multiplies so."""
    fp8.load_float8()
    from torchao.float8 import float8_ops

    def product(operation: Any, operands: Any, keywords: Any = None) -> Tensor:
        if operands[0]._orig_dtype != torch.float64:
            return torchao_s(operation, operands, keywords)  # in fp32, where the order of a sum shows
        left, right = (operand._data.double() / operand._scale.double() for operand in operands)
        return left @ right

    torchao_s = float8_ops.FLOAT8_OPS_TABLE[torch.ops.aten.mm.default]
    float8_ops.FLOAT8_OPS_TABLE[torch.ops.aten.mm.default] = product
    mock.patch.object(train_state, "check_precision").start()
    mock.patch.object(parallelize, "to_fp8", partial(fp8.to_fp8, emulate=True)).start()


def compile_without_compiler(network: PackedLlama) -> None:
    """`PackedLlama.compile` as far as the graphs."""
    for layer in network.layers:
        layer.compile(fullgraph=True, dynamic=False, backend="aot_eager")


def canonical_gradients(state: Any) -> dict[str, Tensor]:
    """Whole gradients by canonical name, on rank 0."""
    exact = [total.to(state.network.packed[0].master.dtype) for total in state.gradients.all()]
    return {name: value.clone() for name, value in state.full_tensors.gather(exact)} or {"": torch.zeros(())}


def difference(found: Found, wanted: Found) -> dict[str, float]:
    """Largest relative differences."""
    assert found.gradients.keys() == wanted.gradients.keys(), found.gradients.keys() ^ wanted.gradients.keys()
    return {
        "loss": max(abs(a - b) / abs(b) for a, b in zip(found.losses, wanted.losses, strict=True)),
        "grad_norm": max(abs(a - b) / abs(b) for a, b in zip(found.norms, wanted.norms, strict=True)),
        "gradient": max(
            ((found.gradients[name] - value).abs().max() / value.abs().max()).item()
            for name, value in wanted.gradients.items()
        ),
        "weight": max(
            ((found.weights[name] - value).abs().max() / value.abs().max()).item()
            for name, value in wanted.weights.items()
        ),
        "judged": max(abs(a - b) / max(abs(b), 1) for a, b in zip(found.judged, wanted.judged, strict=True)),
    }


@contextmanager
def joined(rank: int, size: int, port: int) -> Iterator[Ranks]:
    """This process as one of `size` ranks."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with join(ParallelConfig(replicate=size, timeout_seconds=120)) as ranks:
        assert ranks is not None
        ranks.connect(torch.device("cpu"))
        yield ranks
        ranks.stop_watching()


def lay_out_as(ranks: Ranks, parallel: ParallelConfig, rank: int) -> None:
    """Let the ranks work in that layout from now on."""
    ranks.parallel, ranks.mesh = parallel, RankMesh(parallel, rank)
    ranks.mesh.connect(torch.device("cpu"))


def launch(target: Callable[..., None], size: int, *given: Any) -> None:
    """`target(rank, size, port, *given)` in so many processes; raises RuntimeError when one fails."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    port = free_port()
    processes = [context.Process(target=target, args=(rank, size, port, *given)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    codes = [process.exitcode for process in processes]
    if codes != [0] * size:
        raise RuntimeError(f"{size} processes ended with {codes}")


def on_rank(
    rank: int, size: int, port: int, path: str, cases: list[str], dtypes: list[str], layouts: list[dict[str, Any]],
    steps: int,
) -> None:  # fmt: skip
    PackedLlama.compile = compile_without_compiler
    if any("fp8" in dtype for dtype in dtypes):
        emulate_fp8()
    rows = []
    with joined(rank, size, port) as ranks:
        for dtype in dtypes:
            wanted = {case: training(case, dtype, Ranks(), steps=steps) for case in cases} if rank == 0 else {}
            for sizes in layouts:
                lay_out_as(ranks, ParallelConfig(**sizes), rank)
                for case in cases:
                    found = training(case, dtype, ranks, steps=steps, resumes=True)
                    if rank == 0:
                        row = {"processes": size, "layout": ranks.parallel.words(), "case": case, "dtype": dtype}
                        clipped = min(wanted[case].norms) > 0.3
                        rows.append(row | difference(found, wanted[case]) | {"clipped": clipped})
    if rank == 0:
        Path(path).write_text(json.dumps(rows))


def compare(
    size: int, path: Path, cases: list[str], dtypes: list[str], layouts: list[dict[str, Any]] | None = None,
    steps: int = STEPS,
) -> list[dict[str, Any]]:  # fmt: skip
    """One launch of `size` processes: a row for each layout (default all of them), case and number format."""
    launch(on_rank, size, str(path), cases, dtypes, layouts or LAYOUTS[size], steps)
    return json.loads(path.read_text())


def is_equal(row: dict[str, Any]) -> bool:
    """Whether a layout gave the training of one process."""
    exact = ["grad_norm", "weight", "judged"]
    keys = ["loss"] + ["gradient"] * (row["dtype"] != "fp8") + exact * (row["dtype"] in EXACT)
    return max(row[key] for key in keys) <= LIMITS[row["dtype"]]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one row for each layout and number format, its largest differences over the cases."""
    lines = [
        "| processes | layout | format | cases | loss | grad_norm | gradients | equal within |",
        "|---:|---|---|---:|---:|---:|---:|---:|",
    ]
    groups: dict[tuple[int, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["processes"], row["layout"], row["dtype"]), []).append(row)
    for (processes, layout, dtype), group in groups.items():
        worst = [max(row[key] for row in group) for key in ("loss", "grad_norm", "gradient")]
        verdict = f"{'' if all(map(is_equal, group)) else 'NOT '}{LIMITS[dtype]:g}"
        words = " | ".join(f"{value:.1e}" for value in worst)
        lines.append(f"| {processes} | {layout} | {dtype} | {len(group)} | {words} | {verdict} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4, 8], choices=list(LAYOUTS))
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=list(CASES | COMPILED))
    parser.add_argument("--dtype", nargs="+", default=["float64", "float32"], choices=list(LIMITS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    started = time.perf_counter()
    for size in options.processes:
        rows += compare(size, Path(f"/tmp/layout_equality_{os.getpid()}.json"), options.case, options.dtype)
    print(table(rows))
    print(f"\n{len(rows)} trainings beside one process, {time.perf_counter() - started:.0f} s", file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    sys.exit(not all(map(is_equal, rows)))


if __name__ == "__main__":
    main()
