"""Events of a run, from events.jsonl: marks on the loss curve, losses that a roll-back discarded, and the timeline."""

from datetime import UTC, datetime
from typing import Any

from tinyllama.report.plots import Mark, Point, Series
from tinyllama.report.run_facts import RunFacts, number
from tinyllama.report.ticks import exact

MAX_EVENTS = 200
MAX_DOCUMENTS = 12
# Event: its kind of mark, and the words before its step.
MARKS = {
    "resume": ("resume", "resumed at step"),
    "roll_back": ("roll-back", "rolled back to step"),
    "stop": ("stop", "stopped after step"),
    "spike": ("spike", "loss spike at step"),
    "skip": ("skip", "no update at step"),
    "save": ("save", "checkpoint saved at step"),
}
NAMES = {
    "start": "started", "resume": "resumed", "skip": "step skipped", "spike": "loss spike", "roll_back": "rolled back",
    "quarantine": "data quarantined", "set_aside": "damaged checkpoint", "full_disk": "full disk",
    "allow_change": "recipe changed", "stop": "stopped", "finish": "finished",
}  # fmt: skip


def marks(facts: RunFacts) -> list[Mark]:
    """A mark for each event that has one, at most one per step and event."""
    found: dict[tuple[str, float], Mark] = {}
    for event in facts.events:
        name, step = event.get("event"), number(event.get("step"))
        if isinstance(name, str) and name in MARKS and step is not None:
            kind, words = MARKS[name]
            reason = event.get("reason")
            because = f": {reason[:200]}" if name in ("spike", "skip", "stop") and isinstance(reason, str) else ""
            found[name, step] = Mark(float(step), f"{words} {exact(step)}{because}", kind)
    return list(found.values())


def discarded_losses(facts: RunFacts) -> list[Series]:
    """The losses that a roll-back discarded: one series per spike, from the step that the run was rolled back to."""
    found: dict[float, list[Point]] = {}
    spike: dict[str, Any] | None = None
    for event in facts.events:
        if event.get("event") == "spike":
            spike = event
        elif event.get("event") == "roll_back" and spike is not None:
            step, spike_step = number(event.get("step")), number(spike.get("step"))
            if step is not None and spike_step is not None:
                found[spike_step] = [point for point in _pairs(spike.get("losses")) if point[0] >= step]
            spike = None
    return [Series("discarded by a roll-back", points, "dashed") for points in found.values() if points]


def _pairs(value: Any) -> list[Point]:
    """[step, loss] pairs of finite numbers."""
    pairs = [pair for pair in value if isinstance(pair, list) and len(pair) == 2] if isinstance(value, list) else []
    numbers = ((number(step), number(loss)) for step, loss in pairs)
    return [(float(step), float(loss)) for step, loss in numbers if step is not None and loss is not None]


def rows(facts: RunFacts) -> list[tuple[str, str, str, str]]:
    """Time, name, step and details of each event except saves; the last MAX_EVENTS of them."""
    found = []
    for event in facts.events:
        name, step = event.get("event"), number(event.get("step"))
        if isinstance(name, str) and name in NAMES:
            time = _utc(number(event.get("time")))
            found.append((time, NAMES[name], exact(step) if step is not None else "", _details(event)))
    return found[-MAX_EVENTS:]


def _details(event: dict[str, Any]) -> str:
    words = [event[key] for key in ("reason", "answer") if isinstance(event.get(key), str)]
    if event.get("event") in ("resume", "roll_back") and isinstance(event.get("checkpoint"), str):
        words.append(event["checkpoint"])
    windows, documents = event.get("windows"), event.get("documents")
    if isinstance(windows, list):
        words.append(f"{len(windows)} windows")
    if isinstance(documents, list):
        names = [str(one)[:40] for one in documents[:MAX_DOCUMENTS]]
        more = f" and {len(documents) - len(names)} more" if len(documents) > len(names) else ""
        words.append(f"documents {', '.join(names)}{more}")
    return "; ".join(words)


def _utc(seconds: float | None) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S") if seconds is not None else ""
    except (OverflowError, OSError, ValueError):
        return ""
