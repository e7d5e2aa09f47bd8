"""Counts documents and bytes after each cleaning step, and drops by reason."""

from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tinyllama import document_files
from tinyllama.cleaning.pii import KINDS
from tinyllama.files import write_json

FUNNEL = "funnel.json"
_LARGEST = 20  # domains, languages and licences that are listed by name

# Steps in order, and the prefixes of their drop reasons.
STEPS = {
    "time_limit": ("step_",),
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
    "duplicate_paragraphs": ("duplicate_paragraphs",),
}
# What was removed from kept documents.
REMOVED = ("site_lines", "unsafe_paragraphs", "contaminated_paragraphs", "copied_paragraphs")
GROUPS = ("domain", "language", "licence")


@dataclass
class Tally:
    """Counts over the documents of a corpus; bytes are UTF-8."""

    documents: Counter[str] = field(default_factory=Counter)  # by reason, "" for kept ones
    raw_bytes: Counter[str] = field(default_factory=Counter)  # by reason, before any edit
    split_documents: Counter[str] = field(default_factory=Counter)
    split_bytes: Counter[str] = field(default_factory=Counter)
    masked: Counter[str] = field(default_factory=Counter)  # in kept documents, by kind
    taken_out: Counter[str] = field(default_factory=Counter)  # lines and paragraphs removed from kept documents, by why
    tasks: Counter[str] = field(default_factory=Counter)  # documents that share text with each evaluation task
    clusters: Counter[str] = field(default_factory=Counter)  # documents in clusters of near-duplicates: "in", "out"
    # for each of `GROUPS`, documents in, documents out and bytes out by value; the keys are "VALUE\tCOUNT"
    domain: Counter[str] = field(default_factory=Counter)
    language: Counter[str] = field(default_factory=Counter)
    licence: Counter[str] = field(default_factory=Counter)

    def add(self, row: dict[str, Any]) -> None:
        """Count one document whose `reason` and `split` are final."""
        reason = row["reason"]
        self.documents[reason] += 1
        self.raw_bytes[reason] += row["raw_bytes"]
        for name in GROUPS:
            group, value = getattr(self, name), row[name] or ""
            group[f"{value}\tin"] += 1
            group[f"{value}\tout"] += not reason
            group[f"{value}\tbytes_out"] += 0 if reason else row["bytes"]
        self.tasks.update(row["tasks"].split())
        if row["cluster"]:
            self.clusters["in"] += 1
            self.clusters["out"] += not reason
        if reason:
            return
        self.taken_out.update({name: row[name] for name in REMOVED})
        self.split_documents[row["split"]] += 1
        self.split_bytes[row["split"]] += row["bytes"]
        self.masked.update({kind: row[f"masked_{kind}"] for kind in KINDS})

    def as_json(self) -> dict[str, dict[str, int]]:
        """The counts, as `merge` reads them."""
        return {field.name: dict(getattr(self, field.name)) for field in fields(self)}

    def merge(self, counts: dict[str, dict[str, int]]) -> None:
        """Add another tally's counts."""
        for name, values in counts.items():
            getattr(self, name).update(values)


def write_funnel(out: Path, documents: Path, tally: Tally) -> dict[str, Any]:
    """Write `funnel.json` into `out` and return the phase's summary. `documents`: the folder of extraction."""
    extraction: Counter[str] = Counter()
    for path in document_files.document_paths(documents / document_files.DROPPED):
        extraction.update(document_files.read_document_file(path, ["reason"]).column("reason").to_pylist())
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
        **{name: tally.taken_out[name] for name in REMOVED},
        "contaminated": dict(sorted(tally.tasks.items())),
        "clustered": {name: tally.clusters[name] for name in ("in", "out")},
    }
    tables = {name: _largest(getattr(tally, name)) for name in GROUPS}
    write_json(out / FUNNEL, {**summary, "steps": _steps(extraction, tally), **tables})
    return summary


def _steps(extraction: Counter[str], tally: Tally) -> list[dict[str, Any]]:
    """Each step's documents and bytes in and out, and its drops by reason. Bytes are those of the extracted texts."""
    documents, size = tally.documents.total(), tally.raw_bytes.total()
    steps = [
        _step("extract", (documents + extraction.total(), documents), (size, size), dict(sorted(extraction.items())))
    ]
    for step, prefixes in STEPS.items():
        reasons = sorted(reason for reason in tally.documents if reason.startswith(prefixes))
        before = documents, size
        documents -= sum(tally.documents[reason] for reason in reasons)
        size -= sum(tally.raw_bytes[reason] for reason in reasons)
        drops = {reason: tally.documents[reason] for reason in reasons}
        steps.append(_step(step, (before[0], documents), (before[1], size), drops))
    edited = tally.split_bytes.total()
    steps.append(_step("edit_and_mask", (documents, documents), (size, edited), {}))
    splits = {
        split: {"documents": tally.split_documents[split], "bytes": tally.split_bytes[split]}
        for split in ("train", "validation")
    }
    return [*steps, _step("split", (documents, documents), (edited, edited), {}) | {"splits": splits}]


def _step(name: str, documents: tuple[int, int], size: tuple[int, int], dropped: dict[str, int]) -> dict[str, Any]:
    (documents_in, documents_out), (bytes_in, bytes_out) = documents, size
    counts = {
        "documents_in": documents_in,
        "documents_out": documents_out,
        "bytes_in": bytes_in,
        "bytes_out": bytes_out,
    }
    return {"step": name, **counts, "dropped": dropped}


def _largest(group: Counter[str]) -> dict[str, dict[str, int]]:
    """Counts of the values with most documents, and of all others together as `(others)`."""
    sizes = {name.rpartition("\t")[0]: count for name, count in group.items() if name.endswith("\tin")}
    table: dict[str, dict[str, int]] = {}
    for number, value in enumerate(sorted(sizes, key=lambda value: (-sizes[value], value))):
        row = table.setdefault(value or "(none)" if number < _LARGEST else "(others)", {})
        for name in ("in", "out", "bytes_out"):
            row[name] = row.get(name, 0) + group[f"{value}\t{name}"]
    return table
