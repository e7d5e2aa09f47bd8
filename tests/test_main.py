"""How the process ends: its exit code, and the one line that says why."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.command_line import replace
from tinyllama import __main__ as program
from tinyllama.errors import InputError, LostRankError, MissingExtraError, RecipeError, RunStoppedError

End = Callable[[BaseException], tuple[int, str]]


@pytest.fixture
def end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> End:
    """The exit code and what is said on stderr when a command raises."""

    def ended(error: BaseException) -> tuple[int, str]:
        def command() -> None:
            raise error

        replace(monkeypatch, "tinyllama.commands.app.app", command)
        with pytest.raises(SystemExit) as stopped:
            program.main()
        out, err = capsys.readouterr()
        assert out == ""
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, err

    return ended


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (InputError("a.txt: missing"), 2, "a.txt: missing"),
        (RecipeError("train.steps: no"), 2, "train.steps: no"),
        (MissingExtraError("pip install x"), 2, "pip install x"),
        (RunStoppedError("stopped", 75), 75, "stopped"),
        (RunStoppedError("SIGTERM", 143), 143, "SIGTERM"),
        (LostRankError("rank 1 is gone"), 69, "rank 1 is gone"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to resume"),
        (OSError(errno.ENOSPC, "No space left", "out/a"), 2, "out/a: No space left"),
        (OSError(errno.EDQUOT, "Quota"), 2, "output: Quota"),
        (OSError(errno.EROFS, "Read-only"), 2, "output: Read-only"),
        (PermissionError(errno.EACCES, "Denied", "b"), 2, "b: Denied"),
        (PermissionError(errno.EPERM, "Not permitted", "c"), 2, "c: Not permitted"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_a_code(end: End, error: BaseException, code: int, words: str):
    assert end(error) == (code, f"tinyllama: {words}\n")


def test_faults_of_ours_keep_their_traceback(monkeypatch: pytest.MonkeyPatch):
    for error in (ValueError("ours"), OSError(errno.EIO, "broken disk"), FileNotFoundError(errno.ENOENT, "gone")):

        def command(error: Exception = error) -> None:
            raise error

        replace(monkeypatch, "tinyllama.commands.app.app", command)
        with pytest.raises(type(error)) as caught:
            program.main()
        assert caught.value is error


def test_of_several_ranks_the_first_speaks_and_whoever_lost_a_rank_first(end: End, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "1")
    assert end(InputError("a")) == (2, "")
    assert end(RunStoppedError("b", 75)) == (75, "")
    assert end(LostRankError("c", is_first=False)) == (69, "")
    assert end(LostRankError("d")) == (69, "tinyllama: d\n")
    monkeypatch.setenv("RANK", "0")
    assert end(InputError("a")) == (2, "tinyllama: a\n")
    assert end(LostRankError("c", is_first=False)) == (69, "tinyllama: c\n")


def test_a_reader_that_went_away_ends_the_command_in_silence():
    code = "import sys; from tinyllama.__main__ import main; sys.argv = ['tinyllama', '--help']; main()"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_nothing_reports_home_and_a_users_own_words_stay():
    names = {
        "DO_NOT_TRACK": "1", "DAFT_ANALYTICS_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_DISABLE_TELEMETRY": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR", "GOMP_SPINCOUNT": "10000",
    }  # fmt: skip
    code = f"import os, tinyllama.__main__; print([os.environ[name] for name in {list(names)}])"
    bare = {name: value for name, value in os.environ.items() if name not in names}
    for given, wanted in ((bare, list(names.values())), (bare | dict.fromkeys(names, "mine"), ["mine"] * len(names))):
        assert subprocess.check_output([sys.executable, "-c", code], env=given, text=True).strip() == str(wanted)
