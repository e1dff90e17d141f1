import time

import jax
import jax.numpy as jnp
import pytest
from jax.profiler import ProfileData

from mlvlab_jax.config.schema import ProfileConfig
from mlvlab_jax.engine.profiler import Profiler


def traced_steps(workdir):
    """Numbers of the steps in each trace, as the profiler's own reader finds them."""
    found = []
    for path in sorted(workdir.glob("plugins/profile/*/*.xplane.pb")):
        events = [
            event
            for plane in ProfileData.from_serialized_xspace(path.read_bytes()).planes
            for line in plane.lines
            for event in line.events
            if event.name == "train"
        ]
        found.append([dict(event.stats)["step_num"] for event in events])
    return found


def go(profiler, steps, *, at=None):
    step_fn = jax.jit(lambda x: x @ x)
    for step in steps:
        if at and step in at:
            at[step]()
        if profiler.due(step):
            profiler.turn(step)
        with profiler.name(step):
            step_fn(jnp.ones((8, 8))).block_until_ready()
    profiler.stop()


def make(workdir, window=None, *, first_step=1):
    notes = []
    return Profiler(workdir, window, first_step=first_step, note=notes.append), notes


def test_the_window_is_traced_and_nothing_else(tmp_path):
    profiler, notes = make(tmp_path, ProfileConfig(first_step=3, num_steps=2))
    go(profiler, range(1, 9))
    assert traced_steps(tmp_path) == [[3, 4]]
    assert notes == [f"profile: a trace is in {tmp_path / 'plugins' / 'profile'}, where TensorBoard finds it"]


def test_steps_made_several_at_a_time_do_not_jump_over_the_window(tmp_path):
    profiler, _ = make(tmp_path, ProfileConfig(first_step=3, num_steps=2))
    go(profiler, range(1, 30, 4))
    assert traced_steps(tmp_path) == [[5]]


def test_a_window_that_an_earlier_attempt_passed_is_left_out_and_the_end_of_the_run_ends_a_trace(tmp_path):
    profiler, notes = make(tmp_path, ProfileConfig(first_step=3, num_steps=2), first_step=4)
    go(profiler, range(4, 9))
    assert traced_steps(tmp_path) == []
    assert notes == []
    profiler, _ = make(tmp_path, ProfileConfig(first_step=7, num_steps=20), first_step=4)
    go(profiler, range(4, 9))
    assert traced_steps(tmp_path) == [[7, 8]]


def test_a_file_asks_for_the_next_steps_but_not_for_the_first_and_once(tmp_path):
    profiler, _ = make(tmp_path, ProfileConfig(first_step=30, num_steps=3))
    (tmp_path / "profile").touch()
    profiler.look()
    go(profiler, range(1, 5))
    assert traced_steps(tmp_path) == [[2, 3, 4]]
    assert not (tmp_path / "profile").exists()
    profiler.look()
    assert not profiler.due(5)
    time.sleep(1.1)  # traces are named by the second

    def ask():
        (tmp_path / "profile").touch()
        profiler.look()

    go(profiler, range(5, 12), at={8: ask})
    assert traced_steps(tmp_path) == [[2, 3, 4], [8, 9, 10]]


@pytest.mark.parametrize("broken", ["start_trace", "stop_trace"])
def test_a_profiler_that_fails_is_a_note_and_is_left_alone(tmp_path, monkeypatch, broken):
    profiler, notes = make(tmp_path, ProfileConfig(first_step=2, num_steps=2))

    def fail(*args, **kwargs):
        raise RuntimeError("no such device")

    with monkeypatch.context() as patched:
        patched.setattr(jax.profiler, broken, fail)
        go(profiler, range(1, 9))
    if broken == "stop_trace":
        jax.profiler.stop_trace()
    assert notes == ["profile: no trace: RuntimeError: no such device"]
    (tmp_path / "profile").touch()
    profiler.look()
    assert not profiler.due(9)
