"""What a power cut could leave of a folder: every change below it is recorded, and replayed as far as any moment.

The disk is the one that POSIX promises, not the kind one that most are: a file's bytes are on it when the file was synced,
a name (new, renamed or removed) when the folder that holds it was synced. What was not synced may be there or not.
"""

import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

RECORDED = ("replace", "rename", "unlink", "remove", "mkdir", "rmdir", "fsync")
Change = tuple[int, str, int | None, int | None]  # folder, name, what had the name, what has it now
Tree = dict[str, bytes | None]  # relative path: a file's bytes, None for a folder


@dataclass(frozen=True)
class Event:
    """One thing that happened; of a `names` event all changes happen at once."""

    kind: str  # names | data | sync | mark
    thing: int = 0
    changes: tuple[Change, ...] = ()
    data: bytes = b""
    mark: Any = None


@dataclass(frozen=True)
class Cut:
    """What is left, and the marks that were set before."""

    tree: Tree
    marks: tuple[Any, ...]
    how: str

    def write(self, folder: Path) -> Path:
        """Make `folder` hold what is left, and nothing else."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for path, data in sorted(self.tree.items()):
            if data is None:
                (folder / path).mkdir(exist_ok=True)
            else:
                (folder / path).write_bytes(data)
        return folder


class Disk:
    """A folder that shows one cut after another; only what differs is written, so nobody else may change it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tree: Tree = {}
        folder.mkdir(parents=True)

    def show(self, cut: Cut) -> Path:
        """Make the folder hold what is left."""
        gone = [
            path
            for path in self._tree
            if path not in cut.tree or (self._tree[path] is None) != (cut.tree[path] is None)
        ]
        for path in sorted(gone, reverse=True):
            (self.folder / path).rmdir() if self._tree[path] is None else (self.folder / path).unlink()
            del self._tree[path]
        for path, data in sorted(cut.tree.items()):
            if data is None:
                (self.folder / path).mkdir(exist_ok=True)
            elif self._tree.get(path) != data:
                (self.folder / path).write_bytes(data)
        self._tree = cut.tree.copy()
        return self.folder


