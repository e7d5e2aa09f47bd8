"""Seconds of one optimizer update, by component, in any layout of the four parallel axes.

A roofline in its simplest form: products at a share of the peak, everything between them at the speed of memory, and
the communication that the computation does not hide. What is a formula and what an assumption: docs/plan.md.
"""

from dataclasses import dataclass

from tinyllama.devices import GpuKind
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.planning.activations import VALUE_BYTES, Activations
from tinyllama.planning.communication import (
    FP32_BYTES,
    pipeline_seconds,
    replicate_seconds,
    shard_seconds,
    tensor_seconds,
)
from tinyllama.planning.memory import micro_batches_of_a_rank
from tinyllama.planning.stage_sizes import ONE_DEVICE, Stage, stages
from tinyllama.train.train_config import UpdateConfig

TRAFFIC_PASSES = 3  # of element-wise kernels over what is kept; fitted to their time on an H100
FP8_CAST_BYTES = 10  # moved for each input and output gradient of a product, to scale and cast it; fitted alike
MEMORY_EFFICIENCY = 0.8  # assumed: share of the memory's bandwidth that element-wise kernels reach
GAP_SECONDS_PER_LAYER = 120e-6  # between the kernels of one layer, forward and backward; measured on an H100
# What the host needs to start a layer's kernels, and an update's; it runs ahead of the device where that takes longer.
# Fitted to three small settings beside an H100; another host may be faster.
HOST_SECONDS_PER_LAYER = 2.8e-3
HOST_SECONDS_PER_STEP = 11e-3
HOST_SHARE = {"none": 1.0, "selective": 1.1, "full": 4 / 3}
ATTENTION_HALF_TOKENS = 950  # sequences so long reach half of what attention reaches at most; measured on an H100
EFFICIENCY_TOKENS = 2048  # the length that a device's attention_efficiency is for
FP16_SHARE = 0.95  # of the speed of bf16 products: more power for longer significands; measured on an H100
BACKWARD_SHARE = 2 / 3  # of the computation; communication hides behind it
# Of the time of hidden transfers, what the computation beside them loses: collectives take multiprocessors and memory.
# Fitted to layers that two H200 gather for each pass.
BESIDE_SHARE = 0.6
ADAMW_VALUES_MOVED = 8  # read w g m v, write w m v, and read g once more for its norm; fp32 all


@dataclass(frozen=True)
class MicroBatchTime:
    """Seconds of one micro-batch's forward and backward pass on one stage, by part; they follow one another."""

    matmul: float
    activation_traffic: float
    weight_traffic: float
    gaps: float  # between kernels, and where the device waits for the host
    tensor_communication: float
    pipeline_communication: float

    @property
    def compute(self) -> float:
        """Seconds without communication."""
        return self.matmul + self.activation_traffic + self.weight_traffic + self.gaps

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return sum(vars(self).values())


@dataclass(frozen=True)
class StepTime(MicroBatchTime):
    """Seconds of one update: those of all micro-batches on the slowest stage, and what comes once a step."""

    bubble: float  # the slowest stage waits for the others to fill and to drain
    data_communication: float  # of replicate and shard: only what the computation does not hide
    optimizer: float


def step_time(model: LlamaConfig, gpu: GpuKind, train: UpdateConfig, parallel: ParallelConfig = ONE_DEVICE) -> StepTime:
    """The step's parts on the slowest stage.

    Of m micro-batches on p stages of equal speed 1F1B takes m + p - 1 times one's passes: the bubble is
    (p - 1) / (m + p - 1) of the step (Narayanan et al. 2021). Of unequal stages it is the sum of all others' passes.
    """
    micro_batches = micro_batches_of_a_rank(train, parallel)
    every = micro_batch_times(model, gpu, train, parallel)
    slowest = max((time for _, time in every), key=lambda time: time.total)
    return StepTime(
        **{name: micro_batches * seconds for name, seconds in vars(slowest).items()},
        bubble=sum(time.total for _, time in every) - slowest.total,
        data_communication=max(_exposed(stage, time, gpu, train, parallel) for stage, time in every),
        optimizer=_optimizer_seconds(model, gpu, train, parallel),
    )


