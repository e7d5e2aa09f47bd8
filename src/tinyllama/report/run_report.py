"""Writes report.html, one page about a run: a single file that needs nothing else and may be sent to anyone.

It only reads the run folder. The page loads nothing: its content security policy forbids it, and allows one script by its
hash, so that text of the run could not run as a script even if it were not escaped.
"""

import base64
import hashlib
from importlib import resources
from pathlib import Path

from tinyllama import files
from tinyllama.report import run_sections
from tinyllama.report.run_facts import RunFacts, read_run
from tinyllama.report.score_curves import score_curves
from tinyllama.report.templates import environment

REPORT = "report.html"


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run folder, from the files that are there, and return its path.

    The same files give the same bytes. Raises InputError when it is not a run folder or one of its files is damaged.
    """
    page = render_report(read_run(run_dir))
    path = run_dir / REPORT
    with files.atomic_file(path, "w") as file:
        file.write(page)
    return path


def render_report(facts: RunFacts) -> str:
    """The page as HTML."""
    script = _packaged("report.js")
    return environment.get_template("page.html.j2").render(
        title=facts.name,
        style=_packaged("report.css"),
        script=script,
        max_reasons=run_sections.MAX_REASONS,
        script_sha256=base64.b64encode(hashlib.sha256(f"\n{script}".encode()).digest()).decode(),
        abstract=run_sections.abstract(facts),
        headline=run_sections.headline(facts),
        training=run_sections.training(facts),
        scores=run_sections.scores(facts),
        standard_tasks=score_curves(facts),
        samples=run_sections.samples(facts),
        data=run_sections.data(facts),
        times=run_sections.times(facts),
        recipe=run_sections.recipe(facts),
        provenance=run_sections.provenance(facts),
    )


def _packaged(name: str) -> str:
    return (resources.files("tinyllama.report") / name).read_text(encoding="utf-8")
