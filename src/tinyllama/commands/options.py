"""Shared by the commands: options and arguments, parsing of arguments and stdin, printing of results."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tinyllama.errors import InputError, RecipeError
from tinyllama.log import is_speaker

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
Out = Annotated[Path, typer.Option("--out", help="Folder for the result; the same command resumes after a stop.")]
RunDir = Annotated[Path | None, typer.Option("--run-dir", help="The run's folder; default runs/RECIPE.")]
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="Path of a recipe, or name of a packaged one.")]
OtherRecipe = Annotated[
    str | None, typer.Option("--recipe", help="A recipe's path or packaged name; default: built-in defaults.")
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Such as train.peak_lr=3e-4.")]
AllowChange = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-change", metavar="KEY", help="A key that may differ from the run's first settings; repeatable."
    ),
]
Inputs = Annotated[list[str], typer.Argument(metavar="INPUT...", help="Files or folders; and KEY=VALUE of the recipe.")]
MODEL = typer.Argument(metavar="MODEL", help="A run folder, a checkpoint, a Hugging Face folder, or a GGUF file.")
Model = Annotated[Path, MODEL]
Dtype = Literal["auto", "fp32", "bf16", "fp16"]
TokenizerPath = Annotated[Path, typer.Argument(metavar="TOKENIZER", help="A tokenizer file, its folder, or a MODEL.")]
REMOTE = ("s3:/", "http:/", "https:/")  # a Path joins the two slashes of an address into one


def split_overrides(words: list[str]) -> tuple[list[str], list[str]]:
    """Split positional words from `section.key=value` overrides; a `=` in a URL comes after its `://`."""
    overrides = [word for word in words if "=" in word and "/" not in word.split("=", 1)[0]]
    return [word for word in words if word not in overrides], overrides


def split_paths(words: list[str]) -> tuple[tuple[Path, ...], list[str]]:
    names, overrides = split_overrides(words)
    if not names:
        raise RecipeError("INPUT: give at least one file or folder")
    paths = tuple(Path(name) for name in names)
    for path in paths:
        if not path.exists() and not str(path).startswith(REMOTE):
            raise InputError(f"{path}: no such file or folder")
    return paths, overrides


def json_lines(kind: type, wanted: str, max_bytes: int | None = None) -> list[Any]:
    """One JSON value per line of stdin, each of `kind` and at most `max_bytes` long."""
    values = []
    for number, line in enumerate(sys.stdin.buffer, 1):
        if max_bytes and len(line) > max_bytes:
            raise InputError(f"stdin, line {number}: {len(line):,} bytes, the most is {max_bytes:,}; split the text")
        try:
            value = json.loads(line)
        except (ValueError, UnicodeDecodeError):
            value = None
        if not isinstance(value, kind):
            raise InputError(f"stdin, line {number}: not {wanted}")
        values.append(value)
    return values


def print_json(value: Any) -> None:
    if is_speaker():
        typer.echo(json.dumps(value, ensure_ascii=False))


def show(summary: dict[str, Any], as_json: bool, plain: str | None = None) -> None:
    """Print a result as one JSON object or as `name: value` lines (`plain`: only that list, one item per line)."""
    if as_json or not is_speaker():
        print_json(summary)
    elif plain is not None:
        for value in summary[plain]:
            typer.echo(value if isinstance(value, str) else json.dumps(value))
    else:
        for name, value in summary.items():
            typer.echo(f"{name}: {plain_value(value)}")


def show_texts(found: dict[str, Any], as_json: bool) -> None:
    """Print several generated texts: one JSON object, or each text with its prompt after a numbered line."""
    if as_json:
        print_json(found)
        return
    for number, sequence in enumerate(found["sequences"], 1):
        typer.echo(f"--- {number}\n{sequence['prompt']}{sequence['text']}")


def plain_value(value: Any) -> str:
    """A value for people: numbers with thousands separators, tables as name = value."""
    if isinstance(value, dict):
        shown = ((key, f"({plain_value(v)})" if isinstance(v, dict) else plain_value(v)) for key, v in value.items())
        return ", ".join(f"{key} = {inner}" for key, inner in shown)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def fertility_table(by_kind: dict[str, dict[str, Any]]) -> str:
    """A tokenizer's fit as a table, a line for each kind of source."""
    lines = [f"{'kind':<12}{'documents':>12}{'bytes':>18}{'bytes/token':>13}{'byte tokens':>13}{'less newlines':>15}"]
    for kind, row in by_kind.items():
        name = kind if kind.isprintable() else ascii(kind)  # the kind is any text from the documents
        shares = f"{row['byte_fallback_share']:>13.3%}{row['byte_fallback_share_without_newlines']:>15.3%}"
        counts = f"{row['documents']:>12,}{row['text_bytes']:>18,}{row['bytes_per_token']:>13.3f}"
        lines.append(f"{name[:11]:<12}{counts}{shares}")
    return "\n".join(lines)
