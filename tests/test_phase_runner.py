"""A phase is done once, goes on with its own leavings only, and is never taken for done when it is not."""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.power_cut import Recorder
from tinyllama import files, phase_runner
from tinyllama.errors import InputError, RunStoppedError
from tinyllama.phase_runner import Phase, allowed_changes, input_digest, run_phase

Work = Callable[[Path], dict[str, Any]]


def write_two(out: Path, value: int) -> dict[str, Any]:
    """A phase's work: two files that say the value, one in a folder of its own; what is there already stays."""
    for name in ("one.json", "inside/two.json"):
        if not (out / name).exists():
            files.write_json(out / name, [name, value])
    return {"value": value}


def phase_of(out: Path, value: int = 1, work: Work | None = None, **changes: Any) -> Phase:
    return replace(Phase("toy", 1, {"value": value}, (), out, work or (lambda out: write_two(out, value))), **changes)


def holds(out: Path, value: int) -> bool:
    """Whether a phase's folder is the finished one of this value; what a kill left beside it does no harm."""
    found = {path for path in out.rglob("*") if path.is_file() and not files.is_temporary(path)}
    return {str(path.relative_to(out)) for path in found} - {"unfinished.json"} == {
        "one.json",
        "inside/two.json",
        "manifest.json",
    } and all(files.read_json(out / name) == [name, value] for name in ("one.json", "inside/two.json"))


def never(_: Path) -> dict[str, Any]:
    raise AssertionError("this work is done")


