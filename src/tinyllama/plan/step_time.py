"""Seconds of one optimizer update, by part, in any layout of the four parallel.

A roofline in its simplest form: products at a share of the peak, everything between them at the speed of memory, and
the communication that the computation does not hide. What is a formula and what an assumption: docs/plan.md.
"""

from dataclasses import dataclass

from tinyllama.gpu_kinds import GpuKind
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.parallel.layout import ParallelConfig
from tinyllama.plan.activations import VALUE_BYTES, at_work_bytes_per_token, kept_bytes_per_token
from tinyllama.plan.communication import (
    FP32_BYTES,
    pipeline_seconds,
    replicate_seconds,
    shard_seconds,
    tensor_seconds,
)
from tinyllama.plan.memory import micro_batches_of_a_rank
from tinyllama.plan.stage_sizes import ONE_DEVICE, Stage, stages
from tinyllama.train.train_config import TrainConfig

TRAFFIC_PASSES = 3  # of element-wise kernels over what is kept; fitted to their time on an H100
FP8_CAST_BYTES = 10  # moved for each input and output gradient of a product, to scale and cast it; fitted alike
MEMORY_EFFICIENCY = 0.8  # assumed: share of the memory's bandwidth that element-wise kernels reach
LAUNCHES_PER_LAYER = 60  # assumed: kernels of one compiled layer, forward and backward
LAUNCH_SECONDS = 5e-6  # assumed: a kernel cannot take less
BACKWARD_SHARE = 2 / 3  # of the computation; communication hides behind it
ADAMW_VALUES_MOVED = 8  # read w g m v, write w m v, and read g once more for its norm; fp32 all


@dataclass(frozen=True)
class StepTime:
    """Seconds of one update by part; they follow one another, so their sum is the step."""

    matmul: float
    activation_traffic: float
    weight_traffic: float
    launches: float
    tensor_communication: float
    pipeline_communication: float
    bubble: float  # the slowest stage waits for the others to fill and to drain
    data_communication: float  # of replicate and shard: only what the computation does not hide
    optimizer: float

    @property
    def total(self) -> float:
        """Seconds of the whole step."""
        return sum(vars(self).values())


@dataclass(frozen=True)
class MicroBatchTime:
    """Seconds of one micro-batch's forward and backward pass on one stage."""

    matmul: float
    activation_traffic: float
    weight_traffic: float
    launches: float
    tensor_communication: float
    pipeline_communication: float

    @property
    def compute(self) -> float:
        """Seconds without communication."""
        return self.matmul + self.activation_traffic + self.weight_traffic + self.launches

    @property
    def total(self) -> float:
        """Seconds with it."""
        return sum(vars(self).values())


def step_time(model: LlamaConfig, gpu: GpuKind, train: TrainConfig, parallel: ParallelConfig = ONE_DEVICE) -> StepTime:
    """The step's parts on the slowest stage.

    Of m micro-batches on p stages of equal speed 1F1B takes m + p - 1 times one's passes: the bubble is
    (p - 1) / (m + p - 1) of the step (Narayanan et al. 2021). Of unequal stages it is the sum of all others' passes.
    """
    micro_batches = micro_batches_of_a_rank(train, parallel)
    every = [(stage, _micro_batch_time(stage, gpu, train, parallel)) for stage in stages(model, parallel)]
    slowest = max((time for _, time in every), key=lambda time: time.total)
    held = max(stage.held(parallel.shard) for stage, _ in every)
    copy_bytes = 0 if train.precision == "fp32" else VALUE_BYTES[train.precision].product
    return StepTime(
        **{name: micro_batches * seconds for name, seconds in vars(slowest).items()},
        bubble=sum(time.total for _, time in every) - slowest.total,
        data_communication=max(_exposed(stage, time, gpu, train, parallel) for stage, time in every),
        optimizer=held * (ADAMW_VALUES_MOVED * FP32_BYTES + copy_bytes) / (gpu.memory_bandwidth * MEMORY_EFFICIENCY),
    )


