"""Atomic writes: a file is written under a temporary name in the same folder, synced, then renamed."""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tinyllama.errors import InputError

MAX_JSON_BYTES = 500_000_000
FULL_DISK = {errno.ENOSPC, errno.EDQUOT}
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")  # `.NAME.` and tempfile's eight characters


def is_full_disk(error: BaseException) -> bool:
    """Whether an error says that a disk or a user's quota is full."""
    return isinstance(error, OSError) and error.errno in FULL_DISK


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut (POSIX: the folder itself must be synced)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents so that each survives a power cut."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


@contextmanager
def atomic_file(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on success sync it and rename it to `path`, on failure remove it."""
    make_folder(path.parent)
    handle, temporary_name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(temporary_name)
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp creates it with mode 0600
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success sync its files and rename it to `path`.

    An existing folder at `path` is renamed away first and removed last. Files are synced before the rename, so a crash
    leaves the old folder, the new one, or (between the two renames) none; never a partial one.
    """
    make_folder(path.parent)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        sync_folder(temporary)
        temporary.chmod(0o755)
        going = _renamed(path) if path.exists() else None
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if going is not None:
        shutil.rmtree(going)


def remove_folder(path: Path) -> None:
    """Rename a folder, then remove it, so that no kill or power cut leaves part of it under its name."""
    going = _renamed(path)
    sync_folder(path.parent)
    shutil.rmtree(going)


def _renamed(path: Path) -> Path:
    """Give a folder a temporary name; returns the new path."""
    going = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    return path.replace(going)


def is_temporary(path: Path) -> bool:
    """Whether the name is one that `atomic_file` and `atomic_folder` use until they rename."""
    return _TEMPORARY.fullmatch(path.name) is not None


def sweep_temporary(folder: Path) -> None:
    """Remove what killed calls of `atomic_file` and `atomic_folder` left in `folder` and below."""
    for path in sorted(folder.rglob(".*")):
        if not is_temporary(path):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_file(path, "w") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def read_json(path: Path) -> Any:
    """Read one JSON file. Raises InputError when it is missing, not JSON, or larger than any file of this system."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise InputError(f"{path}: larger than {MAX_JSON_BYTES:,} bytes")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise InputError(f"{path}: not valid JSON ({error})") from None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a JSON Lines file of this system; a last line that a kill left incomplete is skipped."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def cut_unfinished_line(path: Path) -> None:
    """Remove a last line that a kill left incomplete: text appended to it would be lost with it."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        if size and file.read() != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """sha256 of a value's canonical JSON: sorted keys, no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def input_files(inputs: list[Path], suffixes: tuple[str, ...]) -> list[Path]:
    """Every file under `inputs` whose name ends with one of `suffixes`, folders read recursively, in a stable order.

    Hidden files are skipped. Raises InputError for a path that does not exist, a file of another kind, or no file at all.
    """
    found: list[Path] = []
    for path in inputs:
        if path.is_file():
            if not path.name.endswith(suffixes):
                raise InputError(f"{path}: expected a file that ends in {', '.join(suffixes)}")
            found.append(path)
        elif path.is_dir():
            found += sorted(
                file
                for file in path.rglob("*")
                if file.is_file() and file.name.endswith(suffixes) and not file.name.startswith(".")
            )
        else:
            raise InputError(f"{path}: no such file or folder")
    if not found:
        names = ", ".join(str(path) for path in inputs)
        raise InputError(f"{names}: no file that ends in {', '.join(suffixes)}")
    return found
