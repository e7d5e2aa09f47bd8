"""Seconds of one optimizer step, by category, in any layout of the four parallel axes.

A simple roofline model: matmuls at a share of the peak, all other kernels at the speed of memory, and the communication that
does not overlap with computation. docs/plan.md says which numbers are measured and which assumed.
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
from tinyllama.planning.memory import micro_batches_per_rank
from tinyllama.planning.stage_sizes import ONE_DEVICE, Stage, stages
from tinyllama.train.train_config import UpdateConfig

TRAFFIC_PASSES = 3  # of element-wise kernels over saved activations; fitted to their time on an H100
FP8_CAST_BYTES = 10  # moved to scale and cast each input and output gradient of a matmul; fitted likewise
MEMORY_EFFICIENCY = 0.8  # assumed: share of the memory bandwidth that element-wise kernels reach
GAP_SECONDS_PER_LAYER = 120e-6  # between the kernels of one layer, forward and backward; measured on an H100
# Host time to launch the kernels of a layer and of an update; it matters only where the device would be faster. Fitted to
# three small settings on one host with an H100; another host may be faster.
HOST_SECONDS_PER_LAYER = 2.8e-3
HOST_SECONDS_PER_STEP = 11e-3
HOST_SHARE = {"none": 1.0, "selective": 1.1, "full": 4 / 3}
ATTENTION_HALF_TOKENS = 950  # sequence length at which attention reaches half its maximum; measured on an H100
EFFICIENCY_TOKENS = 2048  # the sequence length of a device's attention_efficiency
FP16_SHARE = 0.95  # of the speed of bf16 matmuls, because fp16 draws more power; measured on an H100
BACKWARD_SHARE = 2 / 3  # of the computation; communication overlaps with it
# Share of the time of overlapped transfers that the computation loses, because collectives use multiprocessors and memory
# bandwidth. Fitted to layers that two H200 gather for each pass.
OVERLAP_COST = 0.6
ADAMW_VALUES_MOVED = 8  # read w g m v, write w m v, and read g again for its norm; all fp32


@dataclass(frozen=True)
class MicroBatchTime:
    """Seconds of one micro-batch's forward and backward pass on one stage, by category; their sum is the whole."""

    matmul: float
    activation_traffic: float
    weight_traffic: float
    gaps: float  # idle time between kernels and while waiting for the host
    tensor_communication: float
    pipeline_communication: float

    @property
    def compute(self) -> float:
        """Seconds without communication."""
        return self.matmul + self.activation_traffic + self.weight_traffic + self.gaps

    @property
    def total(self) -> float:
        """Seconds of all categories."""
        return sum(vars(self).values())


@dataclass(frozen=True)
class StepTime(MicroBatchTime):
    """Seconds of one step: all micro-batches on the slowest stage, and what happens once per step."""

    bubble: float  # the slowest stage waits while the pipeline fills and drains
    data_communication: float  # of replicate and shard: only what does not overlap with computation
    optimizer: float


def step_time(model: LlamaConfig, gpu: GpuKind, train: UpdateConfig, parallel: ParallelConfig = ONE_DEVICE) -> StepTime:
    """The step's time on the slowest stage, by category.

    With m micro-batches on p equal stages, 1F1B takes m + p - 1 times the passes of one micro-batch: the bubble is
    (p - 1) / (m + p - 1) of the step (Narayanan et al. 2021). With unequal stages it is the sum of all others' passes.
    """
    micro_batches = micro_batches_per_rank(train, parallel)
    per_stage = micro_batch_times(model, gpu, train, parallel)
    slowest = max((time for _, time in per_stage), key=lambda time: time.total)
    return StepTime(
        **{name: micro_batches * seconds for name, seconds in vars(slowest).items()},
        bubble=sum(time.total for _, time in per_stage) - slowest.total,
        data_communication=max(_exposed_seconds(stage, time, gpu, train, parallel) for stage, time in per_stage),
        optimizer=_optimizer_seconds(model, gpu, train, parallel),
    )


