"""How good the hate head is on labelled sets, beside public filters; bias by identity term; recall by HateCheck's tests.

    .venv/bin/python benchmarks/safety_quality.py MODEL --data ../shared [--seed 0] [--peers peers/bin/python]

MODEL is a folder of `train-safety` (or "packaged"). The seed names the test parts of Davidson and Stormfront: it must be
the one that the model was trained with. The word-list filter is C4's as datatrove 0.10 has it (C4BadWordsFilter: a term
of LDNOOBW's English list between two characters that are no word characters, in the lower-case text).
"""

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safety_default import english_terms, ordinary_passages, rows_of, tidy_tweet
from sklearn.metrics import average_precision_score

from tinyllama.cleaning import safety_features
from tinyllama.cleaning.safety_labels import _part
from tinyllama.cleaning.safety_model import SafetyModel, open_safety_model
from tinyllama.cleaning.safety_train import recall_at, threshold_at

OURS, ALT, LIST = "tinyllama", "alt-profanity-check", "C4 word list"


def false_positive_spread(rates: dict[str, float]) -> dict[str, float]:
    """Smallest, largest, range and standard deviation of false-positive rates by term."""
    values = np.array(list(rates.values()))
    return {
        "least": round(float(values.min()), 4),
        "largest": round(float(values.max()), 4),
        "range": round(float(np.ptp(values)), 4),
        "standard_deviation": round(float(values.std()), 4),
    }


def in_test(key: str, seed: int) -> bool:
    """Whether `train-safety` kept a row for testing."""
    return _part({"group": key}, "", "", seed) == "test"


def labelled_sets(data: Path, seed: int) -> dict[str, tuple[list[str], np.ndarray]]:
    """Texts and truth of each test set."""
    sets = {}
    rows = [row for row in rows_of(data, "davidson_hate_offensive") if in_test(row["text"], seed)]
    rows = [row for row in rows if tidy_tweet(row["text"]).strip()]
    sets["Davidson, test part"] = [tidy_tweet(row["text"]) for row in rows], [row["label"] < 2 for row in rows]
    rows = [row for row in rows_of(data, "stormfront_hate") if row["label"] in ("hate", "noHate")]
    rows = [row for row in rows if in_test(row["file_id"].split("_")[0], seed)]
    sets["Stormfront, test part"] = [row["text"] for row in rows], [row["label"] == "hate" for row in rows]
    for name, file, positive in (
        ("Wikipedia toxicity", "wikipedia_toxicity_test", 1),
        ("HateCheck", "hatecheck", "hateful"),
        ("madlibs", "identity_bias_madlibs_sample", 1),
    ):
        rows = rows_of(data, file)
        sets[name] = [row["text"] for row in rows], [row["label"] == positive for row in rows]
    return {name: (texts, np.array(truth)) for name, (texts, truth) in sets.items()}


def scores_of(texts: list[str], model: SafetyModel, words: re.Pattern[str], peers: list[str]) -> dict[str, np.ndarray]:
    found = {OURS: np.array([hate for hate, _ in model.text_probabilities(texts)])}
    found[LIST] = np.array([float(bool(words.search(text.lower()))) for text in texts])
    if peers:
        with tempfile.TemporaryFile("w+") as file:
            json.dump(texts, file)
            file.seek(0)
            script = str(Path(__file__).with_name("safety_peers.py"))
            out = subprocess.check_output([peers[0], "-W", "ignore", script, *peers[1:]], stdin=file)
        found |= {name: np.array(values) for name, values in json.loads(out).items()}
    return found


def comparison(truth: np.ndarray, scores: dict[str, np.ndarray]) -> dict[str, Any]:
    """Average precision, recall at 1% false positives; for a filter that says only yes or no: ours at its own rate."""
    row: dict[str, Any] = {"rows": int(truth.size), "positives": int(truth.sum())}
    for name, values in scores.items():
        row[name] = {"average_precision": round(float(average_precision_score(truth, values)), 4)}
        if set(np.unique(values)) <= {0.0, 1.0}:
            rate = float(values[~truth].mean())
            row[name] |= {"false_positives": round(rate, 4), "recall": round(float(values[truth].mean()), 4)}
            row[name]["recall_of_ours_there"] = round(recall_at(truth, scores[OURS], rate), 4)
        else:
            row[name]["recall_at_1pct"] = round(recall_at(truth, values), 4)
    return row


