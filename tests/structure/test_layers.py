"""The house stands as it is drawn: imports run one way, names are unique, files and functions can be read in one sitting."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "tinyllama"
FILES = sorted(SOURCE.rglob("*.py"))

BOTTOM = {"errors", "files", "log", "seeds", "config", "devices", "hashing", "document_files"}
TOP = {"recipe", "phase_runner", "phases", "api", "api_results", "step_batches", "commands", "__main__"}
# Each part and the parts that it may import, beside the bottom; `model` imports nothing of the project.
MAY_IMPORT = {
    "demo_site": {"workers"},
    "sources": {"demo_site", "workers"},
    "workers": set(),
    "dedup": {"workers"},
    "cleaning": {"dedup", "sources", "workers"},
    "tokenizer": set(),
    "shards": {"tokenizer"},
    "model": set(),
    "parallel": {"model"},
    "checkpoint": {"model"},
    "exchange": {"checkpoint", "model", "tokenizer"},
    "generate": {"exchange", "checkpoint", "model", "tokenizer"},
    "evaluation": {"generate", "exchange", "checkpoint", "parallel", "model", "shards", "tokenizer"},
    "harness": {"evaluation", "generate", "exchange", "checkpoint", "parallel", "model", "shards", "tokenizer"},
    "train": {"harness", "evaluation", "exchange", "checkpoint", "parallel", "model", "shards", "tokenizer"},
    "bench": {"train", "generate", "model"},
    "planning": {"model", "parallel", "train"},
    "report": set(),
    "drill": {"parallel"},
}
WITHOUT_TORCH = ("sources", "demo_site", "workers", "dedup", "cleaning", "planning", "report", "recipe")
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60
MAX_MODULES = 20  # of a folder


def imported_modules(path: Path) -> set[str]:
    """Names of the project's modules that a file imports, anywhere in it, without the leading `tinyllama.`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "tinyllama":
            base = node.module.removeprefix("tinyllama").removeprefix(".")
            for alias in node.names:
                dotted = f"{base}.{alias.name}" if base else alias.name
                found.add(dotted if is_module(dotted) else base)
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("tinyllama.") for alias in node.names if alias.name.startswith("tinyllama.")
            }
    return {name for name in found if name}


def is_module(dotted: str) -> bool:
    path = SOURCE / dotted.replace(".", "/")
    return path.with_suffix(".py").exists() or path.is_dir()


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_run_one_way(path: Path):
    part = module_name(path).split(".")[0]
    if part in TOP or part == "__init__":
        return
    allowed = {part} | ({"model"} if part == "model" else BOTTOM | MAY_IMPORT.get(part, set()))
    wrong = {name for name in imported_modules(path) if name.split(".")[0] not in allowed}
    assert not wrong, f"{module_name(path)} imports {sorted(wrong)}; a {part} file may import {sorted(allowed)}"


def test_no_import_cycle():
    graph = {module_name(path): imported_modules(path) for path in FILES}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' -> '.join((*trail, name))}"
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_file_names_are_unique():
    names = [path.name for path in FILES if path.name != "__init__.py"]
    assert sorted(names) == sorted(set(names))


def test_every_part_is_known():
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert folders == {*MAY_IMPORT, "commands"}


@pytest.mark.parametrize("part", sorted({*MAY_IMPORT, "commands"}))
def test_a_folder_can_be_overseen_and_its_first_file_says_what_is_in_it(part: str):
    modules = sorted(path.stem for path in (SOURCE / part).glob("*.py") if path.stem != "__init__")
    assert len(modules) <= MAX_MODULES
    said = ast.get_docstring(ast.parse((SOURCE / part / "__init__.py").read_text())) or ""
    assert [line.split(":")[0] for line in said.splitlines()[2:]] == modules


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_files_and_functions_are_short(path: Path):
    text = path.read_text()
    assert text.count("\n") <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"


def test_tests_mirror_the_source():
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        folder = path.relative_to(ROOT / "tests").parts[0]
        assert folder in {*MAY_IMPORT, "commands", "instruments", "structure", "whole", path.name}, (
            f"{path} mirrors no part"
        )


def loaded_by(code: str) -> set[str]:
    """Top-level names in sys.modules after `code` ran in a fresh process."""
    script = f"{code}\nimport sys; print(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    return set(subprocess.check_output([sys.executable, "-c", script], text=True).split())


def test_data_parts_never_load_torch():
    modules = [module_name(path) for path in FILES if module_name(path).split(".")[0] in WITHOUT_TORCH]
    code = "\n".join(f"import tinyllama.{name}" for name in modules)
    assert "torch" not in loaded_by(code)


HEAVY = {
    "torch",
    "daft",
    "scrapy",
    "transformers",
    "lm_eval",
    "numpy",
    "pyarrow",
    "scipy",
    "sentencepiece",
    "twisted",
    "sklearn",
}


@pytest.mark.parametrize(
    "command",
    [
        [],
        *([word] for word in ("quickstart", "pretrain", "crawl", "clean", "train-safety", "generate", "bench", "plan")),
        *([word] for word in ("evaluate", "scorecard")),
        ["tokenizer", "train"],
    ],
)
def test_help_loads_nothing_heavy(command: list[str]):
    code = f"""
import sys, contextlib, io
sys.argv = ["tinyllama", *{command!r}, "--help"]
from tinyllama.__main__ import main
with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
    main()
assert "Usage" in out.getvalue()
"""
    assert not loaded_by(code) & HEAVY


def test_every_command_has_help_with_an_example():
    from typer.main import get_command

    from tinyllama.commands.app import app

    def leaves(command, name):
        if hasattr(command, "commands"):
            for inner_name, inner in command.commands.items():
                yield from leaves(inner, f"{name} {inner_name}".strip())
        else:
            yield name, command

    for name, command in leaves(get_command(app), ""):
        assert f"Example: tinyllama {name}" in (command.help or "") or f"| tinyllama {name}" in (command.help or ""), (
            name
        )