@pytest.mark.parametrize("is_changed", [False, True])
def test_a_power_cut_at_any_moment_leaves_a_phase_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_changed: bool
):
    """Made from nothing, or anew because its recipe changed: then also who goes back to the old recipe is right."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if is_changed:
        run_phase(phase_of(disk / "toy", 1))
    with Recorder(disk, monkeypatch) as recorder:
        run_phase(phase_of(disk / "toy", 2))
        recorder.mark("done")
    monkeypatch.setattr(os, "fsync", lambda _: None)  # from here on only states are looked at
    n_cuts = 0
    for cut in recorder.cuts():
        for value in (2, 1) if is_changed else (2,):
            n_cuts += 1
            out = cut.write(tmp_path / "cut") / "toy"
            summary = run_phase(phase_of(out, value, never if cut.marks and value == 2 else None))
            assert (summary["value"], holds(out, value)) == (value, True), (n_cuts, cut.how)
    assert n_cuts > 20


def test_a_power_cut_while_a_dear_result_is_taken_up_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def phase(out: Path, value: int, work: Work | None = None) -> Phase:
        return phase_of(out / "toy", value, work, keeps_changed=True, allowed_changes=("value",))

    disk = tmp_path / "disk"
    disk.mkdir()
    run_phase(phase(disk, 1))
    with Recorder(disk, monkeypatch) as recorder:
        run_phase(phase(disk, 2))
        recorder.mark("done")
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for cut in recorder.cuts():
        out = cut.write(tmp_path / "cut")
        assert (out / "toy" / "manifest.json").exists() or (out / "toy" / "unfinished.json").exists(), cut.how
        assert run_phase(phase(out, 2, never if cut.marks else None))["value"] == 2
        assert files.read_json(out / "toy" / "one.json") == ["one.json", 1], cut.how


def test_a_file_s_manifest_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    disk = tmp_path / "disk"
    disk.mkdir()

    def phase(out: Path, value: int) -> Phase:
        def work(out: Path) -> dict[str, Any]:
            files.write_json(out, value)
            return {"value": value}

        return phase_of(out / "result.json", value, work)

    run_phase(phase(disk, 1))
    assert sorted(path.name for path in disk.iterdir()) == ["result.json", "result.manifest.json"]
    with Recorder(disk, monkeypatch) as recorder:
        run_phase(phase(disk, 2))
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for cut in recorder.cuts():
        for value in (1, 2):
            out = cut.write(tmp_path / "cut")
            assert run_phase(phase(out, value))["value"] == value
            assert files.read_json(out / "result.json") == value, cut.how


def test_the_manifest_says_what_was_made_from_what(tmp_path: Path):
    source, out = tmp_path / "source.txt", tmp_path / "toy"
    source.write_text("text")
    phase = phase_of(out, 7, inputs=(source,), format_version=3)

    def work(out: Path) -> dict[str, Any]:
        marker = files.read_json(out / "unfinished.json")
        assert marker == {
            "phase": "toy", "format_version": 3, "fingerprint": phase.fingerprint(), "config": {"value": 7},
            "input_digests": {str(source): input_digest(source)},
        }  # fmt: skip
        assert not (out / "manifest.json").exists()
        (out / "unfinished.json.txt").write_text("a result too")
        return write_two(out, 7)

    summary = run_phase(replace(phase, run=work))
    manifest = files.read_json(out / "manifest.json")
    names = ["inside/two.json", "one.json", "unfinished.json.txt"]
    assert sorted(manifest["files"]) == names
    for name in names:
        assert manifest["files"][name] == {
            "bytes": (out / name).stat().st_size, "sha256": files.sha256_file(out / name),
        }  # fmt: skip
    assert manifest["inputs"] == [str(source)]
    assert manifest["summary"] == summary
    assert (manifest["phase"], manifest["fingerprint"]) == ("toy", phase.fingerprint())
    assert set(manifest["versions"]) >= {"python", "torch", "numpy", "safetensors"}
    assert set(summary) == {"value", "seconds", "cpu_seconds"}
    assert 0 <= summary["seconds"] < 60
    assert 0 <= summary["cpu_seconds"] < 60
    assert not (out / "unfinished.json").exists()
    assert run_phase(replace(phase, run=never)) == summary


def test_what_is_in_a_fingerprint(tmp_path: Path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_text("a")
    phase = phase_of(tmp_path / "toy", inputs=(source,))
    base = phase.fingerprint()
    assert replace(phase, out=tmp_path / "elsewhere", keeps_changed=True).fingerprint() == base
    others = [
        replace(phase, name="other"), replace(phase, format_version=2), replace(phase, config={"value": 2}),
        replace(phase, inputs=()),
    ]  # fmt: skip
    assert len({base, *(other.fingerprint() for other in others)}) == 5
    assert phase.fingerprint({"value": 2}) == others[2].fingerprint()
    assert phase.fingerprint({}) not in (base, others[2].fingerprint())


def test_an_input_is_known_by_names_sizes_and_times_or_by_its_manifest(tmp_path: Path):
    folder, times = tmp_path / "given", (1_000_000_000, 1_000_000_000)
    (folder / "inside").mkdir(parents=True)
    for name in ("b", "inside/a"):
        (folder / name).write_text("x")
        os.utime(folder / name, ns=times)
    rows = [["given/b", 1, times[0]], ["given/inside/a", 1, times[0]]]
    assert input_digest(folder) == files.sha256_json(rows)
    assert input_digest(folder / "b") == files.sha256_json([["b", 1, times[0]]])
    os.utime(folder / "b", ns=(times[0], times[1] + 1))
    assert input_digest(folder) == files.sha256_json([["given/b", 1, times[0] + 1], rows[1]])
    with pytest.raises(InputError, match="none: no such file or folder"):
        input_digest(tmp_path / "none")
    (folder / "unfinished.json").write_text("{}")
    with pytest.raises(InputError, match="given: this phase has not finished"):
        input_digest(folder)
    (folder / "manifest.json").write_text('{"fingerprint": "f", "files": {"b": 1}, "summary": 5}')
    assert input_digest(folder) == files.sha256_json(["f", {"b": 1}])
    (tmp_path / "one.manifest.json").write_text('{"fingerprint": "g", "files": {}}')
    assert input_digest(tmp_path / "one.json") == files.sha256_json(["g", {}])


def test_another_folder_is_never_written_into(tmp_path: Path):
    out = tmp_path / "toy"
    out.mkdir()
    (out / "thesis").write_text("dear")
    with pytest.raises(InputError, match="toy: not empty and not a result of `toy`; choose another folder"):
        run_phase(phase_of(out, work=never))
    (out / "thesis").unlink()
    run_phase(phase_of(out))
    for file in ("manifest.json", "unfinished.json"):
        with pytest.raises(InputError, match="toy: holds a result of `toy`; choose another folder"):
            run_phase(phase_of(out, work=never, name="other"))
        if file == "manifest.json":
            (out / file).rename(out / "unfinished.json")
    assert holds(out, 1) or (out / "one.json").exists()


@pytest.mark.parametrize("is_first", [True, False])
def test_after_an_error_the_user_can_mend_nothing_is_kept_of_a_beginning(tmp_path: Path, is_first: bool):
    """And of a work that goes on its marker says again what it said."""
    out, seen = tmp_path / "toy", {}

    def stops(out: Path) -> dict[str, Any]:
        files.write_json(out / "one.json", ["one.json", 1])
        raise RunStoppedError("stopped", 75)

    def fails(out: Path) -> dict[str, Any]:
        files.write_json(out / "one.json", ["one.json", 1])
        seen["marker"] = files.read_json(out / "unfinished.json")
        raise InputError("mend this")

    if not is_first:
        with pytest.raises(RunStoppedError):
            run_phase(phase_of(out, work=stops))
        (out / "inside").mkdir()
        (out / "inside" / ".two.json.abcd1234").write_text("half")
    for _ in range(2):
        with pytest.raises(InputError, match="mend this"):
            run_phase(phase_of(out, work=fails))
        assert out.exists() != is_first
    if not is_first:
        assert files.read_json(out / "unfinished.json") == seen["marker"]
        assert not (out / "inside" / ".two.json.abcd1234").exists(), "what a kill left is swept"
    assert run_phase(phase_of(out))["value"] == 1
    assert holds(out, 1)


def test_a_crash_keeps_what_there_is_and_work_goes_on(tmp_path: Path):
    out = tmp_path / "toy"

    def crashes(out: Path) -> dict[str, Any]:
        files.write_json(out / "one.json", "kept")
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            run_phase(phase_of(out, work=crashes))
    assert run_phase(phase_of(out))["value"] == 1
    assert files.read_json(out / "one.json") == "kept"


def test_a_dear_result_is_refused_with_all_that_differs(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    out = tmp_path / "toy"

    def phase(allowed: tuple[str, ...] | None, a: int, b: int, work: Work | None = None) -> Phase:
        config = {"a": a, "b": b}
        return phase_of(out, 1, work, config=config, keeps_changed=True, allowed_changes=allowed)

    run_phase(phase((), 1, 1))
    with pytest.raises(InputError, match=re.escape("(a: 1 -> 2; b: 1 -> 3)")) as refusal:
        run_phase(phase((), 2, 3, never))
    assert str(refusal.value).endswith("to resume with the changes, name each key with --allow-change")
    with pytest.raises(InputError, match=re.escape("(a: 1 -> 2; b: 1 -> 3)")) as refusal:
        run_phase(phase(None, 2, 3, never))
    assert str(refusal.value).endswith("choose another --run-dir or remove the folder")
    with pytest.raises(InputError, match=re.escape("(b: 1 -> 3)")):
        run_phase(phase(("a",), 2, 3, never))
    assert (out / "manifest.json").exists()
    assert allowed_changes(out) == set()

    def stops(out: Path) -> dict[str, Any]:
        assert not (out / "manifest.json").exists()
        raise RunStoppedError("stopped", 75)

    with pytest.raises(RunStoppedError):
        run_phase(phase(("b", "a"), 2, 3, stops))
    assert files.read_json(out / "unfinished.json")["allowed_changes"] == ["a", "b"]
    assert allowed_changes(out) == {"a", "b"}
    with pytest.raises(RunStoppedError):  # what was allowed once stays so
        run_phase(phase((), 2, 3, stops))
    assert allowed_changes(out) == {"a", "b"}
    assert allowed_changes(tmp_path / "none") == set()
    words = " ".join(capfd.readouterr().err.split())
    assert "resuming with changed settings, as allowed (a: 1 -> 2; b: 1 -> 3)" in words
    run_phase(phase((), 2, 3))
    assert holds(out, 1)


def test_a_change_that_fails_leaves_the_result_to_its_own_recipe(tmp_path: Path):
    out = tmp_path / "toy"

    def fails(_: Path) -> dict[str, Any]:
        raise InputError("mend this")

    run_phase(phase_of(out, 1, keeps_changed=True))
    before = files.read_json(out / "manifest.json")
    with pytest.raises(InputError, match="mend this"):
        run_phase(phase_of(out, 2, fails, keeps_changed=True, allowed_changes=("value",)))
    assert files.read_json(out / "unfinished.json") == before
    with pytest.raises(InputError, match="value: 1 -> 2"):
        run_phase(phase_of(out, 2, never, keeps_changed=True, allowed_changes=()))
    assert run_phase(phase_of(out, 1, keeps_changed=True))["value"] == 1


def test_changed_inputs_are_named(tmp_path: Path):
    same, other, out = tmp_path / "same", tmp_path / "other", tmp_path / "toy"
    same.write_text("1")
    other.write_text("1")
    phase = phase_of(out, inputs=(same, other), keeps_changed=True, allowed_changes=())
    run_phase(phase)
    other.write_text("22")
    with pytest.raises(InputError) as refusal:
        run_phase(phase)
    assert f"(its inputs changed: {other});" in str(refusal.value)
    same.write_text("22")
    with pytest.raises(InputError) as refusal:
        run_phase(phase)
    assert f"(its inputs changed: {same}, {other});" in str(refusal.value)
    assert run_phase(replace(phase, keeps_changed=False))["value"] == 1


def test_a_dear_beginning_without_anything_dear_is_removed(tmp_path: Path):
    """A marker alone is nothing; anything else beside it stays."""
    out = tmp_path / "toy"

    def fails(out: Path) -> dict[str, Any]:
        raise InputError("mend this")

    def saves(out: Path) -> dict[str, Any]:
        files.write_json(out / "dear.json", 1)
        raise InputError("mend this")

    for work, names in ((fails, None), (saves, ["dear.json", "unfinished.json"])):
        with pytest.raises(InputError, match="mend this"):
            run_phase(phase_of(out, work=work, keeps_changed=True))
        assert (sorted(path.name for path in out.iterdir()) if out.exists() else None) == names


def test_cpu_seconds_are_user_and_system_time_of_this_process_and_its_children(monkeypatch: pytest.MonkeyPatch):
    class Used:
        def __init__(self, user: float, system: float) -> None:
            self.ru_utime, self.ru_stime = user, system

    by_who = {
        phase_runner.resource.RUSAGE_SELF: Used(1.0, 0.25),
        phase_runner.resource.RUSAGE_CHILDREN: Used(8.0, 0.0625),
    }
    monkeypatch.setattr(phase_runner.resource, "getrusage", by_who.__getitem__)
    assert phase_runner.cpu_seconds() == 9.312  # 9.3125, in thousandths


def test_time_used_is_that_between_start_and_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clocks = {"monotonic": iter([100.0, 107.5]), "cpu": iter([3.0, 5.25])}
    monkeypatch.setattr(phase_runner.time, "monotonic", lambda: next(clocks["monotonic"]))
    monkeypatch.setattr(phase_runner, "cpu_seconds", lambda: next(clocks["cpu"]))
    assert run_phase(phase_of(tmp_path / "toy")) == {"value": 1, "seconds": 7.5, "cpu_seconds": 2.25}


def test_versions_of_libraries_that_are_there(monkeypatch: pytest.MonkeyPatch):
    from importlib import metadata

    def version(name: str) -> str:
        if name == "numpy":
            raise metadata.PackageNotFoundError
        return f"{name} 1"

    monkeypatch.setattr(phase_runner.metadata, "version", version)
    found = phase_runner.versions()
    names = {"tinyllama-pretrain", "torch", "daft", "scrapy", "sentencepiece", "tokenizers", "safetensors", "gigatoken"}
    assert set(found) == names | {"python"}
    assert found["safetensors"] == "safetensors 1"
