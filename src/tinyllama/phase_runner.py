"""Runs one phase so that a partial result is never taken for a finished one, and a finished phase is never repeated.

A phase reads folders and writes one output: a folder, or a single JSON file. Its manifest (`manifest.json` in the folder,
`NAME.manifest.json` beside the file) holds its fingerprint and is written last. A phase whose fingerprint matches its
manifest does nothing. While it works, `unfinished.json` holds the fingerprint it works for, so that a killed phase resumes
only its own partial output.
"""

import platform
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tinyllama import files, log
from tinyllama.config import difference_lines, differences
from tinyllama.errors import InputError, RunStoppedError, TinyllamaError

MANIFEST = "manifest.json"
UNFINISHED = "unfinished.json"
RECORDED_LIBRARIES = ("torch", "numpy", "daft", "scrapy", "sentencepiece", "tokenizers", "safetensors", "gigatoken")


@dataclass(frozen=True)
class Phase:
    """One command's work.

    `config` holds the recipe keys that the phase reads and that change its result. `inputs` are earlier phases' outputs
    or the user's own files. `run(out)` does the work, resuming from what a killed run left in `out`, and returns the
    summary (JSON values) that people and `--json` see. `keeps_changed` is for results too costly to rebuild: a changed
    fingerprint is then an error that lists the changes, unless `allowed_changes` names every changed key: then the phase
    resumes from what is there (None: no change to this phase can be allowed).
    """

    name: str
    format_version: int
    config: dict[str, Any]
    inputs: tuple[Path, ...]
    out: Path
    run: Callable[[Path], dict[str, Any]]
    keeps_changed: bool = False
    allowed_changes: tuple[str, ...] | None = None

    @property
    def manifest_path(self) -> Path:
        """Where the finished phase's manifest is."""
        return self._beside(MANIFEST)

    @property
    def unfinished_path(self) -> Path:
        """Where a working phase's marker is."""
        return self._beside(UNFINISHED)

    def _beside(self, name: str) -> Path:
        return self.out.with_suffix(f".{name}") if self.out.suffix == ".json" else self.out / name

    def fingerprint(self, config: dict[str, Any] | None = None) -> str:
        """sha256 of the phase's name and format version, its config (or another), and its inputs' manifests."""
        inputs = [input_digest(path) for path in self.inputs]
        return files.sha256_json([self.name, self.format_version, self.config if config is None else config, inputs])


def input_digest(path: Path) -> str:
    """What identifies an input: a phase's fingerprint and file hashes, else names, sizes and times of the user's files.

    Raises InputError when the path is missing or is a phase that has not finished.
    """
    manifest_path = path.with_suffix(f".{MANIFEST}") if path.suffix == ".json" else path / MANIFEST
    if manifest_path.exists():
        manifest = files.read_json(manifest_path)
        return files.sha256_json([manifest.get("fingerprint"), manifest.get("files")])
    if (path / UNFINISHED).exists():
        raise InputError(f"{path}: this phase has not finished; finish it first")
    if str(path).startswith(("s3:/", "http:/", "https:/")):
        from tinyllama.sources.remote_inputs import remote_versions

        return files.sha256_json(remote_versions(path))
    if path.is_file():
        found = [path]
    elif path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file())
    else:
        raise InputError(f"{path}: no such file or folder")
    rows = [[str(file.relative_to(path.parent)), file.stat().st_size, file.stat().st_mtime_ns] for file in found]
    return files.sha256_json(rows)


def run_phase(phase: Phase) -> dict[str, Any]:
    """Run `phase` unless its result is already there; return its summary.

    Raises InputError when `out` holds something that is not this phase's, or a result too costly to rebuild.
    """
    fingerprint = phase.fingerprint()
    before: dict[str, Any] = {}  # the manifest or marker of the work that is resumed
    if phase.manifest_path.exists():
        manifest = files.read_json(phase.manifest_path)
        if manifest.get("fingerprint") == fingerprint:
            log.info(f"{phase.name}: already done, {phase.out}")
            return manifest["summary"]
        before = _resumable(phase, manifest)
    elif phase.unfinished_path.exists():
        marker = files.read_json(phase.unfinished_path)
        before = marker if marker.get("fingerprint") == fingerprint else _resumable(phase, marker)
    elif phase.out.is_dir() and not all(files.is_temporary(path) for path in phase.out.iterdir()):
        raise InputError(f"{phase.out}: not empty and not a result of `{phase.name}`; choose another folder")
    if before:
        log.info(f"{phase.name}: resuming, {phase.out}")
    files.sweep_temporary(phase.out)

    stamp = {"phase": phase.name, "format_version": phase.format_version, "fingerprint": fingerprint}
    stamp["config"] = phase.config
    stamp["input_digests"] = {str(path): input_digest(path) for path in phase.inputs}
    allowed = sorted({*before.get("allowed_changes", []), *(phase.allowed_changes or ())})
    files.write_json(phase.unfinished_path, stamp | ({"allowed_changes": allowed} if allowed else {}))
    started, cpu_before = time.monotonic(), cpu_seconds()
    try:
        summary = phase.run(phase.out)
    except RunStoppedError:
        raise  # the next start resumes from what was written
    except TinyllamaError:
        if before:
            files.write_json(phase.unfinished_path, before)
        else:  # a first attempt that failed leaves nothing that could be resumed
            _remove_result(phase)
        raise
    summary = {
        **summary,
        "seconds": round(time.monotonic() - started, 3),
        "cpu_seconds": round(cpu_seconds() - cpu_before, 3),
    }
    files.write_json(phase.manifest_path, {**stamp, **_record(phase), "summary": summary})
    phase.unfinished_path.unlink()
    return summary


