"""Events of a run, from events.jsonl: marks on the loss curve, the losses before each roll-back, and a table."""

from datetime import UTC, datetime
from typing import Any

from tinyllama.report.plots import Mark, Point, Series
from tinyllama.report.run_facts import RunFacts, number
from tinyllama.report.safe_text import text
from tinyllama.report.ticks import exact

MAX_EVENTS = 200
MAX_DOCUMENTS = 12
# Event to its kind of mark and the words before its step.
MARKS = {
    "resume": ("resume", "resumed at step"),
    "roll_back": ("roll-back", "went back to step"),
    "stop": ("stop", "stopped after step"),
    "spike": ("spike", "loss spike at step"),
    "skip": ("skip", "no update at step"),
    "save": ("save", "checkpoint saved at step"),
}
NAMES = {
    "start": "started", "resume": "resumed", "skip": "step left out", "spike": "loss spike", "roll_back": "went back",
    "quarantine": "data left out", "set_aside": "damaged checkpoint", "full_disk": "full disk",
    "allow_change": "recipe changed", "stop": "stopped", "finish": "finished",
}  # fmt: skip


def marks(facts: RunFacts) -> list[Mark]:
    """Each event that has a mark, once a step."""
    found: dict[tuple[str, float], Mark] = {}
    for event in facts.events:
        name, step = event.get("event"), number(event.get("step"))
        if isinstance(name, str) and name in MARKS and step is not None:
            kind, words = MARKS[name]
            reason = event.get("reason")
            because = f": {reason[:200]}" if name in ("spike", "skip", "stop") and isinstance(reason, str) else ""
            found[name, step] = Mark(float(step), f"{words} {exact(step)}{because}", kind)
    return list(found.values())


def gone_back_from(facts: RunFacts) -> list[Series]:
    """The losses that were seen before a spike made the run go back: one series a spike, from where it went back to."""
    found: dict[float, list[Point]] = {}
    pending: dict[str, Any] | None = None
    for event in facts.events:
        if event.get("event") == "spike":
            pending = event
        elif event.get("event") == "roll_back" and pending is not None:
            step, spike_step = number(event.get("step")), number(pending.get("step"))
            if step is not None and spike_step is not None:
                found[spike_step] = [point for point in _pairs(pending.get("losses")) if point[0] >= step]
            pending = None
    return [Series("gone back from", points, "dashed") for points in found.values() if points]


def _pairs(value: Any) -> list[Point]:
    """[step, loss] pairs of finite numbers."""
    found = []
    for pair in value if isinstance(value, list) else []:
        if isinstance(pair, list) and len(pair) == 2:
            step, loss = number(pair[0]), number(pair[1])
            if step is not None and loss is not None:
                found.append((float(step), float(loss)))
    return found


def story(facts: RunFacts) -> str:
    """The table of events; open when it is more than a run from its start to its end."""
    found = rows(facts)
    if not found:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("time (UTC)", "what", "step", "why"))
    body = "".join(
        f"<tr><td>{text(time)}</td><td>{text(what)}</td><td>{text(step)}</td><td>{text(why, 600)}</td></tr>"
        for time, what, step, why in found
    )
    table = f'<div class="wide"><table class="story"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    return f"<details{' open' if 2 < len(found) <= 30 else ''}><summary>What happened</summary>{table}</details>"


def rows(facts: RunFacts) -> list[tuple[str, str, str, str]]:
    """Time, what, step and why of each event but the saves, as plain text; of many the last ones."""
    found = []
    for event in facts.events:
        name, step, seconds = event.get("event"), number(event.get("step")), number(event.get("time"))
        if isinstance(name, str) and name in NAMES:
            found.append((_utc(seconds), NAMES[name], exact(step) if step is not None else "", _why(event)))
    return found[-MAX_EVENTS:]


def _why(event: dict[str, Any]) -> str:
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
