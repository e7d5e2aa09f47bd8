"""How many documents and bytes went through each step of cleaning, and where the others went."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from tinyllama.clean import document_parts as parts
from tinyllama.clean.pii import KINDS
from tinyllama.files import write_json

FUNNEL = "funnel.json"
_LARGEST = 20  # domains and languages that are listed by name

# Steps in their order, and the reasons that each gives (by their beginnings).
STEPS = {
    "language": ("too_long", "language_"),
    "gopher": ("gopher_",),
    "c4": ("c4_",),
    "fineweb": ("fineweb_",),
    "safety": ("safety_",),
    "decontamination": ("contaminated",),
    "personal_information": ("personal_information",),
    "duplicate_id": ("duplicate_id",),
    "exact_duplicates": ("exact_duplicate",),
    "near_duplicates": ("near_duplicate",),
}
PARAGRAPHS = ("unsafe_paragraphs", "contaminated_paragraphs")


@dataclass
class Tally:
    """Counts over the parts of a corpus; bytes are UTF-8."""

    documents: Counter[str] = field(default_factory=Counter)  # by reason, "" for those that stay
    raw_bytes: Counter[str] = field(default_factory=Counter)  # before rules that edit and before masking
    split_documents: Counter[str] = field(default_factory=Counter)
    split_bytes: Counter[str] = field(default_factory=Counter)
    masked: Counter[str] = field(default_factory=Counter)
    paragraphs: Counter[str] = field(default_factory=Counter)  # taken out of documents that stay, by why
    tasks: Counter[str] = field(default_factory=Counter)  # documents that share text with each evaluation task
    groups: dict[str, Counter[tuple[str, str]]] = field(default_factory=dict)  # (value, "in" | "out" | "bytes_out")

    def add(self, table: pa.Table, in_validation: list[bool]) -> None:
        """Count one judged part, whose column `reason` is final."""
        names = ["reason", "raw_bytes", "bytes", "language", "domain", "tasks", *PARAGRAPHS]
        names += [f"masked_{kind}" for kind in KINDS]
        for row, validation in zip(table.select(names).to_pylist(), in_validation, strict=True):
            reason = row["reason"]
            self.documents[reason] += 1
            self.raw_bytes[reason] += row["raw_bytes"]
            for name in ("language", "domain"):
                group = self.groups.setdefault(name, Counter())
                group[row[name], "in"] += 1
                group[row[name], "out"] += not reason
                group[row[name], "bytes_out"] += 0 if reason else row["bytes"]
            self.tasks.update(row["tasks"].split())
            if reason:
                continue
            for name in PARAGRAPHS:
                self.paragraphs[name] += row[name]
            split = "validation" if validation else "train"
            self.split_documents[split] += 1
            self.split_bytes[split] += row["bytes"]
            for kind in KINDS:
                self.masked[kind] += row[f"masked_{kind}"]


def write_funnel(out: Path, documents: Path, tally: Tally) -> dict[str, Any]:
    """Write `funnel.json` into `out` and return the phase's summary.

    The first step is extraction when `documents` holds its drops.
    """
    extraction: Counter[str] = Counter()
    for path in parts.part_paths(documents / parts.DROPPED):
        extraction.update(parts.read_part(path, ["reason"]).column("reason").to_pylist())
    dropped = extraction + Counter({reason: count for reason, count in tally.documents.items() if reason})
    summary = {
        "documents_in": tally.documents.total() + extraction.total(),
        "documents_out": tally.documents[""],
        "train_documents": tally.split_documents["train"],
        "validation_documents": tally.split_documents["validation"],
        "text_bytes_in": tally.raw_bytes.total(),
        "text_bytes_out": tally.split_bytes.total(),
        "dropped": dict(sorted(dropped.items())),
        "masked": {kind: tally.masked[kind] for kind in KINDS},
        **{name: tally.paragraphs[name] for name in PARAGRAPHS},
        "contaminated": dict(sorted(tally.tasks.items())),
    }
    tables = {name: _largest(group) for name, group in sorted(tally.groups.items())}
    write_json(out / FUNNEL, {**summary, "steps": _steps(extraction, tally), **tables})
    return summary


def _steps(extraction: Counter[str], tally: Tally) -> list[dict[str, Any]]:
    """Each step's documents and bytes in and out, and its drops by reason. Bytes are those of the texts as extracted."""
    documents, size = tally.documents.total(), tally.raw_bytes.total()
    steps = [
        {
            "step": "extract",
            "documents_in": documents + extraction.total(),
            "documents_out": documents,
            "bytes_in": size,
            "bytes_out": size,
            "dropped": dict(sorted(extraction.items())),
        }
    ]
    for step, beginnings in STEPS.items():
        reasons = sorted(reason for reason in tally.documents if reason.startswith(beginnings))
        before = documents, size
        documents -= sum(tally.documents[reason] for reason in reasons)
        size -= sum(tally.raw_bytes[reason] for reason in reasons)
        steps.append(
            {
                "step": step,
                "documents_in": before[0],
                "documents_out": documents,
                "bytes_in": before[1],
                "bytes_out": size,
                "dropped": {reason: tally.documents[reason] for reason in reasons},
            }
        )
    edited = tally.split_bytes.total()
    for step, result in (("edit_and_mask", edited), ("split", edited)):
        steps.append(
            {
                "step": step,
                "documents_in": documents,
                "documents_out": documents,
                "bytes_in": size,
                "bytes_out": result,
                "dropped": {},
            }
        )
        size = result
    steps[-1]["splits"] = {
        split: {"documents": tally.split_documents[split], "bytes": tally.split_bytes[split]}
        for split in ("train", "validation")
    }
    return steps


def _largest(group: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """The values with most documents, all others together as `(others)`."""
    values = sorted({value for value, _ in group}, key=lambda value: (-group[value, "in"], value))
    table: dict[str, dict[str, int]] = {}
    for place, value in enumerate(values):
        row = table.setdefault(value or "(none)" if place < _LARGEST else "(others)", Counter())
        for name in ("in", "out", "bytes_out"):
            row[name] = row.get(name, 0) + group[value, name]
    return {value: dict(row) for value, row in table.items()}
