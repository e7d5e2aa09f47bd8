"""Checkpoints at their edges: what is judged, what is passed over and what is raised, figure by figure."""

import errno
import json
import struct
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny_model import run_state, tiny_llama
from tinyllama import files
from tinyllama.checkpoint import async_save, save_load, tensor_writer
from tinyllama.checkpoint import checkpoint_format as form
from tinyllama.checkpoint.async_save import AsyncSaver, HostCopy, Saved
from tinyllama.checkpoint.checkpoint_format import RunState
from tinyllama.checkpoint.retention import Retention, remove_others
from tinyllama.checkpoint.save_load import check_moments, check_weights, sha256_of, write_checkpoint
from tinyllama.checkpoint.tensor_writer import write_tensors
from tinyllama.errors import InputError

NETWORK = tiny_llama()
STATE = run_state(NETWORK, "t", 3)


def write(folder: Path, step: int, **changes: Any) -> Path:
    """A checkpoint of two values."""
    tensors: dict[str, dict[str, Tensor]] = {form.WEIGHTS: {"w": torch.ones(2)}}
    return write_checkpoint(folder, tensors, replace(run_state(NETWORK, "t", step), **changes), [])


# -- the form ----------------------------------------------------------------------------------------------------------


def test_a_manifest_has_size_and_hash_of_every_file_but_itself(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"")
    (tmp_path / form.MANIFEST).write_text("old")
    form.write_manifest(tmp_path, {"a": "given", "c": "unknown"})
    assert files.read_json(tmp_path / form.MANIFEST) == {
        "format": "tinyllama checkpoint",
        "format_version": 3,
        "files": {
            "a": {"bytes": 3, "sha256": "given"},
            "b": {"bytes": 0, "sha256": files.sha256_file(tmp_path / "b")},
        },
    }


@pytest.mark.parametrize(
    ("step", "name"), [(0, "step_00000000"), (500, "step_00000500"), (123456789, "step_123456789")]
)
def test_names(step: int, name: str, tmp_path: Path):
    assert form.checkpoint_name(step) == name
    (tmp_path / name).mkdir()
    assert form.checkpoints(tmp_path) == [tmp_path / name]
    assert form.step_of(tmp_path / name) == step


def test_only_folders_of_the_name_are_checkpoints(tmp_path: Path):
    for name in (
        "step_0000001",
        "xstep_00000001",
        "step_00000001x",
        "damaged_step_00000001",
        ".step_00000001.abcd1234",
    ):
        (tmp_path / name).mkdir()
    (tmp_path / "step_00000009").write_text("a file")
    assert form.checkpoints(tmp_path) == []
    assert form.checkpoints(tmp_path / "none") == []
    assert form.find_newest(tmp_path) == (None, [])


@pytest.mark.parametrize("left_out", [form.WEIGHTS, form.STATE])
def test_a_manifest_must_list_weights_and_state(tmp_path: Path, left_out: str):
    path = write(tmp_path, 3) / form.MANIFEST
    manifest = json.loads(path.read_text())
    del manifest["files"][left_out]
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=f"does not list {left_out}"):
        form.check(path.parent)


def test_looking_like_a_checkpoint(tmp_path: Path):
    path = write(tmp_path, 3)
    assert form.is_checkpoint(path)
    for name in (form.MANIFEST, form.WEIGHTS):
        content = (path / name).read_bytes()
        (path / name).unlink()
        assert not form.is_checkpoint(path)
        (path / name).write_bytes(content)


@pytest.mark.parametrize("row", [{"bytes": 1}, {"sha256": "0" * 64}])
def test_size_and_hash_are_each_enough_for_a_damage(tmp_path: Path, row: dict[str, Any]):
    path = write(tmp_path, 3) / form.MANIFEST
    manifest = json.loads(path.read_text())
    manifest["files"][form.STATE] |= row
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"state\.json: damaged, its sha256 is not the manifest's"):
        form.check(path.parent)


