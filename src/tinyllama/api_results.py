"""What the functions of the Python API return: the result of a command, with typed fields.

`to_dict()` is the summary that the command prints with `--json`. Keys that a later version adds are attributes too.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class PhaseResult(BaseModel):
    """Base of all results; cannot be changed."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values, with the keys that the command gave."""
        return self.model_dump(exclude_unset=True)


class CleanResult(PhaseResult):
    """Counts of `clean`; bytes are UTF-8."""

    documents_in: int
    documents_out: int
    train_documents: int
    validation_documents: int
    text_bytes_in: int
    text_bytes_out: int
    dropped: dict[str, int]  # documents by reason
    masked: dict[str, int]  # items of personal information by kind
    site_lines: int  # boilerplate lines removed
    unsafe_paragraphs: int
    contaminated_paragraphs: int
    copied_paragraphs: int
    contaminated: dict[str, int]  # documents that share text with each evaluation task
    clustered: dict[Literal["in", "out"], int]  # documents in clusters of near-duplicates: all, and those kept
    seconds: float
    cpu_seconds: float


class TokenizerFit(PhaseResult):
    """How well a tokenizer fits the documents of one kind of source."""

    documents: int
    text_bytes: int
    sample_bytes: int  # of the documents that were encoded
    bytes_per_token: float
    byte_fallback_share: float  # of tokens that are a single byte, for want of a longer one
    byte_fallback_share_without_newlines: float


class TokenizerResult(PhaseResult):
    """The trained tokenizer; the ratios are over all kinds of source, weighted by their bytes."""

    vocab_size: int
    documents: int
    text_bytes: int
    trained_on_share: float  # of the text
    bytes_per_token: float
    byte_fallback_share: float
    byte_fallback_share_without_newlines: float
    by_kind: dict[str, TokenizerFit]
    longest_pieces: list[str]
    seconds: float
    cpu_seconds: float


class ValidationResult(PhaseResult):
    """Next-token prediction on held-out tokens."""

    loss: float  # mean nats per token
    perplexity: float
    accuracy: float  # share of tokens that were the most likely one
    bits_per_byte: float
    tokens: int
    by_kind: dict[str, "ValidationResult"] | None = None  # if the documents are of several source kinds


class PretrainResult(PhaseResult):
    """A run after its last step."""

    parameters: int
    device: str
    ranks: int
    step: int
    tokens: int
    epochs: float
    loss: float  # of the last step
    validation: ValidationResult | None
    unigram_perplexity: float | None
    tokens_per_second: float
    mfu_causal: float
    mfu_palm: float
    peak_memory_bytes: int
    skipped_steps: int
    weights_sha256: str
    seconds: float
    cpu_seconds: float


class LastWordResult(PhaseResult):
    """Accuracy of the last word of held-out passages."""

    accuracy: float | None  # None without passages
    accuracy_stderr: float | None
    n: int
    examples: list[dict[str, str]]  # context, answer, guess


class TaskResults(PhaseResult):
    """Results by task."""

    last_word: LastWordResult | None = None


class EvaluateResult(PhaseResult):
    """Measures of a finished run."""

    step: int | None
    parameters: int
    weights_sha256: str
    validation: ValidationResult | None  # None if the validation split is empty
    unigram_perplexity: float | None
    tasks: TaskResults


class LayoutEstimate(PhaseResult):
    """A parallel layout that fits."""

    replicate: int
    shard: int
    tensor: int
    pipeline: int
    gather: str
    micro_batch_size: int
    memory_bytes_per_gpu: int
    tokens_per_second: float


class PlanResult(PhaseResult):
    """The estimate of a run, in seconds and in bytes per device. If no layout fits, the times are None."""

    device: str
    gpus: int
    gpus_per_node: int
    parameters: int
    matmul_parameters: int
    flops_per_token: dict[str, int]
    tokens: int
    steps: int
    fits: bool
    parallel: dict[str, Any] | None  # keys of [parallel] of the best layout
    micro_batch_size: int | None
    overrides: list[str]  # for `pretrain`
    stage_layers: list[int] | None
    memory_bytes_per_gpu: int | None
    memory_stage: int | None  # index in stage_layers of the stage that needs most
    memory_parts: dict[str, int] | None
    usable_memory_bytes_per_gpu: int
    tokens_per_second: float | None
    step_seconds: float | None
    mfu_palm: float | None
    mfu_causal: float | None
    days: float | None
    gpu_hours: float | None
    step_seconds_parts: dict[str, float] | None
    cost: float | None  # in the currency of the price
    disk_bytes: int
    disk_parts: dict[str, int]
    layouts: list[LayoutEstimate]  # the fastest first
    changes: list[str]  # what would make it fit
    notes: list[str]
