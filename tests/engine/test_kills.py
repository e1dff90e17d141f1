"""What is seen of a run from outside, and what a signal that comes too late or ends a process otherwise counts as."""

import sys
import textwrap

import pytest

from mlvlab_jax.engine.goodput import Ledger
from mlvlab_jax.engine.integrity import seal
from mlvlab_jax.engine.kills import Killer, find_phase, newest_sealed
from mlvlab_jax.engine.telemetry import PhaseClock
from mlvlab_jax.errors import MlvlabError


def test_the_phase_is_that_of_the_newest_attempt_and_a_save_beside_training_has_its_own(tmp_path):
    assert find_phase(tmp_path, num_earlier=0) == "start"
    ledger = Ledger(tmp_path / "goodput.jsonl", PhaseClock(), first_step=0)
    ledger.enter("train")
    assert find_phase(tmp_path, num_earlier=0) == "train"
    assert find_phase(tmp_path, num_earlier=1) == "start"
    assert newest_sealed(tmp_path) == 0
    for step in (7, 14):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
        assert find_phase(tmp_path, num_earlier=0) == "save"
        seal(tmp_path / "checkpoints" / str(step))
        assert find_phase(tmp_path, num_earlier=0) == "train"
        assert newest_sealed(tmp_path) == step
    (tmp_path / "checkpoints" / "21.orbax-checkpoint-tmp").mkdir()
    ledger.enter("evaluate")
    assert find_phase(tmp_path, num_earlier=0) == "evaluate"
    assert newest_sealed(tmp_path) == 14


def make_killer(tmp_path, code, **known):
    killer = Killer([sys.executable, "-c", textwrap.dedent(code)], seed=0)
    killer.seconds = known.get("seconds", 1.0)
    return killer


def test_a_run_that_ends_before_the_signal_was_not_killed(tmp_path):
    killer = make_killer(tmp_path, "", seconds=1000.0)
    killer.run_with_kills(tmp_path / "run", most=3)
    assert killer.kills == []


def test_a_run_that_a_signal_ends_otherwise_than_it_should_is_an_error(tmp_path):
    code = """
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(70))
        time.sleep(60)
    """
    killer = make_killer(tmp_path, code)
    with pytest.raises(MlvlabError, match=r"run: training ended with exit code 70; see .*run\.log"):
        killer.run_with_kills(tmp_path / "run", most=20)
    assert {kill["signal"] for kill in killer.kills} <= {"SIGKILL", "SIGTERM"}


def test_a_phase_that_runs_do_not_come_by_is_no_longer_waited_for(tmp_path):
    killer = make_killer(tmp_path, "import time; time.sleep(0.5)", seconds=0.2)
    for number in range(20):
        killer.run_with_kills(tmp_path / str(number), most=4)
        if len(killer.kills) > 3:
            break
    assert len(killer.kills) > 3
    assert set(killer.phases) == {"start"}
