import datetime
import json
import signal
import subprocess
import sys
import time

import pytest

from mlvlab_jax.engine.goodput import Attempt, Ledger, read_ledger, sum_up
from mlvlab_jax.engine.telemetry import PHASES, PhaseClock

MORNING = datetime.datetime(2026, 11, 23, 8, tzinfo=datetime.UTC)


def attempt(at_s, first_step, step, ended=None, **seconds):
    return Attempt(MORNING + datetime.timedelta(seconds=at_s), first_step, step, seconds, ended)


def test_lost_steps_are_charged_with_their_part_of_training_and_the_sum_stays():
    attempts = [
        attempt(0, 0, 100, setup=5.0, train=80.0, input=20.0, checkpoint=1.0),  # killed 40 steps after its last save
        attempt(200, 60, 160, "finished", setup=4.0, train=100.0),
    ]
    total = sum_up(attempts)
    assert (total.num_attempts, total.lost_steps) == (2, 40)
    assert total.seconds["lost"] == pytest.approx(40.0)
    assert total.seconds["train"] == pytest.approx(48 + 100)
    assert total.seconds["input"] == pytest.approx(12)
    assert total.seconds["setup"] == 9
    assert total.total_s == pytest.approx(106 + 104)
    assert total.down_s == pytest.approx(200 - 106)
    assert total.share == pytest.approx(148 / 210)


def test_a_state_from_before_several_attempts_costs_the_steps_of_all_of_them():
    attempts = [
        attempt(0, 0, 100, "interrupted", train=100.0),
        attempt(100, 100, 150, train=50.0),  # its checkpoint was damaged, and so was the one it began with
        attempt(150, 70, 170, "finished", train=100.0),
    ]
    total = sum_up(attempts)
    assert total.lost_steps == 30 + 50
    assert total.seconds["lost"] == pytest.approx(80.0)
    assert total.down_s == 0


def test_an_attempt_that_made_no_step_lost_none_and_no_attempt_has_no_goodput():
    total = sum_up([attempt(0, 50, 50, compile=9.0), attempt(5, 40, 60, train=1.0)])
    assert (total.lost_steps, total.seconds["lost"]) == (0, 0)
    assert total.down_s == 0  # a clock that was set back
    assert sum_up([]).share == 0


def test_the_line_grows_in_place_and_reads_back_as_the_clock_says(tmp_path):
    path = tmp_path / "goodput.jsonl"
    clock = PhaseClock()
    first = Ledger(path, clock, first_step=0)
    first.write()
    assert read_ledger(path)[0].ended is None
    first.step = 12
    with clock.phase("train"):
        time.sleep(0.01)
    first.close("interrupted")
    second = Ledger(path, PhaseClock(), first_step=10)
    assert [each.step for each in second.attempts()] == [12, 10]
    second.close("NonFiniteError")
    assert len(path.read_text().splitlines()) == 2
    one, two = read_ledger(path)
    assert (one.first_step, one.step, one.ended) == (0, 12, "interrupted")
    assert (two.first_step, two.step, two.ended) == (10, 10, "NonFiniteError")
    assert set(one.seconds) == set(PHASES)
    assert one.seconds["train"] >= 0.01
    age = (datetime.datetime.now(datetime.UTC) - one.started).total_seconds()
    assert sum(one.seconds.values()) <= age < 60


def test_a_shorter_line_leaves_nothing_of_the_longer_one(tmp_path):
    path = tmp_path / "goodput.jsonl"
    ledger = Ledger(path, PhaseClock(), first_step=0)
    ledger.write("an end with a long name")
    ledger.write()
    assert [json.loads(line)["ended"] for line in path.read_text().splitlines()] == [None]


def test_torn_and_foreign_lines_are_left_out_and_a_new_one_begins_after_them(tmp_path):
    path = tmp_path / "goodput.jsonl"
    Ledger(path, PhaseClock(), first_step=0).close("interrupted")
    whole = path.read_text()
    path.write_text(whole + '[1]\n{"started": 3}\n' + whole[:40])
    Ledger(path, PhaseClock(), first_step=5).close("finished")
    assert [each.first_step for each in read_ledger(path)] == [0, 5]
    assert read_ledger(tmp_path / "none.jsonl") == []


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ledger = Ledger(None, PhaseClock(), first_step=3)
    ledger.close("finished")
    assert [each.first_step for each in ledger.attempts()] == [3]
    assert list(tmp_path.iterdir()) == []


def test_the_line_names_the_phase_as_it_begins_and_a_step_is_one_phase(tmp_path, monkeypatch):
    path = tmp_path / "goodput.jsonl"
    clock = PhaseClock()
    ledger = Ledger(path, clock, first_step=0)
    clock.on_enter = ledger.enter
    written = []
    write = Ledger.write
    monkeypatch.setattr(Ledger, "write", lambda self: (write(self), written.append(read_ledger(path)[-1].phase)))
    for name in ("compile", "evaluate", "checkpoint"):
        with clock.phase(name), clock.phase("input"):
            assert read_ledger(path)[-1].phase == name
    for _ in range(10):
        with clock.phase("train"), clock.phase("input"):
            assert read_ledger(path)[-1].phase == "train"
    assert written == ["compile", "evaluate", "checkpoint", "train"]
    line = json.loads(path.read_text())
    del line["phase"]
    path.write_text(json.dumps(line) + "\n")
    assert len(read_ledger(path)) == 1


KILLED = """
import sys, time, pathlib
from mlvlab_jax.engine.goodput import Ledger
from mlvlab_jax.engine.heartbeat import Heartbeat
from mlvlab_jax.engine.telemetry import PhaseClock
clock = PhaseClock()
ledger = Ledger(pathlib.Path(sys.argv[1]), clock, first_step=0)
clock.on_enter = ledger.enter
with Heartbeat([ledger.write], interval_s=0.1), clock.phase("compile"):
    print("begun", flush=True)
    while True:  # never gives a sign of life by itself
        pass
"""


def test_a_killed_attempt_is_known_up_to_the_last_beat(tmp_path):
    path = tmp_path / "goodput.jsonl"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        begun = time.monotonic()
        time.sleep(1.5)
        lived = time.monotonic() - begun
        child.send_signal(signal.SIGKILL)
    (killed,) = read_ledger(path)
    assert (killed.ended, killed.phase) == (None, "compile")
    assert lived - 1.0 < killed.seconds["compile"] < lived + 5.0
