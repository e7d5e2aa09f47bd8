"""Offensive and sexual text: a linear model over hashed n-grams that scores a document by its passages.

A model is one file, `safety.safetensors`: for each head (`hate`, `sexual`) a vector of `SLOTS` weights, and in the
header the biases; beside it `safety.md`, its card. Of a passage,

    probability = sigmoid(bias + sum of the weights of its features / sqrt(bytes))

is calibrated on held-out rows (Platt 1999); `safety_features.py` says what features and bytes are. A text's
probability is that of its worst passage.
"""

import json
from dataclasses import dataclass, field
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from tinyllama.cleaning.safety_features import FEATURES_VERSION, SLOTS, features_of, passages_of
from tinyllama.cleaning.safety_labels import HEADS
from tinyllama.document_files import paragraphs_in
from tinyllama.errors import InputError
from tinyllama.hashing import MAX_BYTES

MODEL_FILE, CARD_FILE = "safety.safetensors", "safety.md"
_MAX_MODEL_BYTES = 64 << 20

Probabilities = NDArray[np.float64]  # shape (passages, 2): hate, sexual


@dataclass(frozen=True)
class SafetyModel:
    """Weights of both heads as one complex number a slot (real: hate, imaginary: sexual): one look-up serves both."""

    weights: NDArray[np.complex64]  # shape (SLOTS,)
    biases: NDArray[np.float64]  # shape (2,)
    records: dict[str, Any] = field(default_factory=dict)  # by head: its sources and figures, as its card has them

    def passage_probabilities(self, passages: list[bytes]) -> Probabilities:
        """Of each passage (see `safety_features.passages_of`): shape (passages, 2)."""
        logits, start, size = [np.zeros((0, 2))], 0, 0
        for number, passage in enumerate(passages):
            if size + len(passage) > MAX_BYTES:
                logits.append(self._logits(passages[start:number]))
                start, size = number, 0
            size += len(passage)
        if passages:
            logits.append(self._logits(passages[start:]))
        return 1 / (1 + np.exp(-np.clip(np.concatenate(logits), -60, 60)))

    def _logits(self, passages: list[bytes]) -> NDArray[np.float64]:
        sums = np.zeros(len(passages), np.complex64)
        scale, families = features_of(passages)
        for family in families:
            values = self.weights[family.slots]
            values[family.void] = 0
            sums += np.add.reduceat(values, family.starts)
        return np.stack([sums.real * scale, sums.imag * scale], axis=1) + self.biases

    def probabilities_of(self, texts: list[str]) -> list[Probabilities]:
        """Of each text the probabilities of its paragraphs, those of their worst passages: shape (paragraphs, 2).

        Texts together take half the time of one after another. A paragraph without a word has 0.
        """
        paragraphs = [paragraphs_in(text) for text in texts]
        passages, owners = [], []
        for number, paragraph in enumerate(chain.from_iterable(paragraphs)):
            found = passages_of(paragraph)
            passages += found
            owners += [number] * len(found)
        ends = np.cumsum([len(found) for found in paragraphs])
        worst = np.zeros((int(ends[-1]) if texts else 0, 2))
        np.maximum.at(worst, np.array(owners, int), self.passage_probabilities(passages))
        return np.split(worst, ends[:-1])[: len(texts)]

    def text_probabilities(self, texts: list[str]) -> list[tuple[float, float]]:
        """(hate, sexual) of each text's worst passage."""
        return [_rounded(found.max(axis=0)) for found in self.probabilities_of(texts)]


