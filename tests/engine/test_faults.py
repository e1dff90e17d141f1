"""Faults from outside: at their place and time alone, and never outside tests."""

import signal
import subprocess
import sys
import threading

import pytest

from mlvlab_jax.engine import faults
from mlvlab_jax.engine.faults import Fault, parse_faults, refuse_outside_tests, strike
from mlvlab_jax.engine.telemetry import PhaseClock
from mlvlab_jax.errors import ConfigError
from tests.conftest import ROOT


def test_the_variable_lists_places_times_and_what_happens():
    read = parse_faults("evaluate:2=signal:TERM,batch:7=do:nan,")
    assert read == {("evaluate", 2): Fault("signal", "TERM"), ("batch", 7): Fault("do", "nan")}
    for wrong in ("evaluate", "evaluate=signal:TERM", "evaluate:1=vanish", "evaluate:x=sleep:1"):
        with pytest.raises(ConfigError, match=f"'{wrong}': expected PLACE:TIME=ACTION"):
            parse_faults(wrong)


def test_a_fault_strikes_once_when_its_place_is_reached_that_often(plan_faults):
    plan_faults("save:2=error:ENOSPC,batch:1=do:nan")
    assert strike("batch") == "nan"
    assert strike("batch") is None
    assert strike("save") is None
    with pytest.raises(OSError, match="No space left on device"):
        strike("save")
    assert strike("save") is None


def test_a_place_may_have_numbers_of_its_own(plan_faults):
    plan_faults("batch:7=do:nan")
    assert [strike("batch", at=step) for step in (6, 7, 8, 7)] == [None, "nan", None, "nan"]


def test_a_phase_is_a_place_as_it_begins_and_is_left_again(plan_faults):
    plan_faults("evaluate:1=signal:USR1,checkpoint:1=error:EROFS")
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(clock.now))
    try:
        clock = PhaseClock()
        with clock.phase("evaluate"):
            pass
        assert heard == ["evaluate"]
        with pytest.raises(OSError, match="Read-only"), clock.phase("checkpoint"):
            pass
        assert clock.now == "setup"
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_threads_count_together(plan_faults):
    plan_faults("batch:500=do:nan")
    struck = []
    threads = [
        threading.Thread(target=lambda: struck.extend(filter(None, (strike("batch") for _ in range(200)))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert struck == ["nan"]


def test_a_run_with_faults_is_refused_outside_tests(tmp_path, monkeypatch):
    monkeypatch.setenv(faults.VARIABLE, "save:1=signal:KILL")
    refuse_outside_tests()
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    with pytest.raises(ConfigError, match="for tests alone"):
        refuse_outside_tests()
    command = [sys.executable, "-m", "mlvlab_jax.train", "--config", "configs/digits.yaml", "--workdir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 64
    assert "MLVLAB_FAULTS is set" in done.stderr
