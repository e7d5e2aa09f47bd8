"""Published scores, each with where it stands, its setting and its metric, as shares of 1 unless the metric says else.

A score is like ours only where it was made by lm-eval in the same metric, on the same split, with as many shots; the others
are told apart by `setting` and never stand in the same column (see scorecard.py). What could not be looked up is not here.
"""

from dataclasses import dataclass

LM_EVAL = "lm-eval"  # prompts, answers and metrics that ours are
LEADERBOARD = "Open LLM Leaderboard"  # lm-eval with its own numbers of shots
FINE_TUNED = "fine-tuned, GLUE test set"
Scores = dict[tuple[str, str], float]  # by (task, metric)


@dataclass(frozen=True)
class Reference:
    """One model's scores in one setting. `tokens`: trained on, None where the source does not say it."""

    model: str
    setting: str
    shots: int
    source: str
    scores: Scores
    tokens: float | None = None

    @property
    def is_like_ours(self) -> bool:
        """Whether the scores may stand beside ours of the same task, metric and shots."""
        return self.setting in (LM_EVAL, LEADERBOARD)


# Columns of TinyLlama's table: acc_norm, but for WinoGrande and BoolQ, which have accuracy alone.
_SEVEN = (
    ("hellaswag", "acc_norm"), ("openbookqa", "acc_norm"), ("winogrande", "acc"), ("arc_challenge", "acc_norm"),
    ("arc_easy", "acc_norm"), ("boolq", "acc"), ("piqa", "acc_norm"),
)  # fmt: skip
_TINYLLAMA = "jzhang38/TinyLlama, EVAL.md, and the model cards of its checkpoints (GPT4All suite, zero-shot)"
_BERT = "google-research/bert, README, GLUE scores on the test set (Turc et al. 2019)"
_GPT3 = "Brown et al. 2020, table 3.6"
_LLAMA2 = "Touvron et al. 2023, table 20 (as Papers with Code lists it)"
_OPEN_LLM = "Open LLM Leaderboard, in the model cards' pull requests by leaderboard-pr-bot"


def _shares(keys: tuple[tuple[str, str], ...], percent: str) -> Scores:
    return {key: round(float(value) / 100, 6) for key, value in zip(keys, percent.split(), strict=True)}


def _bert(percent: str) -> Scores:
    keys = (
        ("cola", "mcc"), ("sst2", "acc"), ("mrpc", "f1"), ("mrpc", "acc"), ("stsb", "pearson"), ("stsb", "spearman"),
        ("qqp", "f1"), ("qqp", "acc"), ("mnli", "acc"), ("mnli_mismatch", "acc"), ("qnli", "acc"), ("rte", "acc"),
        ("wnli", "acc"),
    )  # fmt: skip
    return _shares(keys, percent)


REFERENCES: tuple[Reference, ...] = (
    *(
        Reference(model, LM_EVAL, 0, _TINYLLAMA, _shares(_SEVEN, percent), tokens)
        for model, tokens, percent in (
            ("TinyLlama 103B", 103e9, "43.50 29.80 53.28 24.32 44.91 59.66 67.30"),
            ("TinyLlama 503B", 503e9, "49.56 31.40 55.80 26.54 48.32 56.91 69.42"),
            ("TinyLlama 1007B", 1007e9, "52.54 33.40 55.96 27.82 52.36 59.54 69.91"),
            ("TinyLlama 1.5T", 1.5e12, "53.68 35.20 58.33 29.18 51.89 59.08 71.65"),
            ("TinyLlama 2T", 2e12, "54.63 33.40 56.83 28.07 54.67 63.21 70.67"),
            ("TinyLlama 2.5T", 2.5e12, "58.96 34.40 58.72 31.91 56.78 63.21 73.07"),
            ("TinyLlama 3T", 3e12, "59.20 36.00 59.12 30.12 55.25 57.83 73.29"),
            ("Pythia-1.0B", 300e9, "47.16 31.40 53.43 27.05 48.99 60.83 69.21"),
        )
    ),
    Reference("OPT-1.3B", LEADERBOARD, 25, _OPEN_LLM, {("arc_challenge", "acc_norm"): 0.2952}),
    Reference("OPT-1.3B", LEADERBOARD, 10, _OPEN_LLM, {("hellaswag", "acc_norm"): 0.5453}),
    Reference("OPT-1.3B", LEADERBOARD, 5, _OPEN_LLM, {("winogrande", "acc"): 0.5975}),
    Reference("TinyLlama 3T", LEADERBOARD, 25, _OPEN_LLM, {("arc_challenge", "acc_norm"): 0.3387}, 3e12),
    Reference("TinyLlama 3T", LEADERBOARD, 10, _OPEN_LLM, {("hellaswag", "acc_norm"): 0.6031}, 3e12),
    Reference(
        "SmolLM2-135M",
        "lighteval, zero-shot",
        0,
        "model card of HuggingFaceTB/SmolLM2-135M (SmolLM2-135M-8k)",
        {
            ("hellaswag", "acc_norm"): 0.421,
            ("piqa", "acc_norm"): 0.684,
            ("winogrande", "acc"): 0.513,
            ("openbookqa", "acc_norm"): 0.346,
        },
        2e12,
    ),
    Reference(
        "GPT-3 175B",
        "its own harness, zero-shot; ARC and OpenBookQA divided by the probability without context",
        0,
        _GPT3,
        {
            ("piqa", "acc_norm"): 0.805,
            ("arc_easy", "acc_norm"): 0.688,
            ("arc_challenge", "acc_norm"): 0.514,
            ("openbookqa", "acc_norm"): 0.576,
        },
        300e9,
    ),
    *(
        Reference(
            f"Llama 2 {size}",
            "its own harness, zero-shot",
            0,
            _LLAMA2,
            {("boolq", "acc"): boolq, ("hellaswag", "acc_norm"): hellaswag},
            2e12,
        )
        for size, boolq, hellaswag in (("7B", 0.774, 0.772), ("13B", 0.817, 0.807), ("70B", 0.85, 0.853))
    ),
    *(
        Reference(model, FINE_TUNED, 0, _BERT, _bert(percent))
        for model, percent in (
            ("BERT-Tiny", "0.0 83.2 81.1 71.1 74.3 73.6 62.2 83.4 70.2 70.3 81.5 57.2 62.3"),
            ("BERT-Small", "27.8 89.7 83.4 76.2 78.8 77.0 68.1 87.0 77.6 77.0 86.4 61.8 62.3"),
            ("BERT-Medium", "38.0 89.6 86.6 81.6 80.4 78.4 69.6 87.9 80.0 79.1 87.7 62.2 62.3"),
        )
    ),
)