def micro_batch_times(
    model: LlamaConfig, gpu: GpuKind, train: UpdateConfig, parallel: ParallelConfig
) -> list[tuple[Stage, MicroBatchTime]]:
    """Times of one micro-batch on each stage, in order."""
    optimizer = _optimizer_seconds(model, gpu, train, parallel) / micro_batches_per_rank(train, parallel)
    every_stage = stages(model, parallel, train.recompute)
    return [(stage, _micro_batch_time(stage, gpu, train, parallel, optimizer)) for stage in every_stage]


def _optimizer_seconds(model: LlamaConfig, gpu: GpuKind, train: UpdateConfig, parallel: ParallelConfig) -> float:
    """Seconds of an update on the stage with most parameters."""
    held = max(stage.held(parallel.shard) for stage in stages(model, parallel, train.recompute))
    copy_bytes = 0 if train.precision == "fp32" else VALUE_BYTES[train.precision].compute
    return held * (ADAMW_VALUES_MOVED * FP32_BYTES + copy_bytes) / (gpu.memory_bandwidth * MEMORY_EFFICIENCY)


def _micro_batch_time(
    stage: Stage, gpu: GpuKind, train: UpdateConfig, parallel: ParallelConfig, optimizer: float
) -> MicroBatchTime:
    """`optimizer`: this micro-batch's share of the update's seconds, in which the host can also run ahead."""
    n_tokens = train.micro_batch_size * train.seq_len
    bytes_per_second = gpu.memory_bandwidth * MEMORY_EFFICIENCY
    is_compiled = train.compile == "on" or (train.compile == "auto" and not gpu.is_cpu)
    activations = Activations(stage.model, train, stage.tensor, is_compiled, not gpu.is_cpu)
    matmul = n_tokens * matmul_seconds_per_token(stage, gpu, activations)
    activation_traffic = n_tokens * traffic_bytes_per_token(stage, activations) / bytes_per_second
    weight_traffic = stage.parameters * weight_bytes_per_micro_batch(train.precision, parallel) / bytes_per_second
    gaps = 0.0 if gpu.is_cpu else stage.n_layers * GAP_SECONDS_PER_LAYER
    host = stage.n_layers * HOST_SECONDS_PER_LAYER * HOST_SHARE[train.recompute]
    host += HOST_SECONDS_PER_STEP / micro_batches_per_rank(train, parallel)
    busy = matmul + activation_traffic + weight_traffic
    return MicroBatchTime(
        matmul=matmul,
        activation_traffic=activation_traffic,
        weight_traffic=weight_traffic,
        gaps=gaps if gpu.is_cpu else max(gaps, host - busy - optimizer),
        tensor_communication=tensor_seconds(stage, parallel, gpu, train),
        pipeline_communication=pipeline_seconds(stage.model, parallel, gpu, train),
    )


def matmul_seconds_per_token(stage: Stage, gpu: GpuKind, activations: Activations) -> float:
    """Seconds of a stage's matmuls and attention on one rank, forward and backward, per token. fp8: only the layers'
    matmuls. Without a fused kernel, attention is matmuls over the whole score matrix."""
    model, train = stage.model, activations.train
    share = stage.n_layers / model.n_layers / stage.tensor
    in_layers = stage.n_layers * stage.layer_matrices
    outside = 6 * ((stage.table if stage.is_last else 0) + stage.projections)
    convention = "palm" if activations.writes_scores else "causal"
    attention = (model.flops_per_token(convention, train.seq_len) - 6 * model.n_matmul_parameters) * share
    gate_up = model.parameter_counts()["feed_forward"] * share * 2 / 3
    recomputed = {"none": (0, 0), "selective": (2 * gate_up, 0), "full": (2 * in_layers, attention / 3)}[
        train.recompute
    ]
    low_precision = "bf16" if train.precision == "fp8" else train.precision
    reached = gpu.matmul_efficiency * (FP16_SHARE if train.precision == "fp16" else 1)
    matmuls = (6 * in_layers + recomputed[0]) / gpu.peak(train.precision) + outside / gpu.peak(low_precision)
    attended = (attention + recomputed[1]) / gpu.peak(low_precision)
    return matmuls / reached + attended / (
        reached if activations.writes_scores else attention_efficiency(gpu, train.seq_len)
    )


