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

    tokens: int = setting(3_000_000_000_000, "Training tokens; the number of steps follows.", ge=1)
    steps: int = setting(0, "Optimizer updates; when given, wins over tokens.", ge=0)
    tokens_per_step: int = setting(2_097_152, "Tokens of one update, over all micro-batches and devices.", ge=1)
    micro_batch_size: int = setting(16, "Sequences that one device computes at once.", ge=1)
    seq_len: int = setting(2048, "Tokens that the model sees at once.", ge=2)
    deterministic_reduction: bool = setting(
        False, "Sums in one order for every number of ranks, and kernels that repeat themselves: the same bits, slower."
    )
    reduction_lanes: int = setting(
        8,
        "With deterministic_reduction: equal portions of a step's micro-batches, summed apart and then joined in pairs; "
        "a power of two, of which the ranks are divisors.",
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
        "bf16", "Number format of the products; weights, their updates, norms and loss stay fp32."
    )
    recompute: Literal["none", "selective", "full"] = setting(
        "none",
        "What the backward pass computes again to save memory: selective, the feed-forward's inside; full, the layers.",
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
        "fp32", "Number format of AdamW's moments; bf16 saves 4 bytes a weight."
    )
    beta1: float = setting(0.9, "AdamW's decay of the first moment.", ge=0, lt=1)
    beta2: float = setting(0.95, "AdamW's decay of the second moment.", ge=0, lt=1)
    adam_eps: float = setting(1e-8, "AdamW's epsilon.", gt=0)
    weight_decay: float = setting(0.1, "Decoupled decay of matrices; not of norms and embeddings.", ge=0)
    max_grad_norm: float = setting(1.0, "Gradients are scaled down to this global norm; 0: never.", ge=0)
    z_loss: float = setting(0.0, "Weight of the squared log-partition term.", ge=0)


class UpdateConfig(OptimizerConfig, PrecisionConfig, BatchConfig):
    """All that an update's computation depends on: what the training state, `bench` and `plan` read."""


class ScheduleConfig(Config):
    """The learning rate."""

    lr_schedule: Literal["cosine", "wsd"] = setting("cosine", "Cosine, or warmup-stable-decay.")
    peak_lr: float = setting(4e-4, "Learning rate at the end of warmup.", gt=0)
    min_lr: float = setting(4e-5, "Learning rate at the end of the schedule, before cooldown.", ge=0)
    warmup_steps: int = setting(2000, "Linear rise from 0; cut to a tenth of a shorter run, with a warning.", ge=0)
    cooldown_steps: int = setting(0, "Final linear fall to 0 over so many steps.", ge=0)

    @model_validator(mode="after")
    def _min_is_below_peak(self) -> Self:
        if self.min_lr > self.peak_lr:
            raise ValueError(f"min_lr: {self.min_lr} is above peak_lr {self.peak_lr}")
        return self


class SaveConfig(Config):
    """Checkpoints."""

    save_every_steps: int = setting(
        1000, "A checkpoint every so many steps, and at the end.", changes_result=False, ge=1
    )
    keep_checkpoints: int = setting(2, "How many of the latest checkpoints stay.", changes_result=False, ge=1)
    keep_every_steps: int = setting(
        0, "The checkpoint of every so many steps stays for ever; 0: of none.", changes_result=False, ge=0
    )
    keep_best: bool = setting(True, "The checkpoint of the lowest validation loss stays.", changes_result=False)
    on_full_disk: Literal["stop", "go_on"] = setting(
        "stop",
        "When a checkpoint finds no room: stop, or go on and try again at the next one; the last good one stays.",
        changes_result=False,
    )


class GuardConfig(Config):
    """Non-finite steps and loss spikes."""

    max_skipped_in_a_row: int = setting(
        10,
        "Steps in a row of non-finite loss or gradient that are left out; then back to the last checkpoint, once.",
        changes_result=False,
        ge=1,
    )
    spike_guard: Literal["roll_back", "watch", "off"] = setting(
        "roll_back",
        "On a loss spike: back to a checkpoint before it, its windows left out; watch: say so; off: do not look.",
        changes_result=False,
    )
    spike_threshold: float = setting(
        6.0, "Robust standard deviations over the median loss from which a step counts.", changes_result=False, gt=0
    )
    spike_window: int = setting(
        128, "The steps before, by which a step is judged; none is judged earlier.", changes_result=False, ge=8
    )
    spike_steps_in_a_row: int = setting(3, "So many such steps in a row are a spike.", changes_result=False, ge=1)
    max_spike_roll_backs: int = setting(
        3, "How often a run may go back within one spike_window.", changes_result=False, ge=0
    )
    on_spike_limit: Literal["stop", "go_on"] = setting(
        "stop", "After that many: stop with exit code 1, or go on and only watch there.", changes_result=False
    )


class ValidationConfig(Config):
    """What is measured while training runs."""

    validate_every_steps: int = setting(
        1000, "Validation every so many steps, and at the end.", changes_result=False, ge=1
    )
    validation_tokens: int = setting(
        2_097_152, "Validation tokens of one measurement; at the end, all.", changes_result=False, ge=1
    )
    evaluate_tasks: list[str] = setting(
        [],
        "Tasks and groups measured in training, such as piqa, on the whole network; see docs/evaluation.md.",
        changes_result=False,
    )
    evaluate_every_steps: int = setting(
        0, "Those tasks every so many steps, and at the end; 0: at the end only.", changes_result=False, ge=0
    )
    evaluate_limit: int = setting(
        200, "Examples of each of those tasks, evenly spread over its file.", changes_result=False, ge=1
    )
    evaluate_data_dir: str = setting(
        "", "Folder with those tasks' examples; empty: Hugging Face's hub.", changes_result=False
    )


class TrainConfig(ValidationConfig, GuardConfig, SaveConfig, ScheduleConfig, UpdateConfig):
    """`[train]`: how long, in what portions, with which optimizer. Defaults are TinyLlama's."""

    init_from: str = setting("", "A MODEL whose weights training starts from; empty: random ones.")
    time_limit_minutes: float = setting(
        0.0, "Save and stop with exit code 75 after so long; 0: no limit.", changes_result=False, ge=0
    )
    verify_shards: Literal["once", "always", "never"] = setting(
        "once",
        "Shard files read against their sha256: when they are new or changed, at every start, never (sizes only).",
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