def open_safety_model(folder: Path | None = None) -> SafetyModel:
    """The model of a folder or file that `train-safety` wrote; None: the packaged one.

    Raises InputError when there is none, or it is damaged, of another kind or of another version.
    """
    if folder is None:
        folder = Path(str(resources.files("tinyllama") / "cleaning"))
    path = folder / MODEL_FILE if folder.is_dir() else folder
    if not path.is_file():
        raise InputError(f"{path}: no such file; `tinyllama train-safety LABELS --out D` makes one")
    if path.stat().st_size > _MAX_MODEL_BYTES:
        raise InputError(f"{path}: larger than {_MAX_MODEL_BYTES:,} bytes; not a safety model")
    try:
        with safe_open(path, "numpy") as file:
            described = json.loads((file.metadata() or {}).get("tinyllama_safety", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (SafetensorError, ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path}: not a safety model ({' '.join(str(error).split())[:200]})") from None
    return _checked(tensors, described, path)


def _checked(tensors: dict[str, NDArray], described: Any, path: Path) -> SafetyModel:
    described = described if isinstance(described, dict) else {}
    if described.get("features_version") != FEATURES_VERSION:
        found = described.get("features_version")
        raise InputError(f"{path}: features_version is {found!r}, not {FEATURES_VERSION}; train it again")
    biases = described.get("biases") if isinstance(described.get("biases"), dict) else {}
    for head in HEADS:
        weights = tensors.get(head, np.zeros(0))
        sound = weights.shape == (SLOTS,) and weights.dtype == np.float16
        bias = biases.get(head)
        if (
            not sound
            or not isinstance(bias, int | float)
            or not np.isfinite([bias, float(weights.sum(dtype=float))]).all()
        ):
            raise InputError(f"{path}: no sound weights or bias of {head!r}; train it again")
    joined = tensors["hate"].astype(np.float32) + 1j * tensors["sexual"].astype(np.float32)
    records = described.get("records")
    return SafetyModel(
        weights=joined.astype(np.complex64),
        biases=np.array([biases[head] for head in HEADS], float),
        records=records if isinstance(records, dict) else {},
    )


@dataclass(frozen=True)
class Safe:
    """What the safety step leaves of a text: the text, why it goes ("" stays), its worst probabilities, how many
    paragraphs were taken out, and a line about what goes. The probabilities are of what stays, else of all."""

    text: str
    reason: str = ""
    hate: float = 0.0
    sexual: float = 0.0
    dropped_paragraphs: int = 0
    detail: str = ""


def safe_text(
    text: str, probabilities: Probabilities, *, max_hate: float, max_sexual: float, drops: str, max_unsafe_chars: float
) -> Safe:
    """Take out the paragraphs above a threshold, or the whole text. `probabilities`: see `SafetyModel.probabilities_of`.

    `drops`: `document` (one such paragraph and the text goes), `paragraph` (it goes when more than `max_unsafe_chars`
    of its characters would) or `score` (nothing goes). Reasons: `safety_hate`, `safety_sexual`, whichever head is
    further above its threshold in the worst paragraph.
    """
    paragraphs = paragraphs_in(text)
    worst = probabilities.max(axis=0)
    bad = np.any(probabilities > (max_hate, max_sexual), axis=1)
    if drops == "score" or not bad.any():
        return Safe(text, "", *_rounded(worst))
    lengths = np.fromiter(map(len, paragraphs), float, len(paragraphs))
    if drops == "document" or lengths[bad].sum() > max_unsafe_chars * lengths.sum():
        head = int(np.argmax(worst - (max_hate, max_sexual)))
        detail = f"{HEADS[head]} {worst[head]:.3f}, {int(bad.sum())} of {len(paragraphs)} paragraphs"
        return Safe(text, f"safety_{HEADS[head]}", *_rounded(worst), detail=detail)
    between = "\n\n" if "\n\n" in text else "\n"
    kept = between.join(paragraph for paragraph, is_bad in zip(paragraphs, bad.tolist(), strict=True) if not is_bad)
    return Safe(kept, "", *_rounded(probabilities[~bad].max(axis=0)), int(bad.sum()))


def _rounded(probabilities: NDArray[np.float64]) -> tuple[float, float]:
    hate, sexual = probabilities
    return round(float(hate), 6), round(float(sexual), 6)
