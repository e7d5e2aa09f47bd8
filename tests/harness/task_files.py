"""A data folder of a few examples a task, in the form of the real one, for tests without it."""

import gzip
import json
from pathlib import Path
from typing import Any

PIQA = [
    {"goal": "to open a jar", "sol1": "turn the lid", "sol2": "eat the lid of the jar", "label": 0},
    {"goal": "to dry a shirt", "sol1": "put it in water", "sol2": "hang it in the sun", "label": 1},
    {"goal": "to make tea", "sol1": "boil water first", "sol2": "boil sand", "label": 0},
    {"goal": "to find a word", "sol1": "throw the book", "sol2": "read the index of the book", "label": 1},
]
COLA = [
    {"sentence": text, "label": label}
    for text, label in (("The boy reads.", 1), ("Boy the reads.", 0), ("It rains.", 1), ("Rains it does it.", 0))
]
LAMBADA = [{"text": "The value of the name is the value"}, {"text": "A list is a list and a name is a name"}]
SQUAD = [
    {
        "id": "1",
        "title": "Python",
        "context": "Python is a language. It has lists.",
        "question": "What is Python?",
        "answers": {"text": ["a language"], "answer_start": [10]},
    },
    {
        "id": "2",
        "title": "Python",
        "context": "Python is a language. It has lists.",
        "question": "Who made it?",
        "answers": {"text": [], "answer_start": []},
    },
]
WIKITEXT = [{"page": " = Value = \n \n The value of a name is an object . \n"}, {"page": " = List = \n \n A list . \n"}]
FILES: dict[str, list[dict[str, Any]]] = {
    "piqa/validation.jsonl.gz": PIQA,
    "glue_cola/validation.jsonl.gz": COLA,
    "glue_cola/train.jsonl.gz": COLA,
    "lambada_openai/test.jsonl.gz": LAMBADA,
    "squad_v2/validation.jsonl.gz": SQUAD,
    "wikitext103_raw/test_page.jsonl.gz": WIKITEXT,
}
TASKS = ["piqa", "cola", "lambada", "squad_v2", "wikitext103"]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def write_task_files(folder: Path) -> Path:
    """Every file of `FILES` under `folder`; returns it."""
    for name, rows in FILES.items():
        write_rows(folder / name, rows)
    return folder
