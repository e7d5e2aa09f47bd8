"""events.jsonl tells the story: each event of docs/resume.md's table, with the details that the table names."""

import ast
import re
from pathlib import Path

import pytest

from tests.train.run_processes import events
from tests.train.test_loss_spikes import poisoned_run
from tinyllama import api, files
from tinyllama.errors import RunStoppedError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "resume.md").read_text()
ALWAYS = {"time", "event", "step"}


def table() -> dict[str, set[str]]:
    """Event to its details, as the page has them."""
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| .*\|$", PAGE[PAGE.index("## The story") :], re.M)
    return {event: set(re.findall(r"`(\w+)`", details)) for event, details in rows}


def test_the_table_is_what_the_code_writes():
    """Every call of write_event that names its event."""
    found: dict[str, set[frozenset[str]]] = {}
    for path in (ROOT / "src" / "tinyllama" / "train").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "write_event":
                name = node.args[1]
                if isinstance(name, ast.Constant):
                    keys = frozenset(str(keyword.arg) for keyword in node.keywords) - {"step", "anyway"}
                    found.setdefault(str(name.value), set()).add(keys)
    wanted = {name: {frozenset(details)} for name, details in table().items() if name not in ("resume", "roll_back")}
    assert found == wanted


def test_a_disturbed_run_tells_all(prepared_run: Path, tmp_path: Path):
    changes = {"train__max_spike_roll_backs": 1, "train__spike_steps_in_a_row": 1, "train__keep_checkpoints": 3}
    run_dir, words, _ = poisoned_run(prepared_run, tmp_path / "run", **changes)
    with pytest.raises(RunStoppedError):
        api.pretrain("small-120m", run_dir, words)
    newest = max((run_dir / "checkpoints").glob("step_*"))
    (newest / "weights.safetensors").write_bytes(b"damaged")
    words += ["train.on_spike_limit=go_on", "train.weight_decay=0.2"]
    api.pretrain("small-120m", run_dir, words, allow_changes=["train.weight_decay"])
    rows = files.read_jsonl(run_dir / "events.jsonl")
    assert {row["event"] for row in rows} == set(table()) - {"skip", "full_disk"}
    for row in rows:
        assert set(row) == ALWAYS | table()[row["event"]]
        assert isinstance(row["time"], float)
        assert isinstance(row["step"], int)
        assert row["event"] == "save" or len(row["reason"]) > 5
    assert events(run_dir, "set_aside")[0]["checkpoint"] == f"damaged_{newest.name}"
    assert events(run_dir, "allow_change")[0]["reason"] == "train.weight_decay: 0.1 -> 0.2"
    assert [name for name in dict.fromkeys(row["event"] for row in rows) if name != "save"] == [
        "start", "spike", "quarantine", "roll_back", "stop", "set_aside", "allow_change", "resume", "finish",
    ]  # fmt: skip
