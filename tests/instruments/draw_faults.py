"""Small faults of the kind that a tired developer makes, enumerated over every module and drawn at random by part.

python -m tests.instruments.draw_faults --seed 1 --each 17 > tests/instruments/fault_lists/drawn_1.jsonl
"""

import argparse
import ast
import copy
import random
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.instruments.faults import DOCUMENTED, Edit, Fault, MisfitError, as_row, plant, read_faults

SOURCE = Path(__file__).parents[2] / "src" / "tinyllama"
COMPARISONS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
EXCHANGED = {"min": "max", "max": "min", "any": "all", "all": "any", "ceil": "floor", "floor": "ceil", "amax": "amin"}
# Words for people: a fault in one is seen by reading, not by a test.
TALK = {"info", "warning", "warn", "print", "echo", "say", "note", "debug", "log_line", "line", "Option", "Argument"}
# Runs on a GPU only, where the tests of these modules run.
ON_GPU = {
    "norm_kernel",
    "swiglu_kernel",
    "loss_kernel",
    "optimizer_kernel",
    "decode_kernels",
    "fused_step",
    "kernel_trace",
}


def candidates(module: str, text: str) -> Iterator[Fault]:
    """Every fault of one file, in the order of its code."""
    tree = ast.parse(text)
    code = {node: ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.stmt | ast.expr | ast.keyword)}
    for symbol, symbol_node in symbols(tree):
        nodes = (node for node in ast.walk(symbol_node) if isinstance(node, ast.stmt | ast.expr | ast.keyword))
        inside = sorted(nodes, key=position)
        own = set(own_nodes(symbol_node))
        number_of: dict[str, int] = defaultdict(int)
        occurrences: dict[str, int] = defaultdict(int)
        for node in inside:
            before = code[node]
            nth = occurrences[before]
            occurrences[before] += 1
            for kind, after in changes(node) if isinstance(node, ast.stmt | ast.expr) and node in own else ():
                number_of[kind] += 1
                name = f"{module}:{symbol}:{kind}:{number_of[kind]}"
                yield Fault(name, module, symbol, kind, (Edit(before, after, nth),))


def position(node: ast.stmt | ast.expr | ast.keyword) -> tuple[int, int]:
    return node.lineno, node.col_offset


def symbols(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Functions, classes and the module itself, each with its qualified name."""

    def visit(node: ast.AST, trail: tuple[str, ...]) -> Iterator[tuple[str, ast.AST]]:
        yield ".".join(trail), node
        for child in ast.iter_child_nodes(node):
            if isinstance(child, DOCUMENTED[1:]) and not on_gpu(child) and child.name != "__repr__":  # pyright: ignore[reportAttributeAccessIssue]
                yield from visit(child, (*trail, child.name))  # pyright: ignore[reportAttributeAccessIssue]

    return visit(tree, ())


def on_gpu(node: ast.AST) -> bool:
    return any("triton" in ast.unparse(decorator) for decorator in getattr(node, "decorator_list", ()))


def own_nodes(symbol: ast.AST) -> Iterator[ast.stmt | ast.expr]:
    """Statements and expressions of a symbol that are its own (not an inner symbol's), do something and are no words."""
    skipped = set(getattr(symbol, "decorator_list", ()))
    skipped |= {node.annotation for node in ast.walk(symbol) if isinstance(node, ast.AnnAssign)}
    if isinstance(symbol, ast.FunctionDef | ast.AsyncFunctionDef):
        skipped |= {node.annotation for node in ast.walk(symbol.args) if isinstance(node, ast.arg)}
        skipped.add(symbol.returns)

    def visit(node: ast.AST) -> Iterator[ast.stmt | ast.expr]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, DOCUMENTED) or child in skipped or is_talk(child):
                continue
            if isinstance(child, ast.stmt | ast.expr):
                yield child
            yield from visit(child)

    return visit(symbol)


def is_talk(node: ast.AST) -> bool:
    match node:
        case ast.JoinedStr() | ast.Import() | ast.ImportFrom():
            return True
        case ast.AnnAssign(value=None):
            return True
        case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)):
            return name in TALK or "Error" in name
        case ast.Expr(value=ast.Constant()) | ast.keyword(arg="strict"):
            return True
        case ast.If(test=test):
            return ast.unparse(test) == "TYPE_CHECKING"
    return False


