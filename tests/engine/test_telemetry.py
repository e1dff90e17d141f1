"""The clock, step times, the heartbeat and what is compiled, on times made by hand."""

import threading
import time

import jax
import jax.numpy as jnp
import pytest

from mlvlab_jax.engine.compiles import CompileMeter
from mlvlab_jax.engine.heartbeat import Heartbeat
from mlvlab_jax.engine.telemetry import RATES, PhaseClock, Rate


@pytest.fixture
def now(monkeypatch):
    """A time that passes when told to."""
    moment = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: moment[0])

    def wait(seconds):
        moment[0] += seconds

    return wait


def spent(clock):
    return {phase: pytest.approx(seconds) for phase, seconds in clock.read().items() if seconds}


def test_every_moment_belongs_to_one_phase_and_their_sum_is_the_clocks_age(now):
    clock = PhaseClock()
    now(1)
    with clock.phase("train"):
        now(2)
        with clock.phase("input"):
            now(4)
            assert spent(clock) == {"setup": 1, "train": 2, "input": 4, "total": 7}
        now(8)
    now(16)
    assert spent(clock) == {"setup": 17, "train": 10, "input": 4, "total": 31}
    assert clock.training() == 14


def test_what_is_moved_stays_in_the_sum_and_other_threads_move_nothing(now):
    clock = PhaseClock()
    with clock.phase("evaluate"):
        now(5)
        clock.move(3, to="compile")
        thread = threading.Thread(target=clock.move, args=(2,), kwargs={"to": "compile"})
        thread.start()
        thread.join()
        now(1)
    assert spent(clock) == {"evaluate": 3, "compile": 3, "total": 6}


def test_no_more_is_moved_than_the_phase_has_lasted_whatever_clock_it_was_measured_by(now):
    clock = PhaseClock()
    now(7)
    with clock.phase("evaluate"):
        now(5)
        clock.move(86400, to="compile")
        clock.move(-86400, to="compile")
    assert spent(clock) == {"setup": 7, "compile": 5, "total": 12}


def test_another_thread_reads_sums_that_fit_while_this_one_works():
    clock, seen = PhaseClock(), []

    def read():
        while not done.is_set():
            before = time.perf_counter()
            seconds = clock.read()
            seen.append((before, seconds, time.perf_counter()))

    done = threading.Event()
    started = time.perf_counter()
    thread = threading.Thread(target=read)
    thread.start()
    while len(seen) < 2000:
        with clock.phase("train"), clock.phase("input"):
            pass
    done.set()
    thread.join()
    for before, seconds, after in seen:
        assert seconds["total"] == pytest.approx(sum(v for name, v in seconds.items() if name != "total"), abs=1e-9)
        assert before - started - 0.05 < seconds["total"] < after - started + 0.05


def test_step_times_leave_out_what_lies_between_steps_and_count_from_the_second(now):
    clock = PhaseClock()
    rate = Rate(clock)
    for k in range(22):
        with clock.phase("train"):
            now(0.010)
            with clock.phase("input"):
                now(0.100 if k == 7 else 0.005)
            rate.arrive(32)
        if k == 10:
            with clock.phase("evaluate"):
                now(60)
    read = rate.read()
    assert tuple(read) == RATES
    assert read["images_per_second"] == pytest.approx(22 * 32 / 0.425)
    assert read["input_wait"] == pytest.approx(0.205 / 0.425)
    assert read["step_ms_p50"] == pytest.approx(15)
    assert read["step_ms_p95"] == pytest.approx(15)  # 21 steps are timed, and one of them stalled
    assert read["step_ms_max"] == pytest.approx(110)
    with clock.phase("train"):
        now(0.04)
        rate.arrive(32)
    assert rate.read()["step_ms_max"] == pytest.approx(40)
    assert set(rate.read()) == {"images_per_second", "input_wait"}
    with clock.phase("train"):
        now(0.08)
        rate.arrive(128, num_steps=4)
    assert rate.read()["step_ms_max"] == pytest.approx(20)


def test_what_jax_compiles_is_counted_and_taken_out_of_other_phases():
    clock, cache_from_s = PhaseClock(), jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # a run of another test may have raised it

    def program(x):
        return jnp.sin(x) @ x

    argument = jnp.ones((7, 7))
    with CompileMeter(clock) as meter, clock.phase("evaluate"):
        jax.jit(program)(argument).block_until_ready()
        jax.jit(program)(argument).block_until_ready()
    assert meter.num_programs == 1
    assert meter.seconds > 0
    assert clock.read()["compile"] == pytest.approx(meter.seconds)
    jax.jit(lambda x: jnp.cos(x) @ x)(argument)
    assert meter.num_programs == 1
    with CompileMeter(clock) as again:
        jax.clear_caches()
        jax.jit(program)(argument)
    assert (again.num_programs, again.num_cached) == (1, 1)
    assert again.describe() == {"programs": 1, "from_cache": 1, "seconds": round(again.seconds, 3)}
    jax.config.update("jax_persistent_cache_min_compile_time_secs", cache_from_s)


def test_the_heart_beats_at_once_and_until_the_end_and_no_longer():
    beats = []
    with Heartbeat([lambda: beats.append(1)], interval_s=0.01):
        deadline = time.monotonic() + 30
        while len(beats) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    number = len(beats)
    assert number >= 3
    time.sleep(0.05)
    assert len(beats) == number
