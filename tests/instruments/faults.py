"""Faults: what one is, how it is written into a source file, and the lists that are kept.

A fault names a symbol and a piece of code, not a line, so that it still fits after files were moved and code was
reformatted. Code is compared as `ast.unparse` writes it.
"""

import ast
import json
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path

LISTS = Path(__file__).parent / "fault_lists"
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Edit:
    """One piece of code and what stands there in the faulty program; empty `after`: the statement is left out."""

    before: str
    after: str
    nth: int = 0  # which occurrence in the symbol, from 0


@dataclass(frozen=True)
class Fault:
    name: str
    module: str  # dotted, below tinyllama: where the symbol was when the fault was written
    symbol: str  # qualified name in the module; empty: the module's own statements
    kind: str
    edits: tuple[Edit, ...]
    equivalent: str = ""  # why no test can see it, where none can

    @property
    def part(self) -> str:
        """The folder of the module; `core` for modules that stand in none."""
        return self.module.split(".")[0] if "." in self.module else "core"


class MisfitError(Exception):
    """A fault whose code is no longer in the source: its list must be mended."""


def read_faults(names: list[str] | None = None) -> list[Fault]:
    """Every fault of the lists, or of the lists named (file names without suffix)."""
    found = []
    for path in sorted(LISTS.iterdir()):
        if names and path.stem not in names:
            continue
        if path.suffix == ".toml":
            rows = tomllib.loads(path.read_text())["fault"]
        else:
            rows = [json.loads(line) for line in path.read_text().splitlines()]
        found += [fault_of(row) for row in rows]
    return found


def fault_of(row: dict) -> Fault:
    edits = row.get("edits") or [{key: row[key] for key in ("before", "after", "nth") if key in row}]
    return Fault(
        name=row["name"],
        module=row["module"],
        symbol=row.get("symbol", ""),
        kind=row.get("kind", "by hand"),
        edits=tuple(Edit(**edit) for edit in edits),
        equivalent=row.get("equivalent", ""),
    )


def as_row(fault: Fault) -> str:
    """A fault as one line of JSON."""
    return json.dumps({key: value for key, value in asdict(fault).items() if value != ""}, ensure_ascii=False)


def source_path(source: Path, module: str, symbol: str) -> Path:
    """The file that defines the symbol: the fault's own module, else the only other one that has it."""
    path = source / (module.replace(".", "/") + ".py")
    if path.exists() and (not symbol or find_symbol(ast.parse(path.read_text()), symbol)):
        return path
    if not symbol:
        others = [other for other in source.rglob("*.py") if other.stem == module.split(".")[-1]]
    else:
        others = [other for other in source.rglob("*.py") if find_symbol(ast.parse(other.read_text()), symbol)]
    if len(others) != 1:
        raise MisfitError(f"{module}:{symbol}: {len(others)} files define it")
    return others[0]


def find_symbol(tree: ast.AST, symbol: str) -> ast.AST | None:
    """The node of a qualified name (`Class.method`, `function.inner`); the tree itself for an empty one."""
    node: ast.AST | None = tree
    for name in symbol.split(".") if symbol else ():
        inside = (
            child
            for child in ast.walk(node)
            if isinstance(child, DOCUMENTED[1:]) and child is not node and getattr(child, "name", "") == name
        )
        node = next(inside, None)
        if node is None:
            return None
    return node


def plant(text: str, fault: Fault) -> str:
    """The source with the fault in it.

    Raises MisfitError where the symbol does not hold the code, or the result is no Python.
    """
    for edit in fault.edits:
        tree = ast.parse(text)
        symbol = find_symbol(tree, fault.symbol)
        if symbol is None:
            raise MisfitError(f"{fault.name}: no symbol {fault.symbol}")
        wanted = normal_code(edit.before)
        places = [node for node in ast.walk(symbol) if fits(node, wanted)]
        places.sort(key=lambda node: (node.lineno, node.col_offset))  # pyright: ignore[reportAttributeAccessIssue]
        if edit.nth >= len(places):
            raise MisfitError(f"{fault.name}: {fault.symbol} does not hold `{edit.before}` {edit.nth + 1} times")
        text = replaced(text, places[edit.nth], edit.after or "pass")
    try:
        ast.parse(text)
    except SyntaxError as error:
        raise MisfitError(f"{fault.name}: not Python ({error})") from None
    return text


def normal_code(code: str) -> str:
    body = ast.parse(code).body
    return "\n".join(ast.unparse(statement) for statement in body)


def fits(node: ast.AST, wanted: str) -> bool:
    return isinstance(node, ast.stmt | ast.expr | ast.keyword) and ast.unparse(node) == wanted


def replaced(text: str, node: ast.AST, after: str) -> str:
    """The text with one node's code replaced; columns of the syntax tree count UTF-8 bytes."""
    lines = [line.encode() for line in text.splitlines(keepends=True)]
    first, last = node.lineno - 1, node.end_lineno - 1  # pyright: ignore[reportAttributeAccessIssue, reportOptionalOperand]
    start, end = node.col_offset, node.end_col_offset  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(node, ast.stmt):
        after = ("\n" + " " * start).join(after.splitlines())
    elif isinstance(node, ast.expr):
        after = f"({after})"
    head = b"".join(lines[:first]) + lines[first][:start]
    return (head + after.encode() + lines[last][end:] + b"".join(lines[last + 1 :])).decode()
