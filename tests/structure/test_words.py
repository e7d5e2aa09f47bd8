"""The code speaks the field's language: words that may not come back, and one meaning for each class name."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "tinyllama"
TEXTS = sorted([*SOURCE.rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"])
# A word that is not the field's, and the one that is.
FORBIDDEN = {
    r"\banew\b": "again",
    r"\btak(?:e|es|en|ing) up\b|\btake_up\b": "resume",
    r"\btoo dear\b|\bdearer\b": "too costly, more costly",
    r"\blet go\b|\blets go\b|\blet_go\b": "free",
    r"\bgo(?:es)? on from\b|\bgoing on after\b": "resume from",
    r"\bwhoever\b": "name who",
    r"\bcalled off\b": "skipped",
    r"\bis there to be\b|\bare there to be\b": "say what it is",
    r"\bCut(?:State|Step|Gradients)\b": "the one engine",
    r"\bwhereabouts\b": "progress",
    r"\bstand-ins?\b": "fake",
    r"(?<![\"`])\bfates?\b(?![\"`])": "drop reason; explain's JSON field keeps its name",
    r"\bleavings\b": "partial output",
}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_word_of_the_private_language(path: Path):
    text = path.read_text()
    found = {
        f"{text[: match.start()].count(chr(10)) + 1}: {match[0]} ({better})"
        for pattern, better in FORBIDDEN.items()
        for match in re.finditer(pattern, text, re.IGNORECASE)
    }
    assert not found, f"{path.relative_to(ROOT)}: {sorted(found)}"


def test_no_class_name_stands_for_two_things():
    places: dict[str, list[str]] = defaultdict(list)
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(path.relative_to(SOURCE)))
    assert not {name: found for name, found in places.items() if len(found) > 1}