def cpu_seconds() -> float:
    """User and system time of this process and its ended children since it started, imports included."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime, 3)


def versions() -> dict[str, str]:
    """Versions of Python, this package and the libraries that shape results; recorded, never compared."""
    found = {"python": platform.python_version()}
    for name in ("tinyllama-pretrain", *RECORDED_LIBRARIES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def allowed_changes(out: Path) -> set[str]:
    """Keys whose change was allowed, now or at an earlier resume, by the phase that is working in the folder `out`."""
    path = out / UNFINISHED
    return set(files.read_json(path).get("allowed_changes", [])) if path.exists() else set()


def _resumable(phase: Phase, previous: dict[str, Any]) -> dict[str, Any]:
    """The marker or manifest of another fingerprint, when the phase may resume from it with the allowed changes.

    Otherwise the old result is removed and nothing is resumed. Raises InputError when the result is too costly to rebuild
    or is not this phase's.
    """
    if previous.get("phase") != phase.name:
        raise InputError(f"{phase.out}: holds a result of `{previous.get('phase')}`; choose another folder")
    config = previous.get("config", {})
    changes = differences(config, phase.config)
    if phase.fingerprint(config) != previous.get("fingerprint"):
        before = previous.get("input_digests", {})
        names = [str(path) for path in phase.inputs if before.get(str(path)) not in (None, input_digest(path))]
        changes[": ".join(["its inputs changed", *([", ".join(names)] if names else [])])] = ""
    if not phase.keeps_changed:
        log.info(f"{phase.name}: re-running because of a change ({difference_lines(changes)})")
        _remove_result(phase)
        return {}
    refused = {key: change for key, change in changes.items() if key not in (phase.allowed_changes or ())}
    if refused:
        resume = (
            "" if phase.allowed_changes is None else "; to resume with the changes, name each key with --allow-change"
        )
        raise InputError(
            f"{phase.out}: made with other settings ({difference_lines(refused)}); to keep it, go back to those settings; "
            f"to start again, choose another --run-dir or remove the folder{resume}"
        )
    log.warn(f"{phase.name}: resuming with changed settings, as allowed ({difference_lines(changes)})")
    files.write_json(phase.unfinished_path, previous)  # first: a kill here leaves a result that can be resumed
    phase.manifest_path.unlink(missing_ok=True)
    return previous


def _remove_result(phase: Phase) -> None:
    """Remove what the phase wrote; results too costly to rebuild stay, with their marker."""
    if phase.out.is_dir():
        if phase.keeps_changed and set(phase.out.iterdir()) != {phase.unfinished_path}:
            return
        # A marker that matches no fingerprint is written first and removed last: after a kill the rest is neither taken for
        # a result nor resumed.
        files.write_json(phase.unfinished_path, {"phase": phase.name})
        phase.manifest_path.unlink(missing_ok=True)
        files.sync_folder(phase.out)
        for path in phase.out.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path != phase.unfinished_path:
                path.unlink()
        files.sync_folder(phase.out)
        shutil.rmtree(phase.out)
        return
    if phase.manifest_path.exists():
        phase.manifest_path.unlink()
        files.sync_folder(phase.out.parent)
    for path in (phase.out, phase.unfinished_path):
        path.unlink(missing_ok=True)


def _record(phase: Phase) -> dict[str, Any]:
    if phase.out.suffix == ".json":
        found = [phase.out]
        base = phase.out.parent
    else:
        found = sorted(file for file in phase.out.rglob("*") if file.is_file() and file.name != UNFINISHED)
        base = phase.out
    hashes = {
        str(file.relative_to(base)): {"bytes": file.stat().st_size, "sha256": files.sha256_file(file)} for file in found
    }
    return {"inputs": [str(path) for path in phase.inputs], "files": hashes, "versions": versions()}