def test_states_of_both_versions_and_no_others(tmp_path: Path):
    whole = {
        "step": 3, "tokens": 300, "model": {}, "train": {}, "tokenizer_fingerprint": "t", "shards_fingerprint": "s",
        "updates": 2, "loss_scale": {}, "validation": None, "validation_fingerprint": "v", "guards": {"a": 1},
        "quarantine": [{"after_step": 1, "windows": [2]}],
    }  # fmt: skip
    path = tmp_path / form.STATE
    path.write_text(json.dumps(whole))
    assert form.read_state(tmp_path) == RunState(**whole)
    new = {"validation_fingerprint", "guards", "quarantine"}
    for left_out in (new, {"guards"}, {"quarantine", "guards"}):
        path.write_text(json.dumps({key: value for key, value in whole.items() if key not in left_out}))
        state = form.read_state(tmp_path)
        assert (state.step, state.updates, state.tokens) == (3, 2, 300)
        assert ("guards" in left_out) == (state.guards == {})
        assert ("quarantine" in left_out) == (state.quarantine == [])
        assert state.validation_fingerprint == ("" if "validation_fingerprint" in left_out else "v")
    for key in whole.keys() - new:
        path.write_text(json.dumps({other: value for other, value in whole.items() if other != key}))
        with pytest.raises(InputError, match=r"state\.json: not a checkpoint's state of format version 3"):
            form.read_state(tmp_path)
    path.write_text(json.dumps(whole | {"more": 1}))
    with pytest.raises(InputError, match="not a checkpoint's state"):
        form.read_state(tmp_path)


@pytest.mark.parametrize(
    ("last_step", "taken"), [(None, 30), (31, 30), (30, 30), (29, 20), (20, 20), (10, 10), (9, None)]
)
def test_the_newest_up_to_a_step(tmp_path: Path, last_step: int | None, taken: int | None):
    for step in (10, 20, 30):
        write(tmp_path, step)
    found, damaged = form.find_newest(tmp_path, last_step)
    assert (form.step_of(found) if found else None, damaged) == (taken, [])


def test_every_damaged_one_that_is_newer_is_named(tmp_path: Path):
    paths = [write(tmp_path, step) for step in (10, 20, 30, 40)]
    for path in (paths[0], paths[2], paths[3]):
        (path / form.WEIGHTS).write_bytes(b"x")
    assert form.find_newest(tmp_path) == (paths[1], [paths[3], paths[2]])
    (paths[1] / form.MANIFEST).unlink()
    assert form.find_newest(tmp_path) == (None, paths[::-1])


@pytest.mark.parametrize(("number", "is_damage"), [(errno.EIO, True), (errno.EACCES, False), (errno.EMFILE, False)])
def test_a_disk_that_cannot_read_is_a_damage_and_no_permission_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_damage: bool
):
    paths = [write(tmp_path, step) for step in (10, 20)]
    check = form.check

    def fails(path: Path) -> None:
        if path == paths[1]:
            raise OSError(number, "words", str(path))
        check(path)

    monkeypatch.setattr(form, "check", fails)
    if is_damage:
        assert form.find_newest(tmp_path) == (paths[0], [paths[1]])
    else:
        with pytest.raises(OSError, match="words"):
            form.find_newest(tmp_path)


def test_setting_aside(tmp_path: Path):
    paths = [write(tmp_path, step) for step in (10, 20)]
    assert form.set_aside(paths[0]) == tmp_path / "damaged_step_00000010"
    (tmp_path / "damaged_step_00000010" / "mark").write_text("old")
    again = form.set_aside(write(tmp_path, 10))
    assert not (again / "mark").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged_step_00000010", "step_00000020"]


# -- which stay --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retention", "kept"),
    [
        (Retention(0, best=False, safe_steps=30), {30, 40, 60}),
        (Retention(0, best=False, safe_steps=29), {30, 40, 60}),
        (Retention(0, best=False, safe_steps=31), {20, 30, 60}), (Retention(0, best=False, safe_steps=0), {60}),
        (Retention(0, every_steps=15, best=False), {30, 60}), (Retention(0, every_steps=7, best=False), {60}),
        (Retention(0), {20, 60}), (Retention(3), {20, 40, 50, 60}),
    ],
)  # fmt: skip
def test_which_steps_stay(retention: Retention, kept: set[int]):
    losses = {10: 3.0, 20: 2.0, 30: 2.0, 40: None, 50: 9.0, 60: float("inf")}
    states = [
        replace(STATE, step=step, validation=None if loss is None else {"loss": loss, "accuracy": 0.0})
        for step, loss in losses.items()
    ]
    assert retention.kept_steps(states) == kept
    assert retention.kept_steps(reversed(states)) == kept


