"""Published scores, each with where it stands, its setting and its metric, as shares of 1 unless the metric says else.

A score is like ours only where it was made by lm-eval in the same metric, on the same split, with as many shots; the others
are told apart by `setting` and never stand in the same column (see scorecard.py). What could not be looked up is not here.
All were looked up again in November 2026, in the files that `source` names.
"""

from dataclasses import dataclass

LM_EVAL = "lm-eval"  # prompts, answers and metrics that ours are
LEADERBOARD = "Open LLM Leaderboard"  # lm-eval with its own numbers of shots
OWN_HARNESS = "its own harness, zero-shot"
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
    def title(self) -> str:
        """The model, and its shots where it has any: one model may have scores in several settings."""
        return f"{self.model}, {self.shots} shots" if self.shots else self.model

    @property
    def is_like_ours(self) -> bool:
        """Whether the scores may stand beside ours of the same task, metric and shots."""
        return self.setting in (LM_EVAL, LEADERBOARD)


# Columns of TinyLlama's table: acc_norm, but for WinoGrande and BoolQ, which have accuracy alone.
SEVEN_METRICS = (
    ("hellaswag", "acc_norm"), ("openbookqa", "acc_norm"), ("winogrande", "acc"), ("arc_challenge", "acc_norm"),
    ("arc_easy", "acc_norm"), ("boolq", "acc"), ("piqa", "acc_norm"),
)  # fmt: skip
_PYTHIA_TASKS = (
    ("lambada", "acc"), ("lambada", "perplexity"), ("piqa", "acc"), ("piqa", "acc_norm"), ("winogrande", "acc"),
    ("arc_challenge", "acc"), ("arc_challenge", "acc_norm"), ("arc_easy", "acc"), ("arc_easy", "acc_norm"),
)  # fmt: skip
_LLAMA_TASKS = (*SEVEN_METRICS, ("hellaswag", "acc"), ("openbookqa", "acc"), ("arc_challenge", "acc"), ("arc_easy", "acc"),
                ("piqa", "acc"), ("copa", "acc"))  # fmt: skip
_GPT3_TASKS = (("lambada", "acc"), ("lambada", "perplexity"), ("winogrande", "acc"), ("hellaswag", "acc_norm"),
               ("piqa", "acc_norm"))  # fmt: skip
_SUPERGLUE_TASKS = (
    ("boolq", "acc"), ("cb", "acc"), ("cb", "f1"), ("copa", "acc"), ("sglue_rte", "acc"), ("wic", "acc"), ("wsc", "acc"),
    ("multirc", "em"), ("multirc", "f1"), ("record", "em"), ("record", "f1"),
)  # fmt: skip
_SUPERGLUE = "Brown et al. 2020, table 3.8"
_TINYLLAMA = "jzhang38/TinyLlama, EVAL.md, and the model cards of its checkpoints (GPT4All suite, zero-shot)"
_PYTHIA = "EleutherAI/pythia, evals/pythia-v1, step 143,000"
_LM_EVAL_RESULTS = "EleutherAI/lm-evaluation-harness, results/ of its version 0.3"
_GPT_J = "kingoflolz/mesh-transformer-jax, README, as GPT-3's authors report them"
_BERT = "google-research/bert, README, GLUE scores on the test set (Turc et al. 2019)"
_GPT3 = "Brown et al. 2020, tables 3.6 and H.1, as Touvron et al. 2023 (LLaMA), table 3, has them"
_LLAMA2 = "Touvron et al. 2023 (Llama 2), table 20"
_OPEN_LLM = "Open LLM Leaderboard, in the model cards' pull requests by leaderboard-pr-bot"


def _shares(keys: tuple[tuple[str, str], ...], percent: str) -> Scores:
    """Percentages as shares; perplexities as they are."""
    pairs = zip(keys, map(float, percent.split()), strict=True)
    return {key: value if key[1] == "perplexity" else round(value / 100, 6) for key, value in pairs}


def _bert(percent: str) -> Scores:
    keys = (
        ("cola", "mcc"), ("sst2", "acc"), ("mrpc", "f1"), ("mrpc", "acc"), ("stsb", "pearson"), ("stsb", "spearman"),
        ("qqp", "f1"), ("qqp", "acc"), ("mnli", "acc"), ("mnli_mismatch", "acc"), ("qnli", "acc"), ("rte", "acc"),
        ("wnli", "acc"),
    )  # fmt: skip
    return _shares(keys, percent)


