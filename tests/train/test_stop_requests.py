"""A run that is asked to stop saves first, says why by its exit code, and goes on as if nothing had been."""

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import overrides
from tests.train.run_processes import events, outcome, run_to_its_end, start, steps_done, stopped, wait_until
from tinyllama.train.stop_requests import StopRequests

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
    assert "the same command goes on from there" in errors.splitlines()[-1]
    (stop,) = events(run_dir, "stop")
    assert (stop["reason"], stop["exit_code"]) == (signal.Signals(number).name, exit_code)
    assert stop["step"] == steps_done(run_dir) == events(run_dir, "save")[-1]["step"]
    assert not (run_dir / "checkpoints" / "manifest.json").exists()
    assert outcome(run_dir, run_to_its_end(run_dir, WORDS)) == undisturbed
    assert events(run_dir, "resume")[0]["step"] == stop["step"]


def test_the_time_limit_does_the_same(run_dir: Path, undisturbed: tuple[Any, ...]):
    exit_code, line = stopped(run_dir, [*WORDS, "train.time_limit_minutes=1e-3"])
    assert exit_code == 75
    assert "(time limit of 0.001 minutes), saved; the same command goes on from there" in line
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
