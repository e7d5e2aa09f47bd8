import json
import os
import shutil
from pathlib import Path

import pytest

from tests.tiny_model import save_checkpoint, tiny_llama
from tinyllama import files
from tinyllama.checkpoint import checkpoint_format as form
from tinyllama.errors import InputError


@pytest.fixture
def folder(prepared_run: Path, tmp_path: Path) -> Path:
    """Checkpoints of steps 3, 20 and 100."""
    for step in (3, 20, 100):
        save_checkpoint(tmp_path / "checkpoints", prepared_run / "tokenizer", tiny_llama(), step)
    return tmp_path / "checkpoints"


def flip_bit(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def test_a_saved_checkpoint_is_whole(folder: Path):
    newest = form.newest_valid(folder)
    assert newest is not None
    assert newest == folder / "step_00000100"
    form.check(newest)
    assert form.is_checkpoint(newest)
    state = form.read_state(newest)
    assert (state.step, state.tokens) == (100, 10_000)


def test_order_is_that_of_the_steps_inside_not_of_names(folder: Path):
    (folder / "step_00000100").rename(folder / "step_1000000000")
    assert [path.name for path in form.checkpoints(folder)] == ["step_1000000000", "step_00000020", "step_00000003"]
    (folder / "step_00000003").rename(folder / "step_9999999999")  # the name lies, the state does not
    assert [path.name for path in form.checkpoints(folder)] == ["step_1000000000", "step_00000020", "step_9999999999"]
    assert form.newest_valid(folder) == folder / "step_1000000000"


@pytest.mark.parametrize("name", [form.WEIGHTS, form.STATE, "tokenizer.model", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_each_damage_is_named(folder: Path, name: str, damage: str):
    path = folder / "step_00000100" / name
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "flipped":
        flip_bit(path, path.stat().st_size // 2)
    else:
        path.unlink()
    with pytest.raises(InputError, match=f"{name}: (damaged|missing)"):
        form.check(folder / "step_00000100")


@pytest.mark.parametrize(
    "manifest",
    ["", "[]", "{}", '{"files": {}}', '{"files": {}, "format_version": 1}', '{"files": {}, "format_version": 9}'],
)
def test_a_manifest_that_is_none(folder: Path, manifest: str):
    (folder / "step_00000100" / form.MANIFEST).write_text(manifest)
    with pytest.raises(InputError, match=r"manifest\.json"):
        form.check(folder / "step_00000100")


@pytest.mark.parametrize("version", [1, 4, None, "3"])
def test_another_version_is_no_damage(folder: Path, version: object):
    path = folder / "step_00000100" / form.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": version}))
    with pytest.raises(form.OtherVersionError, match="this program reads 2 and 3; use the version that wrote it"):
        form.find_newest(folder)
    assert form.find_newest(folder, last_step=20)[0] == folder / "step_00000020"


def test_a_manifest_cannot_point_outside(folder: Path, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("x")
    path = folder / "step_00000100" / form.MANIFEST
    manifest = json.loads(path.read_text())
    manifest["files"]["../../secret"] = {"bytes": 1, "sha256": files.sha256_file(secret)}
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="missing"):
        form.check(folder / "step_00000100")


def truncate(path: Path) -> None:
    os.truncate(path / form.WEIGHTS, (path / form.WEIGHTS).stat().st_size // 2)


def half_delete(path: Path) -> None:
    for file in sorted(path.iterdir())[::2]:
        file.unlink()


DAMAGES = {
    "truncated file": (truncate, "weights.safetensors: damaged"),
    "flipped bit": (lambda path: flip_bit(path / form.WEIGHTS, 500), "weights.safetensors: damaged"),
    "missing manifest": (lambda path: (path / form.MANIFEST).unlink(), "manifest.json: no such file"),
    "half-deleted folder": (half_delete, "no such file"),
    "empty folder": (lambda path: [file.unlink() for file in path.iterdir()], "manifest.json: no such file"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES.keys())
def test_newest_valid_passes_over_damage(folder: Path, damage, message: str, capfd: pytest.CaptureFixture[str]):
    damage(folder / "step_00000100")
    assert form.newest_valid(folder) == folder / "step_00000020"
    warnings = " ".join(capfd.readouterr().err.split())
    assert "step_00000100" in warnings.replace(" ", "")
    assert message.replace(" ", "") in warnings.replace(" ", "")
    path, damaged = form.find_newest(folder)
    assert (path, damaged) == (folder / "step_00000020", [folder / "step_00000100"])


def test_a_damaged_one_is_set_aside_and_counts_no_more(folder: Path):
    for _ in range(2):  # the second time there is one of that name
        shutil.copytree(folder / "step_00000100", folder / "step_00000200")
        assert form.set_aside(folder / "step_00000200") == folder / "damaged_step_00000200"
    assert len(form.checkpoints(folder)) == 3


def test_no_checkpoint_at_all(tmp_path: Path):
    assert form.newest_valid(tmp_path / "nothing") is None
    (tmp_path / "step_1").mkdir()
    assert form.newest_valid(tmp_path) is None


@pytest.mark.parametrize("state", ["[]", "{}", '{"step": 1}', "not json", "[" * 100_000])
def test_a_state_that_is_none(folder: Path, state: str):
    (folder / "step_00000100" / form.STATE).write_text(state)
    with pytest.raises(InputError, match=r"state\.json"):
        form.read_state(folder / "step_00000100")