def test_the_best_is_kept_unless_told_otherwise_and_nothing_else():
    assert Retention(1) == Retention(1, 0, True, 0)


def test_no_checkpoint_at_all_keeps_none(tmp_path: Path):
    assert Retention(2).kept_steps([]) == set()
    assert remove_others(tmp_path, Retention(2)) == []


def test_several_that_cannot_be_read_stay_and_hide_none(tmp_path: Path):
    for step in (10, 20, 30, 40, 50):
        write(tmp_path, step)
    for step in (50, 30):
        (tmp_path / form.checkpoint_name(step) / form.STATE).write_text("damaged")
    assert remove_others(tmp_path, Retention(1, best=False)) == ["step_00000020", "step_00000010"]
    assert sorted(form.step_of(path) for path in form.checkpoints(tmp_path)) == [30, 40, 50]


# -- tensors -----------------------------------------------------------------------------------------------------------


def test_the_bytes_of_a_file_by_hand(tmp_path: Path):
    """The longer values first, then by name; the header in compact JSON, filled with blanks to a multiple of 8."""
    tensors = {
        "b": torch.tensor([1.0, -2.0]), "a": torch.tensor([[0.5]]), "c": torch.tensor([3.0]).bfloat16(),
        "d": torch.tensor(1.0).half(),
    }  # fmt: skip
    write_tensors(tmp_path / "x", tensors)
    header = (
        b'{"a":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},'
        b'"c":{"dtype":"BF16","shape":[1],"data_offsets":[12,14]},"d":{"dtype":"F16","shape":[],"data_offsets":[14,16]}}'
    )
    blanks = -len(header) % 8
    data = struct.pack("<fff", 0.5, 1.0, -2.0) + b"\x40\x40" + b"\x00\x3c"
    whole = struct.pack("<Q", len(header) + blanks) + header + b" " * blanks + data
    assert (tmp_path / "x").read_bytes() == whole
    for n in range(1, 10):
        write_tensors(tmp_path / "x", {"x" * n: torch.ones(1)})
        content = (tmp_path / "x").read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        assert length % 8 == 0
        assert len(content) == 8 + length + 4


