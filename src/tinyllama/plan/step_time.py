"""Seconds of one optimizer update, by part, under data parallelism.

A roofline in its simplest form: products at a share of the peak, everything between them at the speed of memory, and
the communication that the computation does not hide. What is a formula and what an assumption: docs/plan.md.
"""

from dataclasses import dataclass

from tinyllama.gpu_kinds import GPUS_PER_HOST, GpuKind
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.plan.memory import FP32_BYTES, Parallel, activation_bytes_per_token, compute_bytes

# A kept activation is written and read forward and read backward; its gradient is written and read.
TRAFFIC_PASSES = 5
MEMORY_EFFICIENCY = 0.8  # assumed: share of the memory's bandwidth that element-wise kernels reach
LAUNCHES_PER_LAYER = 60  # assumed: kernels of one compiled layer, forward and backward
LAUNCH_SECONDS = 5e-6  # assumed: a kernel cannot take less
BACKWARD_SHARE = 2 / 3  # of the computation; communication hides behind it
ADAMW_BYTES_PER_PARAMETER = 8 * FP32_BYTES  # read w g m v, write w m v, and read g once more for its norm


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
) -> StepTime:
    """The step's parts. `tokens_per_step` is over all devices and is divided evenly among them."""
    tokens = tokens_per_step / n_gpus  # of one device
    micro_batches = tokens / (micro_batch_size * seq_len)
    flops = tokens * model.flops_per_token("causal", seq_len)
    matmul = flops / (gpu.peak_flops[precision] * gpu.matmul_efficiency)
    bytes_per_second = gpu.memory_bandwidth * MEMORY_EFFICIENCY
    kept = activation_bytes_per_token(model, seq_len, precision) + FP32_BYTES * model.vocab_size
    activation_traffic = tokens * TRAFFIC_PASSES * kept / bytes_per_second
    weights = model.n_parameters * weight_bytes_per_micro_batch(precision, parallel)
    weight_traffic = micro_batches * weights / bytes_per_second
    compute = matmul + activation_traffic + weight_traffic
    shortest = 0.0 if gpu.is_cpu else micro_batches * model.n_layers * LAUNCHES_PER_LAYER * LAUNCH_SECONDS
    held = model.n_parameters / (n_gpus if parallel == "shard" else 1)
    return StepTime(
        matmul=matmul,
        activation_traffic=activation_traffic,
        weight_traffic=weight_traffic,
        launches=max(0.0, shortest - compute),
        communication=_exposed_communication(
            model, gpu, n_gpus, micro_batches, max(compute, shortest), precision, parallel
        ),
        optimizer=held * ADAMW_BYTES_PER_PARAMETER / bytes_per_second,
    )


def weight_bytes_per_micro_batch(precision: str, parallel: Parallel) -> int:
    """Bytes moved for one parameter in each micro-batch, beside the products themselves, c bytes a value in these.

    Replicated: the weight is cast (4 + c), its gradient written (c), cast (c + 4) and added to the sum (12); nothing is
    cast in fp32. Sharded: gathered twice (2 c), its gradient written, read (2 c) and reduced in fp32 (8).
    """
    c = compute_bytes(precision)
    if parallel == "shard":
        return 4 * c + 8
    return 16 if precision == "fp32" else 3 * c + 20


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
        sent = micro_batches * (2 * compute_bytes(precision) + FP32_BYTES) * model.n_parameters
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