REFERENCES: tuple[Reference, ...] = (
    *(
        Reference(model, LM_EVAL, 0, _TINYLLAMA, _shares(SEVEN_METRICS, percent), tokens)
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
    *(
        Reference(model, LM_EVAL, shots, _PYTHIA, _shares(_PYTHIA_TASKS, percent), 300e9)
        for model, shots, percent in (
            ("Pythia-410M-deduped", 0, "52.44 10.574 67.46 67.41 53.35 20.22 25.34 51.68 45.71"),
            ("Pythia-1.4B-deduped", 0, "61.87 6.107 72.03 72.52 56.59 27.22 29.78 61.70 56.82"),
            ("Pythia-1B-deduped", 5, "52.82 8.948 70.40 70.78 53.99 26.02 29.35 60.14 60.23"),
        )
    ),
    Reference(
        "OPT-1.3B",
        LM_EVAL,
        0,
        _LM_EVAL_RESULTS,
        _shares(_PYTHIA_TASKS, "57.93 6.64 71.71 72.47 59.75 23.12 29.44 57.03 50.93"),
    ),
    Reference(
        "LLaMA 7B",
        LM_EVAL,
        0,
        _LM_EVAL_RESULTS,
        _shares(_LLAMA_TASKS, "72.98 42.40 66.93 41.38 52.48 73.06 77.42 56.39 28.20 38.23 67.38 78.18 84.00"),
        1e12,
    ),
    Reference("OPT-1.3B", LEADERBOARD, 25, _OPEN_LLM, {("arc_challenge", "acc_norm"): 0.2952}),
    Reference("OPT-1.3B", LEADERBOARD, 10, _OPEN_LLM, {("hellaswag", "acc_norm"): 0.5453}),
    Reference("OPT-1.3B", LEADERBOARD, 5, _OPEN_LLM, {("winogrande", "acc"): 0.5975}),
    Reference("TinyLlama 3T", LEADERBOARD, 25, _OPEN_LLM, {("arc_challenge", "acc_norm"): 0.3387}, 3e12),
    Reference("TinyLlama 3T", LEADERBOARD, 10, _OPEN_LLM, {("hellaswag", "acc_norm"): 0.6031}, 3e12),
    Reference("TinyLlama 3T", LEADERBOARD, 5, _OPEN_LLM, {("winogrande", "acc"): 0.5951}, 3e12),
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
    *(
        Reference(model, OWN_HARNESS, 0, _GPT_J, _shares(_GPT3_TASKS, percent), 300e9)
        for model, percent in (
            ("GPT-3 1.3B", "63.6 5.44 58.7 54.7 75.1"),
            ("GPT-3 6.7B", "70.3 4.00 64.5 67.4 78.0"),
            ("GPT-3 175B", "76.2 3.00 70.2 78.9 81.0"),
        )
    ),
    Reference(
        "GPT-3 175B",
        f"{OWN_HARNESS}; ARC, OpenBookQA and BoolQ divided by the probability without context",
        0,
        _GPT3,
        _shares((*SEVEN_METRICS[1:2], *SEVEN_METRICS[3:6]), "57.6 51.4 68.8 60.5"),
        300e9,
    ),
    Reference("GPT-3 175B", OWN_HARNESS, 0, "Brown et al. 2020, table 3.7", {("squad_v2", "f1"): 0.595}, 300e9),
    Reference(
        "GPT-3 175B",
        "its own harness, SuperGLUE test set",
        32,
        _SUPERGLUE,
        _shares(_SUPERGLUE_TASKS, "76.4 75.6 52.0 92.0 69.0 49.4 80.1 30.5 75.4 90.2 91.1"),
        300e9,
    ),
    Reference(
        "BERT-Large",
        "fine-tuned, SuperGLUE test set",
        0,
        _SUPERGLUE,
        _shares(_SUPERGLUE_TASKS, "77.4 83.6 75.7 70.6 71.7 69.6 64.6 24.1 70.0 71.3 72.0"),
    ),
    *(
        Reference(f"Llama 2 {size}", OWN_HARNESS, 0, _LLAMA2, _shares(SEVEN_METRICS, percent), 2e12)
        for size, percent in (
            ("7B", "77.2 58.6 69.2 45.9 75.2 77.4 78.8"),
            ("13B", "80.7 57.0 72.8 49.4 77.3 81.7 80.5"),
            ("70B", "85.3 60.2 80.2 57.4 80.2 85.0 82.8"),
        )
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