def test_a_write_that_takes_only_a_part_goes_on_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As a disk does that is nearly full; the hash is that of what stands there."""

    class Slow:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> "Slow":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: memoryview) -> int:
            return self.file.write(data[:7])

    opened = Path.open
    monkeypatch.setattr(tensor_writer, "CHUNK_BYTES", 20)
    wanted = write_tensors(tmp_path / "whole", {"a": torch.arange(50.0)})

    def slowly(self: Path, mode: str = "r", buffering: int = -1) -> Slow:
        assert (mode, buffering) == ("wb", 0), "a buffer would hide what is not written"
        return Slow(opened(self, mode, buffering=0))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", slowly)
        assert write_tensors(tmp_path / "slow", {"a": torch.arange(50.0)}) == wanted
    assert files.sha256_file(tmp_path / "slow") == wanted == files.sha256_file(tmp_path / "whole")


def test_shapes_are_held_against_the_network(tmp_path: Path):
    shapes = {"a": torch.Size([2]), "b": torch.Size([2, 3])}
    right = {"a": torch.ones(2), "b": torch.ones(2, 3)}
    check_weights(shapes, right, tmp_path)
    check_moments(shapes, right | {"more": torch.ones(1)}, tmp_path)
    for wrong, words in (
        ({"a": torch.ones(2)}, "tensor b is missing"), (right | {"c": torch.ones(1)}, "tensor c is not part"),
        (right | {"b": torch.ones(3, 2)}, r"tensor b has shape \(3, 2\), the network's is \(2, 3\)"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            check_weights(shapes, wrong, tmp_path)
    for wrong in ({"a": torch.ones(2)}, right | {"b": torch.ones(3, 2)}, {"b": torch.ones(2, 3)}):
        with pytest.raises(InputError, match="is missing or has another shape"):
            check_moments(shapes, wrong, tmp_path)


def test_the_hash_of_weights_does_not_depend_on_their_place_in_memory_or_order():
    a, b = torch.arange(6.0).view(2, 3), torch.ones(2)
    wanted = sha256_of({"a": a, "b": b})
    assert sha256_of({"b": b, "a": a.t().contiguous().t()}) == wanted == sha256_of({"a": a.double(), "b": b.bfloat16()})
    assert len({wanted, sha256_of({"a": a.view(3, 2), "b": b}), sha256_of({"a": b, "b": a}), sha256_of({"a": a})}) == 4


# -- the thread --------------------------------------------------------------------------------------------------------


def test_copies_are_made_anew_where_shape_or_kind_is_another():
    copy = HostCopy()
    first = copy.take([("a", torch.ones(3)), ("b", torch.ones(3)), ("c", torch.ones(3)), ("d", torch.ones(2).double())])
    assert first["d"].dtype == torch.float32
    later = copy.take(
        [("a", torch.zeros(3)), ("b", torch.zeros(4)), ("c", torch.zeros(3).half()), ("e", torch.zeros(1))]
    )
    assert later["a"] is first["a"]
    assert [tuple(later[name].shape) for name in "abce"] == [(3,), (4,), (3,), (1,)]
    assert later["c"].dtype == torch.float16
    assert all(value.abs().sum() == 0 for value in later.values())
    assert later.keys() == {"a", "b", "c", "e"}


def test_room_that_cannot_be_made_ahead_is_made_when_it_is_needed():
    def none() -> Iterable[tuple[str, Tensor]]:
        raise RuntimeError("no memory")
        yield

    copy = HostCopy()
    copy.prepare(none())
    assert copy.take([("a", torch.ones(2))])["a"].tolist() == [1.0, 1.0]
    copy.prepare([("b", torch.zeros(2))])  # a second time: the thread of the first is done with
    with pytest.raises(AssertionError):
        copy.prepare([("b", torch.zeros(2))])
    assert threading.current_thread() is threading.main_thread()
    copy.take([])


def test_seconds_and_bytes_are_said_of_each_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With a clock that each look moves on by one second."""
    looks = iter(range(1000))
    monkeypatch.setattr(async_save.time, "perf_counter", lambda: float(next(looks)))
    saved: list[Saved] = []
    saver = AsyncSaver(tmp_path, Retention(1, best=False), on_saved=saved.append)
    saver.prepare([("w", torch.ones(2))], [("m", torch.ones(2))])
    for step in (1, 2):
        assert not saver.is_writing
        saver.save([("w", torch.ones(2))], [("m", torch.zeros(2))], replace(STATE, step=step), [])
        saver.wait()
    assert [(row.path.name, row.step) for row in saved] == [("step_00000001", 1), ("step_00000002", 2)]
    for row in saved:  # one between the looks around the wait, one around the copy
        assert (row.stall_seconds, row.write_seconds) == (2.0, 1.0)
    assert saved[1].n_bytes == sum(file.stat().st_size for file in saved[1].path.iterdir())
    assert [path.name for path in form.checkpoints(tmp_path)] == ["step_00000002"]
    assert list(save_load.load_tensors(saved[1].path / form.OPTIMIZER)) == ["m"]


def test_an_error_in_what_follows_a_save_is_raised_too(tmp_path: Path):
    def fails(_: Saved) -> None:
        raise OSError(errno.ENOSPC, "full")

    saver = AsyncSaver(tmp_path, Retention(1), on_saved=fails)
    saver.save([("w", torch.ones(2))], [], STATE, [])
    with pytest.raises(OSError, match="full"):
        saver.wait()
    saver.wait()
    assert [path.name for path in form.checkpoints(tmp_path)] == ["step_00000003"]


@pytest.mark.parametrize(("host_seconds", "wanted"), [(2.0, 3.0), (5.0, 5.0)])
def test_a_copy_on_a_gpu_takes_as_long_as_the_longer_of_host_and_device(host_seconds: float, wanted: float):
    class Moment:
        def __init__(self, at_milliseconds: float) -> None:
            self.at, self.is_over = at_milliseconds, False

        def synchronize(self) -> None:
            self.is_over = True

        def elapsed_time(self, later: "Moment") -> float:
            assert later.is_over
            return later.at - self.at

    copy: Any = HostCopy()
    copy._seconds, copy._events = host_seconds, (Moment(500.0), Moment(3500.0))
    assert copy.seconds() == wanted