def changes(node: ast.stmt | ast.expr) -> Iterator[tuple[str, str]]:
    """(kind, faulty code) for each small fault of one statement or expression."""
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in COMPARISONS:
            yield "comparison", changed(node, ops=[COMPARISONS[type(operator)]()])
        case ast.BinOp(op=operator) if type(operator) in ARITHMETIC and not joins_text(node):
            yield "arithmetic", changed(node, op=ARITHMETIC[type(operator)]())
        case ast.BoolOp(op=operator):
            yield "and_or", changed(node, op=ast.Or() if isinstance(operator, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not()):
            yield "not", ast.unparse(node.operand)
        case ast.IfExp():
            yield "branches", changed(node, body=node.orelse, orelse=node.body)
        case ast.Constant(value=bool()):
            yield "bool", repr(not node.value)
        case ast.Constant(value=int()):
            yield "number", repr(node.value + 1)  # pyright: ignore[reportOperatorIssue]
        case ast.Constant(value=float()):
            yield "number", repr(node.value * 2 or 1.0)  # pyright: ignore[reportOperatorIssue]
        case ast.Call():
            yield from call_changes(node)
        case ast.Expr(value=ast.Call()) | ast.Expr(value=ast.Yield()):
            yield "left_out", ""
        case ast.AugAssign(op=ast.Add()):
            yield "sum", f"{ast.unparse(node.target)} = {ast.unparse(node.value)}"
        case ast.If(orelse=[]) if isinstance(node.body[-1], ast.Raise | ast.Return | ast.Continue | ast.Break):
            yield "check_left_out", ""
        case ast.Break():
            yield "break", "continue"
        case ast.Continue():
            yield "break", "break"


def call_changes(call: ast.Call) -> Iterator[tuple[str, str]]:
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    if name in EXCHANGED and isinstance(call.func, ast.Name):
        yield "exchanged", changed(call, func=ast.Name(EXCHANGED[name]))
    plain = [argument for argument in call.args if not isinstance(argument, ast.Starred)]
    if len(plain) == len(call.args) >= 2 and ast.dump(plain[0]) != ast.dump(plain[1]) and name not in EXCHANGED:
        yield "swapped_arguments", changed(call, args=[plain[1], plain[0], *plain[2:]])
    for number, keyword in enumerate(call.keywords):
        if keyword.arg and keyword.arg not in {"description", "help", "encoding", "strict"}:
            yield "keyword_left_out", changed(call, keywords=call.keywords[:number] + call.keywords[number + 1 :])


def joins_text(node: ast.BinOp) -> bool:
    """Text put together, types in a union, or a path: the fault would be a type error."""
    sides = (node.left, node.right)
    words = ast.unparse(node).lower()
    return any(isinstance(side, ast.JoinedStr) or isinstance(getattr(side, "value", None), str) for side in sides) or (
        isinstance(node.op, ast.Div)
        and any(word in words for word in ("dir", "path", "folder", "name", "file", "root"))
    )


def changed(node: ast.AST, **fields: object) -> str:
    twin = copy.copy(node)
    for key, value in fields.items():
        setattr(twin, key, value)
    return ast.unparse(ast.fix_missing_locations(twin))


def draw(seed: int, each: int) -> list[Fault]:
    """`each` faults of every part that no list has yet, each in a symbol of its own as far as there are enough."""
    known = {(fault.symbol, fault.edits) for fault in read_faults()}
    by_part: dict[str, list[tuple[Fault, str]]] = defaultdict(list)
    for path in sorted(SOURCE.rglob("*.py")):
        if path.name != "__init__.py" and path.stem not in ON_GPU:
            module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
            text = path.read_text()
            for fault in candidates(module, text):
                if (fault.symbol, fault.edits) not in known:
                    by_part[fault.part].append((fault, text))
    return [fault for part in sorted(by_part) for fault in spread(by_part[part], each, random.Random(f"{seed} {part}"))]


def spread(faults: list[tuple[Fault, str]], count: int, random_source: random.Random) -> list[Fault]:
    """Drawn by kind first, so that frequent kinds (numbers, arguments) do not crowd out the others."""
    by_kind: dict[str, list[tuple[Fault, str]]] = defaultdict(list)
    for fault, text in faults:
        by_kind[fault.kind].append((fault, text))
    chosen: list[Fault] = []
    symbols_taken: set[tuple[str, str]] = set()
    while len(chosen) < count and any(by_kind.values()):
        kind = random_source.choice(sorted(kind for kind, rows in by_kind.items() if rows))
        fault, text = by_kind[kind].pop(random_source.randrange(len(by_kind[kind])))
        if (fault.module, fault.symbol) not in symbols_taken and is_plantable(fault, text):
            symbols_taken.add((fault.module, fault.symbol))
            chosen.append(fault)
    return sorted(chosen, key=lambda fault: fault.name)


def is_plantable(fault: Fault, text: str) -> bool:
    try:
        return plant(text, fault) != text
    except MisfitError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--each", type=int, default=17, help="faults of each part")
    options = parser.parse_args()
    sys.stdout.writelines(as_row(fault) + "\n" for fault in draw(options.seed, options.each))


if __name__ == "__main__":
    main()