def attention_efficiency(gpu: GpuKind, seq_len: int) -> float:
    """Share of the peak that fused attention reaches; it grows with the sequence as T / (T + 950)."""
    T, T0 = seq_len, EFFICIENCY_TOKENS
    return gpu.attention_efficiency * T / (T + ATTENTION_HALF_TOKENS) * (T0 + ATTENTION_HALF_TOKENS) / T0


def traffic_bytes_per_token(stage: Stage, activations: Activations) -> float:
    """Bytes that element-wise kernels move per token on one rank: passes over saved activations, one more over recomputed
    ones, and passes over the logits."""
    whole = sum(activations.layer_parts().values())
    moved = stage.n_layers * (TRAFFIC_PASSES * whole + (whole - activations.saved()))
    if stage.is_last:
        logits = activations.value_bytes.compute * stage.model.vocab_size / stage.tensor
        moved += TRAFFIC_PASSES * (activations.after_layers() + logits)
    if activations.train.precision == "fp8":
        moved += fp8_cast_bytes_per_token(stage.model, stage.tensor) * stage.n_layers / stage.model.n_layers
    return moved


def fp8_cast_bytes_per_token(model: LlamaConfig, tensor: int = 1) -> int:
    """Bytes moved to cast the inputs and the output gradients of the layers' matmuls to fp8, per token.

    With a tensor axis, values between a pair of matmuls are sliced, and the residual stream is gathered.
    """
    queries, keys = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
    sliced_inputs, sliced_gradients = queries + model.ffn_dim, (queries + 2 * keys) + 2 * model.ffn_dim
    return FP8_CAST_BYTES * model.n_layers * ((sliced_inputs + sliced_gradients) // tensor + 4 * model.dim)


def weight_bytes_per_micro_batch(precision: str, parallel: ParallelConfig) -> int:
    """Bytes moved per parameter and micro-batch outside the matmuls; c bytes per value in the matmuls.

    The gradient is written (c), read (c) and added to the fp32 sum (8). Where shards are gathered for each pass: the weight
    is copied out of the gather buffer twice (4 c), its gradient is written (c) and cast to fp32 to be sent (c + 4), the
    shard's gradient is added to its sum (12), and the shard's weight is cast to 16 bits twice (8 + 2 c).
    """
    c, n = VALUE_BYTES[precision].compute, parallel.shard
    if n > 1 and not parallel.gathers_once:
        return 6 * c + 4 + (20 + 2 * c) // n
    return 2 * c + 8


def _exposed_seconds(
    stage: Stage, time: MicroBatchTime, gpu: GpuKind, train: UpdateConfig, parallel: ParallelConfig
) -> float:
    """Seconds that transfers of weights and gradients add to the computation.

    Gradients are reduced over replicas only in the last micro-batch's backward pass. Sharded layers are transferred in each
    micro-batch, or gathered in the first one's forward pass and reduced in the last one's backward pass; embedding and head
    are transferred once per step, without overlap. In a pipeline all transfers come before the first micro-batch and after
    the last one.
    """
    forward, backward = time.compute * (1 - BACKWARD_SHARE), time.compute * BACKWARD_SHARE
    replicas = replicate_seconds(stage, parallel, gpu)
    if parallel.shard == 1:
        return _added_seconds(replicas.total, backward, replicas.exposed)
    shards = shard_seconds(stage, parallel, gpu, train.precision)
    if parallel.pipeline > 1:
        return shards.layers + shards.tables + replicas.total
    replicated_tables = replicas.total * stage.tables / stage.parameters
    exposed, replicated = shards.tables + replicated_tables, replicas.total - replicated_tables
    if parallel.gathers_once:
        return (
            exposed + _added_seconds(shards.gathers, forward) + _added_seconds(shards.reductions + replicated, backward)
        )
    more = micro_batches_per_rank(train, parallel) - 1
    exposed += more * _added_seconds(shards.layers, time.compute)
    return exposed + _added_seconds(shards.layers + replicated, time.compute)


def _added_seconds(transfers: float, computation: float, exposed: float = 0.0) -> float:
    """Seconds that transfers add to a computation; all but `exposed` seconds of them can overlap with it."""
    waited = max(exposed, transfers - computation)
    return waited + OVERLAP_COST * (transfers - waited)
