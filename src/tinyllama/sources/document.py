"""The record that every source passes to cleaning: one text and its origin."""

import hashlib
from dataclasses import dataclass
from typing import Literal

Kind = Literal["web", "book"]


@dataclass(frozen=True, slots=True)
class Document:
    """One text. `language` is an ISO 639-1 code; `licence` and `fetched_at` (ISO 8601, UTC) are empty where unknown."""

    id: str
    text: str
    source: str
    kind: Kind = "web"
    domain: str = ""
    language: str = ""
    licence: str = ""
    fetched_at: str = ""


def document_id(source: str, text: str) -> str:
    """16 hex digits of the sha256 over `source` (URL or catalogue id), a zero byte and `text`.

    Lone surrogates, which UTF-8 cannot hold, are hashed in their escaped form.
    """
    digest = hashlib.sha256(source.encode("utf-8", "backslashreplace"))
    digest.update(b"\0")
    digest.update(text.encode("utf-8", "backslashreplace"))
    return digest.hexdigest()[:16]
