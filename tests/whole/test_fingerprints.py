"""The packaged quickstart has the fingerprints that it had before: a finished run stays finished under newer code.

A fingerprint is made of a phase's name, its format version, its settings and its inputs' manifests. The manifests are
fixed here, so the constants change only with a phase or with a setting that changes results.
"""

from pathlib import Path

import pytest

from tinyllama import files, phases
from tinyllama.phase_runner import Phase
from tinyllama.recipe import load_recipe

FINGERPRINTS = {
    "crawl": "3a8d2597c123418cb3436628a00d17b16284f918555e0450f20ae6e518c4947f",
    "documents": "05b2ed1a1f337ad706e32fcc37c22c7a2c16f1cd8f5c00386df24a185b6eef4d",
    "clean": "f34e35c8e338984bad087a52c61ab4d468dec5d5fb102dbc27f31f46a793e43d",
    "tokenizer": "18ff68e5f1183624ffa986e4960049e6cdb9846bcbca670af26f63ee2f87b6aa",
    "shards": "6f4dd3ea03a96a59d0f2d46a7e3c8a21338ef14075afbd95142c62fa90e82438",
    "pretrain": "0f3719ad485a9760987755bd212fba895a6c06d1bb35168b0222bfae86e49b1c",
    "evaluate": "9c8c9d579df1cea78a512f1d8ba1d5aa67ff7b1299fcb6ed3103603a73eae6d9",
    "generate": "30cf154878f4ed52ec2ce8fe72011df4c604e32447658f88ee1a43949298a79f",
    "export": "e7b3a61c8eecf7268c1b8662784a539b9eb3e4795a16a90742819abe742b6b8a",
}


class ReachedError(Exception):
    """Raised instead of doing the work of a phase."""


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    for name in ("crawl", "clean", "tokenizer", "shards", "checkpoints"):
        (tmp_path / name).mkdir()
        files.write_json(tmp_path / name / "manifest.json", {"fingerprint": name, "files": {"a": {"bytes": 1}}})
    files.write_json(tmp_path / "evaluation.manifest.json", {"fingerprint": "evaluation", "files": {}})
    return tmp_path


def test_fingerprints_of_the_quickstart_are_unchanged(run_dir: Path):
    chain = phases._chain(load_recipe("quickstart"), run_dir, (), None)
    found = {name: make().fingerprint() for name, make in chain}
    assert found == {name: value for name, value in FINGERPRINTS.items() if name != "documents"}


def test_the_fingerprint_of_extraction_is_unchanged(run_dir: Path, monkeypatch: pytest.MonkeyPatch):
    made: list[Phase] = []

    def reach(phase: Phase) -> None:
        made.append(phase)
        raise ReachedError

    monkeypatch.setattr(phases, "run_phase", reach)
    clean = dict(phases._chain(load_recipe("quickstart"), run_dir, (), None))["clean"]()
    with pytest.raises(ReachedError):
        clean.run(clean.out)
    assert {phase.name: phase.fingerprint() for phase in made} == {"documents": FINGERPRINTS["documents"]}
