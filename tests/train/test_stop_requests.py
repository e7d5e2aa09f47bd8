"""A run that is asked to stop saves first, says why by its exit code, and goes on as if nothing had been."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import overrides
from tests.train.run_processes import events, outcome, run_to_its_end, start, steps_done, stopped, wait_until
from tinyllama.train import stop_requests
from tinyllama.train.stop_requests import StopRequests, agreed

WORDS = overrides(train__steps=100, train__save_every_steps=1000, train__validate_every_steps=20)


@pytest.fixture(scope="module")
def undisturbed(prepared_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    run_dir = Path(shutil.copytree(prepared_run, tmp_path_factory.mktemp("undisturbed") / "run"))
    return outcome(run_dir, run_to_its_end(run_dir, WORDS))


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_run_goes_on(run_dir: Path, undisturbed: tuple[Any, ...], number: int, exit_code: int):
    process = start(run_dir, WORDS)
    wait_until(lambda: steps_done(run_dir) >= 5, process)
    process.send_signal(number)
    out, errors = process.communicate()
    assert (process.returncode, out) == (exit_code, ""), errors
    assert "run the same command to resume" in errors.splitlines()[-1]
    (stop,) = events(run_dir, "stop")
    assert (stop["reason"], stop["exit_code"]) == (signal.Signals(number).name, exit_code)
    assert stop["step"] == steps_done(run_dir) == events(run_dir, "save")[-1]["step"]
    assert not (run_dir / "checkpoints" / "manifest.json").exists()
    assert outcome(run_dir, run_to_its_end(run_dir, WORDS)) == undisturbed
    assert events(run_dir, "resume")[0]["step"] == stop["step"]


def test_the_time_limit_does_the_same(run_dir: Path, undisturbed: tuple[Any, ...]):
    exit_code, line = stopped(run_dir, [*WORDS, "train.time_limit_minutes=1e-3"])
    assert exit_code == 75
    assert "(time limit of 0.001 minutes), saved; run the same command to resume" in line
    assert 1 <= events(run_dir, "stop")[0]["step"] < 100
    assert outcome(run_dir, run_to_its_end(run_dir, WORDS)) == undisturbed


def test_the_second_interrupt_stops_at_once(run_dir: Path):
    """A step of half a minute or more is not finished, and nothing is saved."""
    words = overrides(train__steps=2, train__tokens_per_step=256 * 8000)
    process = start(run_dir, words)
    wait_until(lambda: bool(events(run_dir, "start")), process)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None, "the first one must wait for the step"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert steps_done(run_dir) == 0


def test_handlers_are_given_back_and_the_first_reason_counts():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopRequests() as stops:
        assert stops.now() is None
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        request = stops.now()
        assert request is not None
        assert (request.reason, request.exit_code) == ("SIGTERM", 143)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        ([0.0, 0.0, 0.0], None),
        ([1.0, 0.0, 0.0], ("SIGTERM", 143)),
        ([0.0, 3.0, 0.0], ("SIGINT", 130)),
        ([0.0, 0.0, 2.0], ("time limit of 1.5 minutes", 75)),
        ([0.0, 1.0, 4.0], ("SIGINT", 130)),
        ([1.0, 5.0, 4.0], ("SIGTERM", 143)),
        ([], None),  # of a rank that is alone
    ],
)
def test_ranks_agree_on_the_weightiest_request(counts: list[float], wanted: tuple[str, int] | None):
    assert agreed(counts, 1.5) == wanted


def test_requests_are_counted_by_their_kind():
    with StopRequests() as stops:
        assert stops.counts() == [0.0, 0.0, 0.0]
        assert stops.by_signal() is None
        os.kill(os.getpid(), signal.SIGINT)
        assert stops.counts() == [0.0, 1.0, 0.0]
        assert stops.by_signal() == ("SIGINT", 130)
        os.kill(os.getpid(), signal.SIGTERM)  # the first one counts
        assert stops.counts() == [0.0, 1.0, 0.0]


def test_a_signal_is_weightier_than_the_time_limit(monkeypatch: pytest.MonkeyPatch):
    clock = [1000.0]
    monkeypatch.setattr(stop_requests.time, "monotonic", lambda: clock[0])
    with StopRequests(0.5) as stops:
        clock[0] = 1029.9
        assert stops.now() is None
        clock[0] = 1030.0
        assert stops.now() == ("time limit of 0.5 minutes", 75)
        assert stops.by_signal() is None
        assert stops.counts() == [0.0, 0.0, 1.0]
        os.kill(os.getpid(), signal.SIGTERM)
        assert stops.now() == ("SIGTERM", 143)
        assert stops.counts() == [1.0, 0.0, 0.0]
    clock[0] = 1e9
    assert StopRequests(0.0).now() is None


def test_the_signal_is_answered_with_a_line_of_the_one_that_speaks(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    for speaks in (True, False):
        monkeypatch.setattr(stop_requests.log, "is_speaker", lambda speaks=speaks: speaks)
        with StopRequests() as stops:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stops.now() == ("SIGTERM", 143)
        out, errors = capfd.readouterr()
        assert out == ""
        assert ("pretrain: SIGTERM: finishing the current step" in errors) == speaks


def test_outside_the_main_thread_signals_are_not_taken():
    seen = []

    def work() -> None:
        before = signal.getsignal(signal.SIGTERM)
        with StopRequests(60) as stops:
            seen.extend([signal.getsignal(signal.SIGTERM) is before, stops.now()])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True, None]
