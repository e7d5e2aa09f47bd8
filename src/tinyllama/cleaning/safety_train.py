"""Trains and calibrates a safety model (logistic regression over hashed n-grams) and writes its model card.

The rows of the training part fit the weights, those of the calibration part the sigmoid (Platt 1999); those of the test
part are only measured. Rows without a weight are balanced: each class of a source has half of the source's total weight,
so that neither a large source nor the more frequent class dominates.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save
from scipy import sparse

from tinyllama import log
from tinyllama.cleaning.safety_features import FEATURES_VERSION, SLOTS, features_of, passages_of
from tinyllama.cleaning.safety_labels import HEADS, NONE, LabelledText, read_labels
from tinyllama.cleaning.safety_model import CARD_FILE, MODEL_FILE, open_safety_model
from tinyllama.errors import InputError
from tinyllama.files import atomic_file

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
RELIABILITY_BINS = 10
REGULARISATION = 10.0  # scikit-learn's C: the inverse strength of the L2 penalty
_ROWS_AT_ONCE = 500


def threshold_at(scores_of_negatives: Floats, false_positive_rate: float) -> float:
    """The smallest threshold with at most this share of the negatives above it."""
    ordered = np.sort(scores_of_negatives)
    allowed = int(np.floor(false_positive_rate * ordered.size))
    return float(ordered[ordered.size - 1 - allowed])


def recall_at(truth: Mask, scores: Floats, false_positive_rate: float = 0.01) -> float:
    """Share of the positives above `threshold_at` of the negatives."""
    return float(np.mean(scores[truth] > threshold_at(scores[~truth], false_positive_rate)))


def reliability(truth: Mask, probabilities: Floats, weights: Floats) -> dict[str, Any]:
    """Predicted and true shares in ten bins of probability, and their mean distance (expected calibration error)."""
    indices = np.minimum((probabilities * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    bins, error = [], 0.0
    for index in range(RELIABILITY_BINS):
        chosen = indices == index
        weight = float(weights[chosen].sum())
        if not weight:
            continue
        said = float(np.average(probabilities[chosen], weights=weights[chosen]))
        true = float(np.average(truth[chosen], weights=weights[chosen]))
        error += abs(said - true) * weight / float(weights.sum())
        bins.append({"said": round(said, 3), "true": round(true, 3), "rows": int(chosen.sum())})
    return {"expected_calibration_error": round(error, 4), "bins": bins}


def metrics(truth: Mask, probabilities: Floats) -> dict[str, Any]:
    """Rows, positives, average precision and recall at 1% false positives of a set that has both classes."""
    from sklearn.metrics import average_precision_score

    return {
        "rows": int(truth.size),
        "positives": int(truth.sum()),
        "average_precision": round(float(average_precision_score(truth, probabilities)), 4),
        "recall_at_1pct_false_positives": round(recall_at(truth, probabilities), 4),
    }


def train_safety(
    inputs: list[Path],
    out: Path,
    names: Mapping[str, str] | None = None,
    seed: int = 0,
    base: Path | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Train on LABELS files; write `safety.safetensors` and its card `safety.md` (with `notes`) into `out`.

    A head without labels is copied from the model `base` (None: the packaged one). Returns rows, and for each trained
    head sources, average_precision, recall_at_1pct_false_positives, thresholds, reliability and by_source, all on the test
    part. Raises InputError for labels that cannot be used.
    """
    rows = read_labels(inputs, names or {}, seed)
    wanted = [head for head in HEADS if any(head in row.labels for row in rows)]
    kept = None if len(wanted) == len(HEADS) else open_safety_model(base)
    matrix, owners = feature_matrix([row.text for row in rows])
    weights, biases, records = {}, {}, {}
    for head in HEADS:
        if head in wanted:
            log.info(f"train the {head} head on {len(rows):,} rows")
            weights[head], biases[head], records[head] = _train_head(head, rows, matrix, owners, inputs)
            records[head]["notes"] = list(notes)
        elif kept is not None:
            log.info(f"no rows labelled {head}: copy the {head} head of {base or 'the packaged model'}")
            values = kept.weights.real if head == "hate" else kept.weights.imag
            weights[head], biases[head] = values.astype(np.float16), float(kept.biases[HEADS.index(head)])
            records[head] = kept.records.get(head, {})
    write_model(out, weights, biases, records)
    return {"rows": len(rows), **{head: records[head] for head in wanted}}