def micro_batch_times(
    model: LlamaConfig, gpu: GpuKind, train: UpdateConfig, parallel: ParallelConfig
) -> list[tuple[Stage, MicroBatchTime]]:
    """What one micro-batch takes on each stage, in order."""
    optimizer = _optimizer_seconds(model, gpu, train, parallel) / micro_batches_of_a_rank(train, parallel)
    of_stages = stages(model, parallel, train.recompute)
    return [(stage, _micro_batch_time(stage, gpu, train, parallel, optimizer)) for stage in of_stages]


def _optimizer_seconds(model: LlamaConfig, gpu: GpuKind, train: UpdateConfig, parallel: ParallelConfig) -> float:
    """An update of the stage that holds most."""
    held = max(stage.held(parallel.shard) for stage in stages(model, parallel, train.recompute))
    copy_bytes = 0 if train.precision == "fp32" else VALUE_BYTES[train.precision].product
    return held * (ADAMW_VALUES_MOVED * FP32_BYTES + copy_bytes) / (gpu.memory_bandwidth * MEMORY_EFFICIENCY)


def _micro_batch_time(
    stage: Stage, gpu: GpuKind, train: UpdateConfig, parallel: ParallelConfig, optimizer: float
) -> MicroBatchTime:
    """`optimizer`: this micro-batch's share of the update's seconds, in which the host runs ahead too."""
    n_tokens = train.micro_batch_size * train.seq_len
    bytes_per_second = gpu.memory_bandwidth * MEMORY_EFFICIENCY
    is_compiled = train.compile == "on" or (train.compile == "auto" and not gpu.is_cpu)
    of_token = Activations(stage.model, train, stage.tensor, is_compiled, not gpu.is_cpu)
    matmul = n_tokens * matmul_seconds_per_token(stage, gpu, of_token)
    activation_traffic = n_tokens * traffic_bytes_per_token(stage, of_token) / bytes_per_second
    weight_traffic = stage.parameters * weight_bytes_per_micro_batch(train.precision, parallel) / bytes_per_second
    gaps = 0.0 if gpu.is_cpu else stage.n_layers * GAP_SECONDS_PER_LAYER
    host = stage.n_layers * HOST_SECONDS_PER_LAYER * HOST_SHARE[train.recompute]
    host += HOST_SECONDS_PER_STEP / micro_batches_of_a_rank(train, parallel)
    busy = matmul + activation_traffic + weight_traffic
    return MicroBatchTime(
        matmul=matmul,
        activation_traffic=activation_traffic,
        weight_traffic=weight_traffic,
        gaps=gaps if gpu.is_cpu else max(gaps, host - busy - optimizer),
        tensor_communication=tensor_seconds(stage, parallel, gpu, train),
        pipeline_communication=pipeline_seconds(stage.model, parallel, gpu, train),
    )


def matmul_seconds_per_token(stage: Stage, gpu: GpuKind, of_token: Activations) -> float:
    """Seconds of a stage's products and attention on one rank, forward and backward, for one token. fp8: only the layers'
    products. Where scores are written, attention is made of products, of the whole score matrix."""
    model, train = stage.model, of_token.train
    share = stage.n_layers / model.n_layers / stage.tensor
    in_layers = stage.n_layers * stage.layer_matrices
    outside = 6 * ((stage.table if stage.is_last else 0) + stage.projections)
    convention = "palm" if of_token.writes_scores else "causal"
    attention = (model.flops_per_token(convention, train.seq_len) - 6 * model.n_matmul_parameters) * share
    gate_up = model.parameter_counts()["feed_forward"] * share * 2 / 3
    again = {"none": (0, 0), "selective": (2 * gate_up, 0), "full": (2 * in_layers, attention / 3)}[train.recompute]
    short = "bf16" if train.precision == "fp8" else train.precision
    reached = gpu.matmul_efficiency * (FP16_SHARE if train.precision == "fp16" else 1)
    products = (6 * in_layers + again[0]) / gpu.peak(train.precision) + outside / gpu.peak(short)
    attended = (attention + again[1]) / gpu.peak(short)
    return products / reached + attended / (
        reached if of_token.writes_scores else attention_efficiency(gpu, train.seq_len)
    )


