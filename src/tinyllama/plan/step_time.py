"""Seconds of one optimizer update, by part, under data parallelism.

A roofline in its simplest form: products at a share of the peak, everything between them at the speed of memory, and
the communication that the computation does not hide. What is a formula and what an assumption: docs/plan.md.
"""

from dataclasses import dataclass

from tinyllama.gpu_kinds import GPUS_PER_HOST, GpuKind
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.plan.memory import FP32_BYTES, VALUE_BYTES, Parallel, activation_bytes_per_token

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
    communication: float  # only what the computation does not hide
    optimizer: float

    @property
    def total(self) -> float:
        """Seconds of the whole step."""
        return sum(vars(self).values())


def step_time(
    model: LlamaConfig,
    gpu: GpuKind,
    *,
    n_gpus: int,
    tokens_per_step: int,
    micro_batch_size: int,
    seq_len: int,
    precision: str,
    parallel: Parallel,
    recompute: str = "none",
) -> StepTime:
    """The step's parts. `tokens_per_step` is over all devices and is divided evenly among them."""
    tokens = tokens_per_step / n_gpus  # of one device
    micro_batches = tokens / (micro_batch_size * seq_len)
    matmul = tokens * matmul_seconds_per_token(model, gpu, seq_len, precision, recompute)
    bytes_per_second = gpu.memory_bandwidth * MEMORY_EFFICIENCY
    moved = TRAFFIC_PASSES * activation_bytes_per_token(model, seq_len, precision)
    moved += TRAFFIC_PASSES * VALUE_BYTES[precision].product * model.vocab_size
    moved += fp8_cast_bytes_per_token(model) if precision == "fp8" else 0
    activation_traffic = tokens * moved / bytes_per_second
    weights = model.n_parameters * weight_bytes_per_micro_batch(precision, parallel)
    weight_traffic = micro_batches * weights / bytes_per_second
    compute = matmul + activation_traffic + weight_traffic
    shortest = 0.0 if gpu.is_cpu else micro_batches * model.n_layers * LAUNCHES_PER_LAYER * LAUNCH_SECONDS
    held = model.n_parameters / (n_gpus if parallel == "shard" else 1)
    copy_bytes = 0 if precision == "fp32" else VALUE_BYTES[precision].product
    return StepTime(
        matmul=matmul,
        activation_traffic=activation_traffic,
        weight_traffic=weight_traffic,
        launches=max(0.0, shortest - compute),
        communication=_exposed_communication(
            model, gpu, n_gpus, micro_batches, max(compute, shortest), precision, parallel
        ),
        optimizer=held * (ADAMW_VALUES_MOVED * FP32_BYTES + copy_bytes) / bytes_per_second,
    )


def matmul_seconds_per_token(
    model: LlamaConfig, gpu: GpuKind, seq_len: int, precision: str, recompute: str = "none"
) -> float:
    """Seconds of all products and of attention, forward and backward, for one token. fp8: only the layers' products."""
    counts = model.parameter_counts()
    in_layers = counts["attention"] + counts["feed_forward"]
    attention = model.flops_per_token("causal", seq_len) - 6 * model.n_matmul_parameters
    outside = 6 * (model.n_matmul_parameters - in_layers)  # head, projections
    again = {  # a third of what is computed again is forward's
        "none": (0, 0),
        "selective": (2 * counts["feed_forward"] * 2 // 3, 0),  # gate and up
        "full": (2 * in_layers, attention / 3),
    }[recompute]
    short = "bf16" if precision == "fp8" else precision
    products = (6 * in_layers + again[0]) / gpu.peak(precision) + outside / gpu.peak(short)
    attending = (attention + again[1]) / gpu.peak(short)
    return products / gpu.matmul_efficiency + attending / gpu.attention_efficiency


def fp8_cast_bytes_per_token(model: LlamaConfig) -> int:
    """Bytes moved to make fp8 of the inputs and the output gradients of the layers' products, for one token."""
    D, F = model.dim, model.ffn_dim
    queries, keys = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
    inputs, gradients = D + queries + D + F, (queries + 2 * keys) + D + 2 * F + D
    return FP8_CAST_BYTES * model.n_layers * (inputs + gradients)


def weight_bytes_per_micro_batch(precision: str, parallel: Parallel) -> int:
    """Bytes moved for one parameter in each micro-batch, beside the products themselves, c bytes a value in these.

    Replicated: the gradient is written (c), read (c) and added to the fp32 sum (8). Sharded: the weight is gathered twice
    (2 c), its gradient written, read (2 c) and reduced in fp32 (8).
    """
    c = VALUE_BYTES[precision].product
    return 4 * c + 8 if parallel == "shard" else 2 * c + 8


def communication_seconds(
    model: LlamaConfig, gpu: GpuKind, *, n_gpus: int, micro_batches: float, precision: str, parallel: Parallel
) -> float:
    """Seconds of one step's transfers, by rings over the slowest link.

    A ring sends (n - 1) / n of the bytes from each device.
    `replicate`: one all-reduce of fp32 gradients a step, twice the bytes. `shard`: for each micro-batch the weights are
    gathered before the forward and the backward pass in the products' format, and fp32 gradients reduced and scattered.
    """
    if n_gpus == 1:
        return 0.0
    if parallel == "replicate":
        sent = 2 * FP32_BYTES * model.n_parameters
    else:
        sent = micro_batches * (2 * VALUE_BYTES[precision].product + FP32_BYTES) * model.n_parameters
    bandwidth = gpu.link_bandwidth if n_gpus <= GPUS_PER_HOST else gpu.network_bandwidth
    return sent * (n_gpus - 1) / n_gpus / bandwidth


def _exposed_communication(
    model: LlamaConfig,
    gpu: GpuKind,
    n_gpus: int,
    micro_batches: float,
    compute: float,
    precision: str,
    parallel: Parallel,
) -> float:
    """What is left of the transfers beyond the computation that they run beside.

    Replicated gradients are only sent in the last micro-batch's backward pass; sharded weights move throughout.
    """
    beside = compute if parallel == "shard" else compute / micro_batches * BACKWARD_SHARE
    seconds = communication_seconds(
        model, gpu, n_gpus=n_gpus, micro_batches=micro_batches, precision=precision, parallel=parallel
    )
    return max(0.0, seconds - beside)