def write_model(
    out: Path, weights: dict[str, NDArray[np.float16]], biases: dict[str, float], records: dict[str, Any]
) -> None:
    """Write the model and its card."""
    described = {"features_version": FEATURES_VERSION, "biases": biases, "records": records}
    with atomic_file(out / MODEL_FILE) as file:
        file.write(save(weights, metadata={"tinyllama_safety": json.dumps(described)}))
    with atomic_file(out / CARD_FILE, "w") as file:
        file.write(card(records))


def feature_matrix(texts: Sequence[str]) -> tuple[sparse.csr_matrix, NDArray[np.int64]]:
    """Features of all passages of the texts, shape (passages, SLOTS), and the number of each passage's text."""
    owners, passages = [], []
    for number, text in enumerate(texts):
        found = passages_of(text)
        passages += found
        owners += [number] * len(found)
    blocks = [_block(passages[start : start + _ROWS_AT_ONCE]) for start in range(0, len(passages), _ROWS_AT_ONCE)]
    matrix = sparse.csr_matrix(sparse.vstack(blocks)) if blocks else sparse.csr_matrix((0, SLOTS), dtype=np.float32)
    return matrix, np.array(owners, np.int64)


def _block(passages: list[bytes]) -> sparse.csr_matrix:
    """Features of passages, one at a time because `features_of` limits their total length."""
    slots, scales = [], []
    for passage in passages:
        scale, families = features_of([passage])
        scales.append(scale[0])
        slots.append(np.concatenate([np.delete(family.slots, family.void) for family in families]))
    lengths = list(map(len, slots))
    values = np.repeat(scales, lengths).astype(np.float32)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    block = sparse.csr_matrix((values, np.concatenate(slots), starts), shape=(len(passages), SLOTS))
    block.sum_duplicates()
    return block


def _train_head(
    head: str, rows: list[LabelledText], matrix: sparse.csr_matrix, owners: NDArray[np.int64], inputs: list[Path]
) -> tuple[NDArray[np.float16], float, dict[str, Any]]:
    """Weights, bias and metrics of one head. Rows that only have the other head's label are not used."""
    from sklearn.linear_model import LogisticRegression

    used = np.array([head in row.labels or not row.labels for row in rows])
    truth = np.array([head in row.labels for row in rows])
    part = np.array([row.part for row in rows])
    weight = row_weights(rows, truth)
    for name in ("train", "calibration", "test"):
        if len(set(truth[used & (part == name)])) < 2:
            raise InputError(
                f"{', '.join(map(str, inputs))}: the {name} part has only one class of {head}; "
                "give more labelled rows (some hundred of each)"
            )
    passages = np.bincount(owners, minlength=len(rows))
    passage_weight = (weight / np.maximum(1, passages))[owners]
    chosen = (used & (part == "train"))[owners]
    model = LogisticRegression(C=REGULARISATION, solver="liblinear", tol=1e-2, max_iter=200, random_state=0)
    model.fit(matrix[chosen], truth[owners][chosen], sample_weight=passage_weight[chosen])
    weights, bias = np.asarray(model.coef_)[0], float(np.asarray(model.intercept_)[0])
    raw = np.full(len(rows), -np.inf)
    np.maximum.at(raw, owners, matrix @ weights + bias)
    raw[np.isinf(raw)] = bias  # a text without words
    slope, shift = _platt(raw, truth, weight, used & (part == "calibration"))
    probabilities = 1 / (1 + np.exp(-(slope * raw + shift)))
    report = _test_metrics(rows, truth, probabilities, weight, used & (part == "test"))
    report["sources"] = _sources([row for row, is_used in zip(rows, used, strict=True) if is_used])
    return (slope * weights).astype(np.float16), slope * bias + shift, report


