"""What cleaning kept of each domain, language and licence, as tables of a run's page."""

from typing import Any

from tinyllama.report.run_facts import RunFacts, number, table
from tinyllama.report.safe_text import text
from tinyllama.report.ticks import exact, percent, size

GROUPS = {"domain": "Domains", "language": "Languages", "licence": "Licences"}
MAX_ROWS = 20


def group_tables(facts: RunFacts) -> str:
    """One folded table a group, of the values with most documents; empty where funnel.json has none."""
    return "".join(_group_table(name, title, facts.document_groups.get(name, {})) for name, title in GROUPS.items())


def _group_table(name: str, title: str, group: dict[str, Any]) -> str:
    rows = [_cells(value, table(counted)) for value, counted in group.items()]
    shown = [row for row in rows if row]
    if not shown:
        return ""
    head = "".join(f'<th scope="col">{column}</th>' for column in (name, "documents in", "out", "kept", "text out"))
    rest = f"<p>and {len(shown) - MAX_ROWS} more in clean/funnel.json</p>" if len(shown) > MAX_ROWS else ""
    body = "".join(shown[:MAX_ROWS])
    listed = (
        f'<div class="wide"><table class="numbers"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )
    return f"<details><summary>{title}</summary>{listed}{rest}</details>"


def _cells(value: str, counted: dict[str, Any]) -> str:
    came, kept, n_bytes = (number(counted.get(key)) for key in ("in", "out", "bytes_out"))
    if came is None or kept is None or n_bytes is None:
        return ""
    share = percent(kept / came) if came else ""
    cells = (exact(came), exact(kept), share, size(n_bytes))
    return f"<tr><td><bdi>{text(value, 80)}</bdi></td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
