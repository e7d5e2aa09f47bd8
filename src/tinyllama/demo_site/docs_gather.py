"""Collects the docstrings of the installed Python packages: one entry a public function, class, module or topic.

Runs in the site's own process, because it imports what it documents. Only modules of an allow-list are imported: some of
the standard library acts when imported (a window or browser opens). The same packages give the same entries: the process
has a fixed hash seed, memory addresses are removed, and every list is sorted.
"""

import importlib
import inspect
import pkgutil
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from types import ModuleType
from typing import Any

STANDARD_LIBRARY = tuple(resources.files("tinyllama.demo_site").joinpath("standard_modules.txt").read_text().split())
PACKAGES = ("numpy", "scipy", "sklearn")
TOPICS = "topics"
_NOT_PUBLIC = "tests conftest core extras f2py distutils externals lapack_lite mtrand mypy_plugin testutils"
LEFT_OUT_NAMES = frozenset(_NOT_PUBLIC.split())
ALLOW_LIST = (*STANDARD_LIBRARY, *PACKAGES, TOPICS)

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_SHORTEST_PAGE_WORDS = 12  # a docstring of one line gets no page


@dataclass(frozen=True, slots=True)
class Docstring:
    """One docstring of an entry: the object's own (empty heading) or a method's."""

    heading: str
    signature: str
    text: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What one page documents. `kind` is module, class, function or topic; `module` names the index that lists it."""

    name: str
    kind: str
    module: str
    docstrings: tuple[Docstring, ...]


def gather(allow: Sequence[str] = ALLOW_LIST) -> list[Entry]:
    """Entries of the allow-listed modules that are installed, sorted by name. Imports them into this process."""
    warnings.simplefilter("ignore")
    names = [name for name in allow if name != TOPICS]
    with _seeded_examples():
        found = [sub for name in names for sub in (_submodules(name) if name in PACKAGES else (name,))]
        modules = {name: module for name in found if (module := _imported(name)) is not None}
    entries = [_module_entry(name, module) for name, module in modules.items()]
    for (module_name, name), value in _canonical_names(modules).items():
        entry = _object_entry(module_name, name, value)
        if entry is not None:
            entries.append(entry)
    if TOPICS in allow:
        entries += _topic_entries()
    return sorted(entries, key=lambda entry: (entry.name, entry.kind))


@contextmanager
def _seeded_examples() -> Iterator[None]:
    """Seeds the generator with which scipy.stats, while it is imported, draws the samples in its docstrings."""
    try:
        import numpy.random as module
    except ImportError:
        yield
        return
    unseeded = module.default_rng
    module.default_rng = lambda seed=None: unseeded(0 if seed is None else seed)
    try:
        yield
    finally:
        module.default_rng = unseeded


def _submodules(package_name: str) -> Iterator[str]:
    package = _imported(package_name)
    if package is None:
        return
    yield package_name
    for info in pkgutil.walk_packages(package.__path__, f"{package_name}."):
        if not any(name.startswith("_") or name in LEFT_OUT_NAMES for name in info.name.split(".")):
            yield info.name


def _imported(name: str) -> ModuleType | None:
    """The module, or None where this Python lacks it (removed, or an optional package)."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _canonical_names(modules: dict[str, ModuleType]) -> dict[tuple[str, str], Any]:
    """Each documented object once, under (module, name).

    An object exported under several names is listed in the module that defines it, else in the shallowest public one.
    """
    best: dict[int, tuple[tuple[bool, int, str, str], Any]] = {}
    for module_name, module in modules.items():
        for name, value in _public_members(module_name, module):
            defined_here = getattr(value, "__module__", None) == module_name
            rank = (not defined_here, module_name.count("."), module_name, name)
            if id(value) not in best or rank < best[id(value)][0]:
                best[id(value)] = (rank, value)
    return {(rank[2], rank[3]): value for rank, value in best.values()}


def _public_members(module_name: str, module: ModuleType) -> Iterator[tuple[str, Any]]:
    root = module_name.split(".")[0]
    listed = getattr(module, "__all__", None)
    # Without `__all__`, a module's own members are those defined in the same package.
    names = [name for name in listed if isinstance(name, str)] if listed is not None else list(vars(module))
    for name in sorted(set(names)):
        if name.startswith("_"):
            continue
        value = vars(module).get(name)
        if not _is_documented_kind(value):
            continue
        home = str(getattr(value, "__module__", None) or root).split(".")[0]
        if listed is not None or home in (root, f"_{root}", "posix"):
            yield name, value


def _is_documented_kind(value: Any) -> bool:
    return inspect.isclass(value) or inspect.isroutine(value) or type(value).__name__ in ("ufunc", "_lru_cache_wrapper")


def _module_entry(name: str, module: ModuleType) -> Entry:
    return Entry(name, "module", name, (Docstring("", "", _docstring(module)),))


def _object_entry(module_name: str, name: str, value: Any) -> Entry | None:
    docstrings = [Docstring("", _signature(name, value), _docstring(value))]
    is_class = inspect.isclass(value)
    if is_class:
        docstrings += _method_docstrings(value)
    if sum(len(docstring.text.split()) for docstring in docstrings) < _SHORTEST_PAGE_WORDS:
        return None
    return Entry(f"{module_name}.{name}", "class" if is_class else "function", module_name, tuple(docstrings))


def _method_docstrings(value: type) -> Iterator[Docstring]:
    """The public methods and properties that the class itself defines, not those it inherits."""
    for name in sorted(vars(value)):
        member = vars(value)[name]
        if name.startswith("_") or inspect.isclass(member):
            continue
        inner = getattr(member, "__func__", member)
        if not (inspect.isroutine(inner) or isinstance(member, property)):
            continue
        text = _docstring(inner)
        if text:
            yield Docstring(name, "" if isinstance(member, property) else _signature(name, inner), text)


def _docstring(value: Any) -> str:
    text = getattr(value, "__doc__", None)
    if not isinstance(text, str):
        return ""
    # Control characters such as form feeds are not valid in HTML.
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "", text)
    return _same_everywhere(inspect.cleandoc(text)).encode("utf-8", "replace").decode()


def _signature(name: str, value: Any) -> str:
    try:
        signature = str(inspect.signature(value))
    except (ValueError, TypeError, NameError, AttributeError, RuntimeError):
        return f"{name}(...)"
    return name + _same_everywhere(signature)


def _same_everywhere(text: str) -> str:
    """`text` without what differs between runs and machines: addresses of objects, the path of this Python."""
    return _ADDRESS.sub("", text.replace(repr(sys.executable), "sys.executable"))


def _topic_entries() -> Iterator[Entry]:
    from pydoc_data.topics import topics  # written for `help()`: the language reference as plain text

    for name, text in topics.items():
        yield Entry(f"{TOPICS}.{name}", "topic", TOPICS, (Docstring("", "", inspect.cleandoc(text)),))