def _micro_batch_time(stage: Stage, gpu: GpuKind, train: TrainConfig, parallel: ParallelConfig) -> MicroBatchTime:
    n_tokens = train.micro_batch_size * train.seq_len
    bytes_per_second = gpu.memory_bandwidth * MEMORY_EFFICIENCY
    matmul = n_tokens * matmul_seconds_per_token(stage, gpu, train.seq_len, train.precision, train.recompute)
    activation_traffic = n_tokens * traffic_bytes_per_token(stage, train) / bytes_per_second
    weight_traffic = stage.parameters * weight_bytes_per_micro_batch(train.precision, parallel) / bytes_per_second
    shortest = 0.0 if gpu.is_cpu else stage.n_layers * LAUNCHES_PER_LAYER * LAUNCH_SECONDS
    return MicroBatchTime(
        matmul=matmul,
        activation_traffic=activation_traffic,
        weight_traffic=weight_traffic,
        launches=max(0.0, shortest - matmul - activation_traffic - weight_traffic),
        tensor_communication=tensor_seconds(stage, parallel, gpu, train),
        pipeline_communication=pipeline_seconds(stage.model, parallel, gpu, train),
    )


def matmul_seconds_per_token(
    stage: Stage, gpu: GpuKind, seq_len: int, precision: str, recompute: str = "none"
) -> float:
    """Seconds of a stage's products and attention on one rank, forward and backward, for one token. fp8: only the layers'
    products."""
    model = stage.model
    share = stage.n_layers / model.n_layers / stage.tensor
    in_layers = stage.n_layers * stage.layer_matrices
    attention = (model.flops_per_token("causal", seq_len) - 6 * model.n_matmul_parameters) * share
    outside = 6 * ((stage.table if stage.is_last else 0) + stage.projections)
    gate_up = model.parameter_counts()["feed_forward"] * share * 2 / 3
    again = {"none": (0, 0), "selective": (2 * gate_up, 0), "full": (2 * in_layers, attention / 3)}[recompute]
    short = "bf16" if precision == "fp8" else precision
    products = (6 * in_layers + again[0]) / gpu.peak(precision) + outside / gpu.peak(short)
    attending = (attention + again[1]) / gpu.peak(short)
    return products / gpu.matmul_efficiency + attending / gpu.attention_efficiency


def traffic_bytes_per_token(stage: Stage, train: TrainConfig) -> float:
    """Bytes that element-wise kernels move for one token on one rank, forward and backward."""
    shapes = (stage.model, train.seq_len, train.precision, "none", stage.tensor)
    moved = TRAFFIC_PASSES * stage.n_layers * kept_bytes_per_token(*shapes)
    if stage.is_last:
        moved += TRAFFIC_PASSES * at_work_bytes_per_token(*shapes)
        moved += TRAFFIC_PASSES * VALUE_BYTES[train.precision].product * stage.model.vocab_size / stage.tensor
    if train.precision == "fp8":
        moved += fp8_cast_bytes_per_token(stage.model) * stage.n_layers / stage.model.n_layers / stage.tensor
    return moved


def fp8_cast_bytes_per_token(model: LlamaConfig) -> int:
    """Bytes moved to make fp8 of the inputs and the output gradients of the layers' products, for one token."""
    D, F = model.dim, model.ffn_dim
    queries, keys = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
    inputs, gradients = D + queries + D + F, (queries + 2 * keys) + D + 2 * F + D
    return FP8_CAST_BYTES * model.n_layers * (inputs + gradients)


def weight_bytes_per_micro_batch(precision: str, parallel: ParallelConfig) -> int:
    """Bytes moved for one parameter in each micro-batch, beside the products themselves, c bytes a value in these.

    Replicated: the gradient is written (c), read (c) and added to the fp32 sum (8). Sharded: the weight is gathered twice
    (2 c), its gradient written, read (2 c) and reduced in fp32 (8).
    """
    c = VALUE_BYTES[precision].product
    return 4 * c + 8 if parallel.shard > 1 else 2 * c + 8


def _exposed(stage: Stage, time: MicroBatchTime, gpu: GpuKind, train: TrainConfig, parallel: ParallelConfig) -> float:
    """What is left of the transfers of weights and gradients beyond the computation that they run beside.

    Replicated gradients are only sent in the last micro-batch's backward pass. Sharded weights move in each micro-batch,
    their gradients' sums over copies with them; in a pipeline once a step.
    """
    copies = replicate_seconds(stage, parallel, gpu)
    if parallel.shard == 1:
        return max(copies.alone, copies.total - time.compute * BACKWARD_SHARE)
    shards = shard_seconds(stage, parallel, gpu, train.precision)
    if parallel.pipeline > 1:
        return shards.total + copies.total
    exposed = max(shards.alone + copies.alone, shards.total + copies.total - time.compute)
    return micro_batches_of_a_rank(train, parallel) * exposed
