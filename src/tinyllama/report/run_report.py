"""One page about a run: report.html, a single file that needs nothing else and may be sent to anyone.

It only reads the run's folder. Nothing is loaded from elsewhere: a content security policy in the page forbids it, and
allows the one script by its hash, so that no text of the run could ever act even if it were not escaped.
"""

import base64
import hashlib
from importlib import resources
from pathlib import Path
from string import Template

from tinyllama import files
from tinyllama.report import run_sections
from tinyllama.report.run_facts import RunFacts, number, read_run
from tinyllama.report.safe_text import text
from tinyllama.report.score_curves import score_curves
from tinyllama.report.ticks import exact, short

REPORT = "report.html"

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<header>
<p class="eyebrow">tinyllama · training run</p>
<h1>$title</h1>
<p class="abstract">$abstract</p>
</header>
<main>
$body
</main>
<footer>Made from the files of the run’s folder by tinyllama. Perplexity is exp(loss); losses are in nats a token.</footer>
<script>
$script</script>
</body>
</html>
""")


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run folder, from the files that are there, and return its path.

    The same files give the same bytes. Raises InputError when the folder is no run or one of its files is damaged.
    """
    page = render_report(read_run(run_dir))
    path = run_dir / REPORT
    with files.atomic_file(path, "w") as file:
        file.write(page)
    return path


def render_report(facts: RunFacts) -> str:
    """The page as HTML."""
    script = _packaged("report.js")
    digest = base64.b64encode(hashlib.sha256(f"\n{script}".encode()).digest()).decode()
    parts = (
        run_sections.headline,
        run_sections.training,
        run_sections.scores,
        score_curves,
        run_sections.samples,
        run_sections.data,
        run_sections.times,
        run_sections.recipe,
        run_sections.provenance,
    )
    return _PAGE.substitute(
        policy="default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'",
        title=text(facts.name, 120),
        style=_packaged("report.css"),
        abstract=_abstract(facts),
        body="\n".join(part(facts) for part in parts),
        script=script,
    )


def _packaged(name: str) -> str:
    return (resources.files("tinyllama.report") / name).read_text(encoding="utf-8")


def _abstract(facts: RunFacts) -> str:
    """One or two sentences: what was trained on what, and how far it got."""
    sentences = []
    if facts.parameters:
        model = facts.model_values
        layers, dim = number(model.get("n_layers")), number(model.get("dim"))
        shape = f" ({exact(layers)} layers, width {exact(dim)})" if layers and dim else ""
        sentences.append(f"A Llama network of {short(facts.parameters)} parameters{shape}.")
    done = facts.summary("pretrain")
    if done:
        steps, tokens = number(done.get("step")), number(done.get("tokens"))
        amount = f" on {short(tokens)} tokens" if tokens is not None else ""
        device = {"cpu": " with a CPU", "cuda": " with a GPU"}.get(str(done.get("device")), "")
        sentences.append(f"Trained for {exact(steps or 0)} steps{amount}{device}.")
    elif facts.metrics:
        sentences.append(
            f"Training has not finished: step {exact(facts.metrics[-1]['step'])} is the last one recorded."
        )
    else:
        sentences.append("Not trained yet.")
    return " ".join(sentences)
