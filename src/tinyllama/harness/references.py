"""Published scores with source, setting and metric, read from `references.toml`.

A score can be compared with ours only if lm-eval measured it in the same metric, on the same split, with as many shots; the
others have another `setting` and are never shown in the same column (see scorecard.py).
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

LM_EVAL = "lm-eval"
LEADERBOARD = "Open LLM Leaderboard"  # lm-eval with its own numbers of shots
# Columns of TinyLlama's table: acc_norm, except for WinoGrande and BoolQ, which have only accuracy.
SEVEN_METRICS = (
    ("hellaswag", "acc_norm"), ("openbookqa", "acc_norm"), ("winogrande", "acc"), ("arc_challenge", "acc_norm"),
    ("arc_easy", "acc_norm"), ("boolq", "acc"), ("piqa", "acc_norm"),
)  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """One model's scores in one setting, by (task, metric). `tokens`: trained on, None if the source does not say."""

    model: str
    setting: str
    shots: int
    source: str
    scores: dict[tuple[str, str], float]
    tokens: float | None = None

    @property
    def title(self) -> str:
        """The model, and its number of shots if any: a model may have scores in several settings."""
        return f"{self.model}, {self.shots} shots" if self.shots else self.model

    @property
    def is_like_ours(self) -> bool:
        """Whether the scores can be compared with ours of the same task, metric and number of shots."""
        return self.setting in (LM_EVAL, LEADERBOARD)


def read_references(text: str) -> tuple[Reference, ...]:
    """The references of a TOML text in the form of `references.toml`; percentages become shares of 1.

    Raises ValueError when a row does not have one score for each column.
    """
    found = []
    for table in tomllib.loads(text)["table"]:
        keys = [tuple(column.split()) for column in table["columns"]]
        for row in table["rows"]:
            pairs = zip(keys, row["scores"], strict=True)
            scores = {key: value if key[1] == "perplexity" else round(value / 100, 6) for key, value in pairs}
            about = (row["model"], table["setting"], row.get("shots", 0), table["source"])
            found.append(Reference(*about, scores, row.get("tokens")))
    return tuple(found)


REFERENCES = read_references(Path(__file__).with_name("references.toml").read_text(encoding="utf-8"))
