"""The commands about what a text holds: the safety model, and a document's fate in cleaning."""

from pathlib import Path
from typing import Annotated

import typer

from tinyllama.commands.options import Json, Out, json_lines, print_json, show
from tinyllama.errors import InputError, RecipeError
from tinyllama.phase_runner import Phase, run_phase


def train_safety(
    labels: Annotated[
        list[Path], typer.Argument(metavar="LABELS...", help="JSON Lines or parquet with `text` and `label`.")
    ],
    out: Out,
    label: Annotated[
        list[str] | None, typer.Option("--label", help="OLD=NEW: what a label of yours means; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the split into training and test rows.")] = 0,
    as_json: Json = False,
) -> None:
    """A safety model from your own labels: hate (offence too), sexual, none. Heads without labels are the packaged ones.

    Example: tinyllama train-safety labels.jsonl --out safety --label 2=none --label 1=hate
    """
    names = {}
    for word in label or []:
        old, equals, new = word.partition("=")
        if not (equals and old):
            raise RecipeError(f"--label {word}: write OLD=NEW, such as --label 2=none")
        names[old] = new
    for path in labels:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")

    def work(folder: Path) -> dict[str, object]:
        from tinyllama.cleaning.safety_train import train_safety as train

        return train(labels, folder, names, seed)

    show(run_phase(Phase("train-safety", 2, {"labels": names, "seed": seed}, tuple(labels), out, work)), as_json)


def score_safety(
    model: Annotated[
        Path | None, typer.Option("--model", help="A folder of train-safety; default: the packaged model.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score JSON strings, one per line on stdin: probabilities of hate or offensive language and of sexual content.

    Example: echo '"What a lovely day."' | tinyllama score-safety --json
    """
    from tinyllama.cleaning.safety_labels import MAX_LINE_BYTES
    from tinyllama.cleaning.safety_model import open_safety_model

    opened = open_safety_model(model)
    texts = json_lines(str, "a JSON string", MAX_LINE_BYTES)
    found = opened.text_probabilities(texts)
    if as_json:
        print_json({"hate": [hate for hate, _ in found], "sexual": [sexual for _, sexual in found]})
        return
    for hate, sexual in found:
        typer.echo(f"hate {hate:.4f}  sexual {sexual:.4f}")


def explain(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or the folder of `clean`.")],
    document: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="The document's id.", show_default=False)
    ] = None,
    step: Annotated[int | None, typer.Option("--step", help="In place of ID: the documents that a step reads.")] = None,
    as_json: Json = False,
) -> None:
    """A document's fate: kept (in which split, with which scores) or dropped (why, and the key that decides); where its
    tokens are, and which steps of training read them. Or, with --step, the documents that a step reads.

    Example: tinyllama explain runs/quickstart 0123456789abcdef
    """
    from tinyllama.cleaning.explain import explain_document
    from tinyllama.train.data_read import document_reads, documents_of_step

    if (document is None) == (step is None):
        raise RecipeError("explain: give a document's ID, or --step N")
    if document is None or step is not None:
        show(documents_of_step(run_dir, step or 0), as_json)
        return
    reads = document_reads(run_dir, document)
    try:
        fate = explain_document(run_dir, document)
    except InputError:
        if not reads:  # a run folder may have shards without the cleaning that they come from
            raise
        fate = {"id": document}
    show(fate | reads, as_json)