class Recorder:
    """While it is entered: the events below `root`, by whatever thread. What is there at first is on the disk."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root, self.events, self.folders = root, list[Event](), {0}
        self._patch, self._lock = patch, threading.RLock()
        self._numbers: dict[int, int] = {root.stat().st_ino: 0}  # inode: number of a thing, never used again
        self._next = 1
        self._names: dict[tuple[int, str], int] = {}
        self._stamps: dict[int, tuple[int, int]] = {}
        self._data: dict[int, bytes] = {}
        self._look()
        self.at_first = dict(self._names), dict(self._data)
        self.events.clear()

    def __enter__(self) -> "Recorder":
        for name in RECORDED:
            self._patch.setattr(os, name, self._recording(name, getattr(os, name)))
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()
        self._look()

    def mark(self, value: Any) -> None:
        """Note a moment, such as that something was promised to be on the disk."""
        with self._lock:
            self._look()
            self.events.append(Event("mark", mark=value))

    def _recording(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*words: Any, **options: Any) -> Any:
            with self._lock:
                self._look()
                result = call(*words, **options)
                if name == "fsync":
                    number = self._numbers.get(os.fstat(words[0]).st_ino)
                    if number is not None:
                        self._look(anew=number)
                        self.events.append(Event("sync", number))
                else:
                    self._look(at_once=True)
                return result

        return recorded

    def _look(self, anew: int | None = None, at_once: bool = False) -> None:
        """Note names and bytes that changed since the last look; `at_once`: the names by one call."""
        found: dict[tuple[int, str], int] = {}
        inodes: dict[int, int] = {self.root.stat().st_ino: 0}
        data: list[Event] = []
        todo = [(0, self.root)]
        while todo:
            folder, path = todo.pop()
            for entry in os.scandir(path):
                if entry.is_symlink():
                    continue  # to what is nobody's to change
                facts = entry.stat(follow_symlinks=False)
                number = self._numbers.get(facts.st_ino)
                if number is None:
                    number, self._next = self._next, self._next + 1
                inodes[facts.st_ino] = found[folder, entry.name] = number
                if entry.is_dir(follow_symlinks=False):
                    self.folders.add(number)
                    todo.append((number, Path(entry.path)))
                elif self._stamps.get(number) != (facts.st_size, facts.st_mtime_ns) or number == anew:
                    self._stamps[number] = facts.st_size, facts.st_mtime_ns
                    content = Path(entry.path).read_bytes()
                    if self._data.get(number, b"") != content:
                        self._data[number] = content
                        data.append(Event("data", number, data=content))
        self._numbers = inodes
        keys = sorted(found.keys() | self._names.keys())
        changes = [
            (*key, self._names.get(key), found.get(key)) for key in keys if self._names.get(key) != found.get(key)
        ]
        for together in [changes] if at_once and changes else [[change] for change in changes]:
            self.events.append(Event("names", changes=tuple(together)))
        self.events += data
        self._names = found

    # -- replay --------------------------------------------------------------------------------------------------------

    def cuts(self, seeds: int = 2) -> Iterator[Cut]:
        """What each moment could leave, each once: nothing, all or some of what was not synced; and what a kill leaves."""
        names, data = dict(self.at_first[0]), dict(self.at_first[1])
        synced, waiting, marks = dict(data), list[tuple[Change, ...]](), list[Any]()
        seen: set[tuple[int, frozenset[tuple[str, bytes | None]]]] = set()
        dice = random.Random(0)
        for event in [Event("mark"), *self.events]:
            if event.kind == "data":
                data[event.thing] = event.data
            elif event.kind == "names":
                waiting.append(event.changes)
            elif event.kind == "mark":
                marks += [event.mark] if event.mark is not None else []
            elif event.thing in self.folders:
                held = [changes for changes in waiting if any(change[0] == event.thing for change in changes)]
                waiting = [changes for changes in waiting if changes not in held]
                names = _after(names, held)
            else:
                synced[event.thing] = data.get(event.thing, b"")
            ways: list[tuple[str, list[tuple[Change, ...]], Callable[[], float]]] = [
                ("nothing", [], lambda: 0.0),
                ("names", waiting, lambda: 0.0),
                ("names and half of the bytes", waiting, lambda: 0.5),
                ("killed", waiting, lambda: 1.0),
            ]
            some = [[changes for changes in waiting if dice.random() < 0.5] for _ in range(seeds)]
            ways += [("some", chosen, lambda: dice.choice((0.0, 0.3, 1.0))) for chosen in some]
            for how, chosen, share in ways:
                tree = self._tree(_after(names, chosen), data, synced, share)
                key = len(marks), frozenset(tree.items())
                if key not in seen:
                    seen.add(key)
                    yield Cut(tree, tuple(marks), how)

    def _tree(
        self,
        names: dict[tuple[int, str], int],
        data: dict[int, bytes],
        synced: dict[int, bytes],
        share: Callable[[], float],
    ) -> Tree:
        inside: dict[int, list[tuple[str, int]]] = {}
        for (folder, name), thing in names.items():
            inside.setdefault(folder, []).append((name, thing))
        tree: Tree = {}
        todo = [("", 0)]
        while todo:
            above, folder = todo.pop()
            for name, thing in inside.get(folder, []):
                path = f"{above}{name}"
                if thing in self.folders:
                    tree[path] = None
                    todo.append((f"{path}/", thing))
                else:
                    tree[path] = _left(synced.get(thing, b""), data.get(thing, b""), share())
        return tree


def _after(names: dict[tuple[int, str], int], all_changes: list[tuple[Change, ...]]) -> dict[tuple[int, str], int]:
    """Names after changes; one that does not fit, because one before it is missing, did not happen."""
    names = dict(names)
    for changes in all_changes:
        if all(names.get((folder, name)) == before for folder, name, before, _ in changes):
            for folder, name, _, now in changes:
                if now is None:
                    del names[folder, name]
                else:
                    names[folder, name] = now
    return names


def _left(synced: bytes, whole: bytes, share: float) -> bytes:
    """What is left of a file: what was synced, and a share of what was written since."""
    if share == 0:
        return synced
    kept = len(synced) if whole.startswith(synced) else 0
    return whole[: kept + int((len(whole) - kept) * share)]