def identity_term(row: dict[str, Any]) -> str:
    """The group that a sentence of the madlibs names: what its template puts last; "" for templates that have none."""
    words = row["text"].lower().split()
    return words[-1] if row["template"] == "name_adj" and len(words) >= 4 else ""


def identity_bias(rows: list[dict[str, Any]], scores: np.ndarray, threshold: float) -> dict[str, Any]:
    """False-positive rate of each identity term (20 ordinary sentences and more) above a threshold, and their spread."""
    by_term: dict[str, list[bool]] = {}
    for row, score in zip(rows, scores, strict=True):
        term = identity_term(row)
        if term and not row["label"]:
            by_term.setdefault(term, []).append(bool(score > threshold))
    rates = {term: float(np.mean(above)) for term, above in by_term.items() if len(above) >= 20}
    highest = dict(sorted(rates.items(), key=lambda item: -item[1])[:6])
    overall = float(np.mean([above for found in by_term.values() for above in found]))
    differences = sum(abs(rate - overall) for rate in rates.values())
    return {
        "terms": len(rates), "overall": round(overall, 4), **false_positive_spread(rates),
        "equality_difference": round(differences, 3), "highest": {term: round(rate, 3) for term, rate in highest.items()},
    }  # fmt: skip


def by_functionality(rows: list[dict[str, Any]], scores: np.ndarray, threshold: float) -> dict[str, float]:
    """Share of right verdicts of each of HateCheck's functional tests."""
    right: dict[str, list[bool]] = {}
    for row, score in zip(rows, scores, strict=True):
        right.setdefault(row["functionality"], []).append(bool(score > threshold) == (row["label"] == "hateful"))
    return {name: round(float(np.mean(verdicts)), 3) for name, verdicts in sorted(right.items())}


def ordinary_text(data: Path, seed: int, model: SafetyModel) -> dict[str, Any]:
    """Of held-out ordinary paragraphs: thresholds by share of false positives, for both heads."""
    found = np.array(model.text_probabilities([row["text"] for row in ordinary_passages(data, seed, held_out=True)]))
    rates = (0.01, 0.001, 0.0005, 0.0002)
    heads = {name: {f"{rate:g}": round(threshold_at(found[:, n], rate), 4) for rate in rates}
             for n, name in enumerate(("hate", "sexual"))}  # fmt: skip
    return {"paragraphs": len(found), **heads}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers", help="a Python that has the peers")
    parser.add_argument("--slow-peers", action="store_true", help="better-profanity too")
    parser.add_argument("--no-blinding", action="store_true", help="the model was trained so")
    parser.add_argument("--max-hate", type=float, default=0.65, help="the recipe's threshold")
    given = parser.parse_args()
    if given.no_blinding:
        safety_features._group_hashes = np.zeros(1, np.uint64)
    model = open_safety_model(None if given.model == "packaged" else Path(given.model))
    terms = "|".join(map(re.escape, english_terms(given.data)))
    words = re.compile(rf"(?:\W|^)({terms})(?:\W|$)")
    report: dict[str, Any] = {"ordinary": ordinary_text(given.data, given.seed, model), "sets": {}}
    for name, (texts, truth) in labelled_sets(given.data, given.seed).items():
        peers = [given.peers, "score" if given.slow_peers else "score-fast"] if given.peers else []
        scores = scores_of(texts, model, words, peers)
        report["sets"][name] = comparison(truth, scores)
        ours = scores[OURS]
        report["sets"][name]["at_threshold"] = {
            "recall": round(float((ours[truth] > given.max_hate).mean()), 4),
            "false_positives": round(float((ours[~truth] > given.max_hate).mean()), 4),
        }
        if name == "HateCheck":
            report["hatecheck"] = by_functionality(rows_of(given.data, "hatecheck"), ours, given.max_hate)
        if name == "madlibs":
            rows = rows_of(given.data, "identity_bias_madlibs_sample")
            report["bias"] = {"threshold": identity_bias(rows, ours, given.max_hate)}
            for filter_name, values in scores.items():
                if filter_name in (OURS, ALT):
                    at = threshold_at(values[~truth], 0.05)
                    report["bias"][f"{filter_name}, 5% false positives"] = identity_bias(rows, values, at)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
