"""Settings of pre-training: one class for each part of the code that reads them, all of them together in `TrainConfig`.

They stand here and not beside their readers because reading a recipe must not load torch.
"""

from typing import Literal, Self

from pydantic import model_validator

from tinyllama.config import Config, setting
from tinyllama.model.llama_config import LlamaConfig
from tinyllama.parallel.layout import Layout, ParallelConfig

FP8_MULTIPLE = 16  # of every width of an fp8 matmul, its rows too: the backward pass sums over them


class BatchConfig(Config):
    """How many steps, and which micro-batches make a step."""

    tokens: int = setting(3_000_000_000_000, "Training tokens; sets the number of steps.", ge=1)
    steps: int = setting(0, "Optimizer steps; if set, overrides tokens.", ge=0)
    tokens_per_step: int = setting(2_097_152, "Tokens of one optimizer step, over all micro-batches and devices.", ge=1)
    micro_batch_size: int = setting(16, "Sequences per micro-batch on one device.", ge=1)
    seq_len: int = setting(2048, "Tokens of a sequence.", ge=2)
    deterministic_reduction: bool = setting(
        False, "Sum in one order for every number of ranks, with deterministic kernels: the same bits, slower."
    )
    reduction_lanes: int = setting(
        8,
        "With deterministic_reduction: equal groups of a step's micro-batches, each summed alone and then joined in pairs; "
        "a power of two that the number of ranks divides.",
        ge=1,
    )
    seed: int = setting(42, "Seed of initialisation, data order and dropout.")

    @model_validator(mode="after")
    def _portions_fit(self) -> Self:
        micro_batch_tokens = self.micro_batch_size * self.seq_len
        if self.tokens_per_step % micro_batch_tokens:
            below = max(1, self.tokens_per_step // micro_batch_tokens) * micro_batch_tokens
            raise ValueError(
                f"tokens_per_step: {self.tokens_per_step} is not a multiple of micro_batch_size x seq_len = "
                f"{self.micro_batch_size} x {self.seq_len} = {micro_batch_tokens}; {below} would be"
            )
        self.layout(1)
        return self

    def layout(self, ranks: int) -> Layout:
        """How so many ranks share a step. Raises ValueError, with numbers that would do, when they cannot evenly."""
        return Layout(ranks, self.micro_batches_per_step, self.reduction_lanes if self.deterministic_reduction else 0)

    @property
    def total_steps(self) -> int:
        """Updates of the whole run: `steps`, or enough for `tokens`."""
        return self.steps or -(-self.tokens // self.tokens_per_step)

    @property
    def micro_batches_per_step(self) -> int:
        """Micro-batches that make one update, over all ranks."""
        return self.tokens_per_step // (self.micro_batch_size * self.seq_len)


class PrecisionConfig(Config):
    """Device, number formats, and what is compiled or recomputed."""

    precision: Literal["fp32", "bf16", "fp16", "fp8"] = setting(
        "bf16", "Number format of matrix products; weights, their updates, norms and loss stay fp32."
    )
    recompute: Literal["none", "selective", "full"] = setting(
        "none",
        "What the backward pass recomputes to save memory: selective: inside the feed-forward; full: whole layers.",
        changes_result=False,
    )
    device: Literal["auto", "cpu", "cuda"] = setting(
        "auto", "Where to compute; auto: a GPU if there is one.", changes_result=False
    )
    compile: Literal["auto", "on", "off"] = setting(
        "auto", "torch.compile of each layer; auto: on a GPU.", changes_result=False
    )


class OptimizerConfig(Config):
    """The update rule."""

    optimizer: Literal["adamw"] = setting("adamw", "Update rule.")
    optimizer_state: Literal["fp32", "bf16"] = setting(
        "fp32", "Number format of AdamW's moments; bf16 saves 4 bytes per weight."
    )
    beta1: float = setting(0.9, "AdamW's decay of the first moment.", ge=0, lt=1)
    beta2: float = setting(0.95, "AdamW's decay of the second moment.", ge=0, lt=1)
    adam_eps: float = setting(1e-8, "AdamW's epsilon.", gt=0)
    weight_decay: float = setting(0.1, "Decoupled decay of matrices; not of norms and embeddings.", ge=0)
    max_grad_norm: float = setting(1.0, "Clip gradients to this global norm; 0: no clipping.", ge=0)
    z_loss: float = setting(0.0, "Weight of the squared log-partition term.", ge=0)


class UpdateConfig(OptimizerConfig, PrecisionConfig, BatchConfig):
    """All that an update's computation depends on: what the training state, `bench` and `plan` read."""


class ScheduleConfig(Config):
    """The learning rate."""

    lr_schedule: Literal["cosine", "wsd"] = setting("cosine", "Cosine, or warmup-stable-decay.")
    peak_lr: float = setting(4e-4, "Learning rate at the end of warmup.", gt=0)
    min_lr: float = setting(4e-5, "Learning rate at the end of the schedule, before cooldown.", ge=0)
    warmup_steps: int = setting(
        2000, "Linear warm-up from 0; a run shorter than this uses a tenth of its steps, with a warning.", ge=0
    )
    cooldown_steps: int = setting(0, "Steps of the final linear decay to 0.", ge=0)

    @model_validator(mode="after")
    def _min_is_below_peak(self) -> Self:
        if self.min_lr > self.peak_lr:
            raise ValueError(f"min_lr: {self.min_lr} is above peak_lr {self.peak_lr}")
        return self


class SaveConfig(Config):
    """Checkpoints."""

    save_every_steps: int = setting(
        1000, "Steps between checkpoints; the last step has one too.", changes_result=False, ge=1
    )
    keep_checkpoints: int = setting(2, "Number of the most recent checkpoints to keep.", changes_result=False, ge=1)
    keep_every_steps: int = setting(
        0, "Keep the checkpoint of every N-th step permanently; 0: none.", changes_result=False, ge=0
    )
    keep_best: bool = setting(True, "Keep the checkpoint of the lowest validation loss.", changes_result=False)
    on_full_disk: Literal["stop", "go_on"] = setting(
        "stop",
        "When the disk is full: stop, or continue and try again at the next checkpoint; the last good one is kept.",
        changes_result=False,
    )


class GuardConfig(Config):
    """Non-finite steps and loss spikes."""

    max_skipped_in_a_row: int = setting(
        10,
        "Steps in a row that may be skipped for a non-finite loss or gradient; then one roll-back to the last checkpoint.",
        changes_result=False,
        ge=1,
    )
    spike_guard: Literal["roll_back", "watch", "off"] = setting(
        "roll_back",
        "On a loss spike: roll back to a checkpoint before it and skip its data; watch: log only; off: no check.",
        changes_result=False,
    )
    spike_threshold: float = setting(
        6.0, "Robust z-score above the median loss from which a step counts.", changes_result=False, gt=0
    )
    spike_window: int = setting(
        128,
        "Number of earlier steps that a loss is compared with; no step is checked before there are as many.",
        changes_result=False,
        ge=8,
    )
    spike_steps_in_a_row: int = setting(
        3, "Number of such steps in a row that make a spike.", changes_result=False, ge=1
    )
    max_spike_roll_backs: int = setting(
        3, "How often a run may roll back within one spike_window.", changes_result=False, ge=0
    )
    on_spike_limit: Literal["stop", "go_on"] = setting(
        "stop", "After that many: stop with exit code 1, or continue and only log spikes there.", changes_result=False
    )


class ValidationConfig(Config):
    """What is measured while training runs."""

    validate_every_steps: int = setting(
        1000, "Steps between validations; the last step has one too.", changes_result=False, ge=1
    )
    validation_tokens: int = setting(
        2_097_152, "Tokens of one validation; all of the split after the last step.", changes_result=False, ge=1
    )
    evaluate_tasks: list[str] = setting(
        [],
        "Tasks and groups measured in training, such as piqa, on the whole network; see docs/evaluation.md.",
        changes_result=False,
    )
    evaluate_every_steps: int = setting(
        0, "Steps between measurements of these tasks; 0: after the last step only.", changes_result=False, ge=0
    )
    evaluate_limit: int = setting(
        200, "Number of examples per task, evenly spread over its file.", changes_result=False, ge=1
    )
    evaluate_data_dir: str = setting(
        "", "Folder with the tasks' examples; empty: Hugging Face's hub.", changes_result=False
    )


class TrainConfig(ValidationConfig, GuardConfig, SaveConfig, ScheduleConfig, UpdateConfig):
    """`[train]`: how long, in what portions, with which optimizer. Defaults are TinyLlama's."""

    init_from: str = setting("", "MODEL whose weights training starts from; empty: random weights.")
    time_limit_minutes: float = setting(
        0.0, "Save and stop with exit code 75 after this time; 0: no limit.", changes_result=False, ge=0
    )
    verify_shards: Literal["once", "always", "never"] = setting(
        "once",
        "When shard files are checked against their sha256: if new or changed, at every start, never (sizes only).",
        changes_result=False,
    )


def refuse_what_needs_whole_networks(train: BatchConfig, parallel: ParallelConfig) -> None:
    """Raises ValueError, with the key, for what works only where each rank holds the whole network."""
    if train.deterministic_reduction:
        raise ValueError(
            "train.deterministic_reduction: true works with parallel.replicate alone; "
            f"false, or parallel.replicate={parallel.world_size} without other axes"
        )


def check_fp8_widths(model: LlamaConfig, micro_batch_tokens: int, tensor: int = 1) -> None:
    """Raises ValueError, with the key and the arithmetic, for a width that fp8 matmuls of `tensor` slices cannot have."""
    heads, keys = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
    widths = {  # name of a matmul's width, and by how many slices it is shared
        "columns of the residual stream (model.dim)": (model.dim, 1),
        "columns of the heads (model.n_heads x head_dim)": (heads, tensor),
        "columns of queries, keys and values ((n_heads + 2 n_kv_heads) x head_dim)": (heads + 2 * keys, tensor),
        "columns of the feed-forward (model.ffn_dim)": (model.ffn_dim, tensor),
        "tokens of a micro-batch (micro_batch_size x seq_len)": (micro_batch_tokens, 1),
    }
    for what, (count, ranks) in widths.items():
        if count % (FP8_MULTIPLE * ranks):
            share = f"{count} / {ranks} tensor ranks = {count / ranks:g}" if ranks > 1 else f"{count}"
            raise ValueError(
                f"train.precision: 'fp8' needs widths that are multiples of {FP8_MULTIPLE}; the {what} are {share}; "
                "'bf16' would work"
            )
