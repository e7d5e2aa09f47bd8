"""Linear classifier for hate speech and sexual content over hashed n-grams, which scores a text by its passages.

A model is one file, `safety.safetensors`: for each head (`hate`, `sexual`) a vector of `SLOTS` weights, and the biases in
the header; its model card is `safety.md`. For a passage,

    probability = sigmoid(bias + sum of the weights of its features / sqrt(bytes))

is calibrated on held-out rows (Platt 1999); `safety_features.py` defines features and bytes. The probability of a text is
that of its worst passage.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from tinyllama.cleaning.clean_config import SafetyConfig
from tinyllama.cleaning.safety_features import FEATURES_VERSION, SLOTS, features_of, passages_of
from tinyllama.cleaning.safety_labels import HEADS
from tinyllama.cleaning.text_batch import batches_of
from tinyllama.document_files import paragraphs_in
from tinyllama.errors import InputError
from tinyllama.hashing import MAX_BYTES

MODEL_FILE, CARD_FILE = "safety.safetensors", "safety.md"
_MAX_MODEL_BYTES = 64 << 20

Probabilities = NDArray[np.float64]  # shape (passages, 2): hate, sexual


@dataclass(frozen=True)
class SafetyModel:
    """Weights of both heads as one complex number per slot (real: hate, imaginary: sexual), for a single look-up."""

    weights: NDArray[np.complex64]  # shape (SLOTS,)
    biases: NDArray[np.float64]  # shape (2,)
    records: dict[str, Any] = field(default_factory=dict)  # by head: its sources and metrics, as in the card

    def passage_probabilities(self, passages: list[bytes]) -> Probabilities:
        """Probabilities of passages from `safety_features.passages_of`: shape (passages, 2)."""
        logits = [np.zeros((0, 2)), *map(self._logits, batches_of(passages, MAX_BYTES))]
        return 1 / (1 + np.exp(-np.clip(np.concatenate(logits), -60, 60)))

    def _logits(self, passages: Sequence[bytes]) -> NDArray[np.float64]:
        sums = np.zeros(len(passages), np.complex64)
        scale, families = features_of(passages)
        for family in families:
            values = self.weights[family.slots]
            values[family.void] = 0
            sums += np.add.reduceat(values, family.starts)
        return np.stack([sums.real * scale, sums.imag * scale], axis=1) + self.biases

    def probabilities_of(self, texts: list[str]) -> list[Probabilities]:
        """For each text the probabilities of its paragraphs' worst passages: shape (paragraphs, 2); 0 without words.

        A batch takes half the time of the same texts one by one.
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


def open_safety_model(path: Path | str | None = None) -> SafetyModel:
    """Load the folder or file that `train-safety` wrote; None or "": the packaged model.

    Raises InputError when there is none, or it is damaged, of another kind or of another version.
    """
    path = Path(path or str(resources.files("tinyllama") / "cleaning"))
    path = path / MODEL_FILE if path.is_dir() else path
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
    version, biases, records = (described.get(name) for name in ("features_version", "biases", "records"))
    if version != FEATURES_VERSION:
        raise InputError(f"{path}: features_version is {version!r}, not {FEATURES_VERSION}; train it again")
    for head in HEADS:
        weights, bias = tensors.get(head, np.zeros(0)), biases.get(head) if isinstance(biases, dict) else None
        is_valid = weights.shape == (SLOTS,) and weights.dtype == np.float16 and isinstance(bias, int | float)
        if not is_valid or not np.isfinite([bias, float(weights.sum(dtype=float))]).all():
            raise InputError(f"{path}: no valid weights or bias of {head!r}; train it again")
    joined = tensors["hate"].astype(np.float32) + 1j * tensors["sexual"].astype(np.float32)
    return SafetyModel(
        weights=joined.astype(np.complex64),
        biases=np.array([biases[head] for head in HEADS], float),
        records=records if isinstance(records, dict) else {},
    )


@dataclass(frozen=True)
class SafetyResult:
    """A text after the safety filter. The probabilities are those of what is kept, else those of the whole text."""

    text: str
    reason: str = ""  # "": the text is kept
    hate: float = 0.0
    sexual: float = 0.0
    unsafe_paragraphs: int = 0  # removed ones
    detail: str = ""


def remove_unsafe(text: str, probabilities: Probabilities, config: SafetyConfig) -> SafetyResult:
    """Remove the paragraphs above a threshold, or drop the text. `probabilities`: see `SafetyModel.probabilities_of`.

    `config.safety`: `document` (one such paragraph drops the text), `paragraph` (the text is dropped when it would lose
    more than `max_unsafe_chars` of its characters) or `score` (nothing is removed). Reasons: `safety_hate`,
    `safety_sexual`, whichever is further above its threshold in the worst paragraph.
    """
    paragraphs = paragraphs_in(text)
    limits = (config.max_hate, config.max_sexual)
    worst = probabilities.max(axis=0)
    unsafe = np.any(probabilities > limits, axis=1)
    if config.safety == "score" or not unsafe.any():
        return SafetyResult(text, "", *_rounded(worst))
    lengths = np.fromiter(map(len, paragraphs), float, len(paragraphs))
    if config.safety == "document" or lengths[unsafe].sum() > config.max_unsafe_chars * lengths.sum():
        head = int(np.argmax(worst - limits))
        detail = f"{HEADS[head]} {worst[head]:.3f}, {int(unsafe.sum())} of {len(paragraphs)} paragraphs"
        return SafetyResult(text, f"safety_{HEADS[head]}", *_rounded(worst), detail=detail)
    kept = [paragraph for paragraph, is_unsafe in zip(paragraphs, unsafe.tolist(), strict=True) if not is_unsafe]
    text = ("\n\n" if "\n\n" in text else "\n").join(kept)
    return SafetyResult(text, "", *_rounded(probabilities[~unsafe].max(axis=0)), int(unsafe.sum()))


def _rounded(probabilities: NDArray[np.float64]) -> tuple[float, float]:
    hate, sexual = probabilities
    return round(float(hate), 6), round(float(sexual), 6)
