"""The watchdog: silent while anything moves, loud and final where nothing does."""

import json
import os
import random
import time

import pytest

from mlvlab_jax.engine import watchdog as module
from mlvlab_jax.engine.telemetry import PhaseClock
from mlvlab_jax.engine.watchdog import Watchdog


class Ended(Exception):  # noqa: N818 - no error
    pass


@pytest.fixture
def time_now(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def end(code):
    raise Ended(code)


def make(tmp_path, clock, *, step=7, process=(0, 1), limit_s=5.0):
    return Watchdog(clock, lambda: step, limit_s=limit_s, workdir=tmp_path, process=process, end=end)


def test_it_ends_a_run_that_stands_still_with_traces_of_all_threads(tmp_path, time_now, capsys):
    clock = PhaseClock()
    dog = make(tmp_path, clock)
    with clock.phase("train"):
        dog.look()
        time_now[0] += 5
        dog.look()
        time_now[0] += 1
        with pytest.raises(Ended) as ended:
            dog.look()
    assert ended.value.args == (76,)
    told = capsys.readouterr().err
    assert told.startswith(
        "error: no progress for 6 s in step 7 (train); expected some within training.hang_timeout_s=5;"
    )
    assert str(tmp_path / "hang-0.txt") in told
    assert "test_it_ends_a_run_that_stands_still" in (tmp_path / "hang-0.txt").read_text()


def test_a_slow_compilation_evaluation_or_save_is_not_a_hang(tmp_path, time_now):
    clock = PhaseClock()
    dog = make(tmp_path, clock)
    for phase in ("setup", "compile", "evaluate", "checkpoint", "analyse"):
        with clock.phase(phase):
            dog.look()
            time_now[0] += 49
            dog.look()
            time_now[0] += 2
            with pytest.raises(Ended):
                dog.look()


def test_a_thousand_steps_of_uneven_length_are_no_hang(tmp_path, time_now):
    clock, draw = PhaseClock(), random.Random(0)
    dog = make(tmp_path, clock, limit_s=3.1)
    for _ in range(1000):
        with clock.phase("train"):
            with clock.phase("input"):
                pass
            time_now[0] += draw.uniform(1 / 3, 3)
            dog.look()
    assert not (tmp_path / "hang-0.txt").exists()
    with clock.phase("train"):
        dog.look()
        time_now[0] += 3.2
        with pytest.raises(Ended):
            dog.look()


def test_it_names_who_is_behind_and_who_is_silent(tmp_path, time_now, capsys):
    clock = PhaseClock()
    dog = make(tmp_path, clock, process=(0, 6))
    alive = tmp_path / "alive"
    with clock.phase("train"):
        dog.look()
        (alive / "1.json").write_text(json.dumps([6, 11, "input", 5.5]))
        (alive / "2.json").write_text(json.dumps([7, 1, "train", 5.9]))
        (alive / "3.json").write_text(json.dumps([5, 9, "train", 0.1]))
        os.utime(alive / "3.json", (time.time() - 60,) * 2)
        (alive / "4.json").write_text(json.dumps([7, 0, "train", 5.9]))
        time_now[0] += 6
        with pytest.raises(Ended):
            dog.look()
    told = capsys.readouterr().err
    assert told.startswith("error: process 0 of 6: no progress for 6 s in step 7 (train); ")
    assert "; process 1 is behind, in step 6 (input) for 6 s; " in told
    assert "process 2" not in told
    assert "; process 3 has been silent for 60 s, since step 5 (train); " in told
    assert "; process 4 is behind, in step 7 (train) for 6 s; " in told
    assert "; process 5 has given no sign of life; " in told
    dog.close()
    assert not (alive / "0.json").exists()
    dog.close()


def test_it_ends_with_another_that_has_given_up_wherever_it_is_itself(tmp_path, time_now, capsys):
    (tmp_path / "hang-0.txt").write_text("of an earlier start")
    clock = PhaseClock()
    dog = make(tmp_path, clock, process=(1, 2))
    with clock.phase("evaluate"):
        dog.look()
        (tmp_path / "alive" / "0.json").write_text(json.dumps([7, 0, "train", 5.9]))
        time_now[0] += 6
        dog.look()
        os.utime(tmp_path / "hang-0.txt")
        with pytest.raises(Ended):
            dog.look()
    told = capsys.readouterr().err
    assert "process 0 saw no progress and has given up; this one made none for 6 s in step 7 (evaluate)" in told
    assert "; process 0 is behind, in step 7 (train) for 6 s; " in told
    assert (tmp_path / "hang-1.txt").exists()


def test_alone_it_leaves_no_sign_of_life(tmp_path, time_now):
    make(tmp_path, PhaseClock()).look()
    assert list(tmp_path.iterdir()) == []