def attention_efficiency(gpu: GpuKind, seq_len: int) -> float:
    """Share of the peak that fused attention reaches, which grows with the sequence: T / (T + 950) of the most."""
    T, T0 = seq_len, EFFICIENCY_TOKENS
    return gpu.attention_efficiency * T / (T + ATTENTION_HALF_TOKENS) * (T0 + ATTENTION_HALF_TOKENS) / T0


def traffic_bytes_per_token(stage: Stage, of_token: Activations) -> float:
    """Bytes that element-wise kernels move for one token on one rank: passes over what the layers keep, one more over what
    they compute again, and over the logits."""
    whole = sum(of_token.layer_parts().values())
    moved = stage.n_layers * (TRAFFIC_PASSES * whole + (whole - of_token.kept()))
    if stage.is_last:
        logits = of_token.value_bytes.product * stage.model.vocab_size / stage.tensor
        moved += TRAFFIC_PASSES * (of_token.after_layers() + logits)
    if of_token.train.precision == "fp8":
        moved += fp8_cast_bytes_per_token(stage.model, stage.tensor) * stage.n_layers / stage.model.n_layers
    return moved


def fp8_cast_bytes_per_token(model: LlamaConfig, tensor: int = 1) -> int:
    """Bytes moved to make fp8 of the inputs and the output gradients of the layers' products, for one token.

    On a rank of `tensor` that slice a layer: what stands between a pair of products is cut, the stream is gathered whole.
    """
    queries, keys = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
    cut_inputs, cut_gradients = queries + model.ffn_dim, (queries + 2 * keys) + 2 * model.ffn_dim
    return FP8_CAST_BYTES * model.n_layers * ((cut_inputs + cut_gradients) // tensor + 4 * model.dim)


def weight_bytes_per_micro_batch(precision: str, parallel: ParallelConfig) -> int:
    """Bytes moved for one parameter in each micro-batch, beside the products themselves, c bytes a value in these.

    The gradient is written (c), read (c) and added to the fp32 sum (8). Where shards are gathered for each pass: the weight
    is copied out of what was gathered twice (4 c), its gradient written (c), made fp32 to be sent (c + 4), and the shard's
    is added to its sum (12); and the shard's weight is made short twice (8 + 2 c).
    """
    c, n = VALUE_BYTES[precision].product, parallel.shard
    if n > 1 and not parallel.gathers_once:
        return 6 * c + 4 + (20 + 2 * c) // n
    return 2 * c + 8


def _exposed(stage: Stage, time: MicroBatchTime, gpu: GpuKind, train: UpdateConfig, parallel: ParallelConfig) -> float:
    """What is left of the transfers of weights and gradients beyond the computation that they run beside, and what they take
    of it.

    Gradients are only summed over copies in the last micro-batch's backward pass. Sharded layers move in each micro-batch,
    or are gathered in the first one's forward pass and summed in the last one's backward pass; embedding and head move once
    a step, beside nothing. In a pipeline all of it comes before the first micro-batch and after the last one.
    """
    forward, backward = time.compute * (1 - BACKWARD_SHARE), time.compute * BACKWARD_SHARE
    copies = replicate_seconds(stage, parallel, gpu)
    if parallel.shard == 1:
        return _beside(copies.total, backward, copies.alone)
    shards = shard_seconds(stage, parallel, gpu, train.precision)
    if parallel.pipeline > 1:
        return shards.layers + shards.tables + copies.total
    copied_tables = copies.total * stage.tables / stage.parameters
    alone, copied = shards.tables + copied_tables, copies.total - copied_tables
    if parallel.gathers_once:
        return alone + _beside(shards.gathers, forward) + _beside(shards.sums + copied, backward)
    more = micro_batches_of_a_rank(train, parallel) - 1
    return alone + more * _beside(shards.layers, time.compute) + _beside(shards.layers + copied, time.compute)


def _beside(transfers: float, computation: float, alone: float = 0.0) -> float:
    """Seconds that transfers add to a computation that they run beside, all but `alone` of them."""
    seen = max(alone, transfers - computation)
    return seen + BESIDE_SHARE * (transfers - seen)
