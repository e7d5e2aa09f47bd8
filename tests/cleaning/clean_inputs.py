"""Small inputs for the tests of whole cleaning: texts that pass the default rules, and ways to write them down."""

import gzip
import io
import json
import random
from pathlib import Path
from typing import Any

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

_TEXT = (
    "harbour lighthouse keeper island storm letter garden river teacher bridge market window forest clock watched carried "
    "remembered repaired followed painted visited counted crossed described answered northern mountain village southern "
    "valley coast quiet eastern meadow castle chapel railway morning evening winter summer copper silver wooden"
)
_WORDS = _TEXT.split()
_LINKS = ("the", "of the", "and", "to the", "with", "that", "have", "beside the", "under", "after", "for", "without a")


def prose(seed: int, sentences: int = 12) -> str:
    """English sentences, a line each, that differ from seed to seed and repeat nothing."""
    pick = random.Random(seed)
    lines = []
    for _ in range(sentences):
        words = [word for _ in range(9) for word in (pick.choice(_WORDS), pick.choice(_LINKS))]
        lines.append(f"The {' '.join(words)} {pick.choice(_WORDS)}.")
    return "\n".join(lines)


def page(text: str) -> str:
    paragraphs = "".join(f"<p>{line}</p>" for line in text.split("\n"))
    return f"<html><body><nav>Menu</nav><main><h1>Title</h1>{paragraphs}</main></body></html>"


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def write_warc(path: Path, pages: dict[str, bytes], content_type: str = "text/html; charset=utf-8") -> Path:
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        for url, body in pages.items():
            headers = StatusAndHeaders("200 OK", [("Content-Type", content_type)], protocol="HTTP/1.1")
            record = writer.create_warc_record(url, "response", payload=io.BytesIO(body), http_headers=headers)
            writer.write_record(record)
    return path


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