def row_weights(rows: list[LabelledText], truth: Mask) -> Floats:
    """Each row's own weight, else one that gives each class of its source half of the source's rows.

    Rows of a source with a single class weigh 1.
    """
    classes = [(row.source, bool(positive)) for row, positive in zip(rows, truth, strict=True)]
    counts, sources = Counter(classes), Counter(row.source for row in rows)
    weights = []
    for row, (source, positive) in zip(rows, classes, strict=True):
        has_both = counts[source, not positive] > 0
        balanced = sources[source] / 2 / counts[source, positive] if has_both else 1.0
        weights.append(balanced if row.weight is None else row.weight)
    return np.array(weights)


def _platt(raw: Floats, truth: Mask, weight: Floats, chosen: Mask) -> tuple[float, float]:
    """Slope and shift of the sigmoid fitted to the chosen rows."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=1e6).fit(raw[chosen, None], truth[chosen], sample_weight=weight[chosen])
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def _test_metrics(
    rows: list[LabelledText], truth: Mask, probabilities: Floats, weight: Floats, chosen: Mask
) -> dict[str, Any]:
    sources = np.array([row.source for row in rows])
    by_source = {}
    for source in sorted(set(sources[chosen])):
        of_source = chosen & (sources == source)
        if len(set(truth[of_source])) == 2:
            by_source[source] = metrics(truth[of_source], probabilities[of_source])
    negatives = probabilities[chosen & ~truth]
    rates = [rate for rate in (0.01, 0.001) if negatives.size * rate >= 1]
    return {
        **metrics(truth[chosen], probabilities[chosen]),
        "thresholds": {f"{rate:g}": round(threshold_at(negatives, rate), 4) for rate in rates},
        "reliability": reliability(truth[chosen], probabilities[chosen], weight[chosen]),
        "by_source": by_source,
    }


def _sources(rows: list[LabelledText]) -> dict[str, dict[str, Any]]:
    """Licence, and number of rows by label, of each source."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        entry = found.setdefault(row.source, {"licence": row.licence or "not stated"})
        for label in sorted(row.labels) or [NONE]:
            entry[label] = entry.get(label, 0) + 1
    return found


def card(records: Mapping[str, Any]) -> str:
    """The model card: training data, metrics and known limits."""
    lines = ["# Safety model", "", "Linear over hashed word and character n-grams; a probability for each passage."]
    for head in HEADS:
        lines += ["", f"## {head}", "", *_card_of_head(head, records.get(head, {}))]
    known = [
        "Both heads know words and their neighbours, not meaning: negation, quotation, irony and reclaimed words mislead.",
        "They are blind to which group is named, for the names in `safety_features.py`; others are not protected.",
    ]
    return "\n".join([*lines, "", "## Both", "", *(f"- {note}" for note in known), ""])


def _card_of_head(head: str, found: Mapping[str, Any]) -> list[str]:
    if not found:
        return ["Nothing is recorded about this head."]
    lines = [f"| trained and measured on | licence | {head} | none |", "|---|---|---:|---:|"]
    for name, row in found["sources"].items():
        lines.append(f"| {name} | {row['licence']} | {row.get(head, 0):,} | {row.get(NONE, 0):,} |")
    lines += ["", "| held-out rows of | rows | positives | average precision | recall at 1% false positives |"]
    lines += ["|---|---:|---:|---:|---:|"]
    for name, row in {"all": found, **found["by_source"]}.items():
        share = f"{row['average_precision']:.3f} | {row['recall_at_1pct_false_positives']:.3f}"
        lines.append(f"| {name} | {row['rows']:,} | {row['positives']:,} | {share} |")
    thresholds = ", ".join(f"{value} ({float(rate):.1%})" for rate, value in found["thresholds"].items())
    error = found["reliability"]["expected_calibration_error"]
    lines += ["", f"Thresholds by false positives on held-out rows: {thresholds or 'too few rows'}."]
    lines += [f"Expected calibration error: {error}.", "", *(f"- {note}" for note in found.get("notes", ()))]
    return lines
