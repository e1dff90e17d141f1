"""Two processes of one run, one of which is killed, stopped, stuck or asked to stop: the other knows, and all go on."""

import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from mlvlab_jax.engine.integrity import find_damage
from mlvlab_jax.engine.outcome import list_differences, read_outcome
from mlvlab_jax.engine.recovery import list_steps
from tests.conftest import ROOT
from tests.end_to_end.test_processes import processes
from tests.end_to_end.test_stopping import CONFIG, check_same

TIMEOUT_S = 5
#: What another process takes at most to see that one is gone: the limit, a look each second, and saying so.
BOUND_S = TIMEOUT_S + 10


def start(folder, workdir, *arguments, faults=("", "")):
    """Two processes of one device, each with its faults; what they say is in WORKDIR.N.log."""
    (folder / "tiny.yaml").write_text(CONFIG)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": "", "XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, "-m", "mlvlab_jax.train", "--config", str(folder / "tiny.yaml")]
    command += ["--workdir", str(folder / workdir), f"training.hang_timeout_s={TIMEOUT_S}", *arguments]
    children = []
    for place, fault in zip(processes(2, of=2), faults, strict=True):
        with (folder / f"{workdir}.{len(children)}.log").open("w") as log:
            children.append(
                subprocess.Popen(
                    [*command, *place], stdout=log, stderr=log, env={**environment, "MLVLAB_FAULTS": fault}
                )
            )
    return children


def end(children, seconds=300):
    """Exit codes; nothing is left running."""
    try:
        deadline = time.monotonic() + seconds
        return [child.wait(timeout=deadline - time.monotonic()) for child in children]
    finally:
        for child in children:
            child.kill()


def told(folder, workdir, index):
    return (folder / f"{workdir}.{index}.log").read_text()


def go_on(folder, workdir):
    assert end(start(folder, workdir)) == [0, 0], told(folder, workdir, 0) + told(folder, workdir, 1)
    check_same(folder, workdir)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two processes that nothing happened to, beside which others may be put."""
    folder = tmp_path_factory.mktemp("peers")
    assert end(start(folder, "whole")) == [0, 0], told(folder, "whole", 0)
    return folder


def check_killed(folder, workdir, victim, fault):
    children = start(folder, workdir, faults=tuple(fault if index == victim else "" for index in (0, 1)))
    assert children[victim].wait(timeout=300) == -signal.SIGKILL
    dead = time.monotonic()
    (code,) = end([children[1 - victim]], seconds=60)
    assert time.monotonic() - dead < BOUND_S
    # Process 0 holds jax's service; without it jax itself ends the others, mostly before anything can be said.
    assert code == 76 if victim == 1 else code in (76, -signal.SIGABRT)
    if victim == 1:
        assert "error: process 0 of 2: process 1 is gone" in told(folder, workdir, 0)
    go_on(folder, workdir)


def test_a_killed_process_is_named_by_the_other_and_both_end_as_if_nothing_had_happened(whole):
    check_killed(whole, "killed", 1, "train:17=signal:KILL")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_either_of_two_killed_at_a_random_moment_goes_on(seed, whole):
    draw = random.Random(seed)
    place, most = draw.choice([("train", 38), ("evaluate", 4), ("checkpoint", 6), ("compile", 1), ("seal", 4)])
    victim = 0 if place == "seal" else draw.randrange(2)
    check_killed(whole, f"killed-{seed}", victim, f"{place}:{draw.randint(1, most)}=signal:KILL")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_frozen_is_named_and_the_other_ends(victim, whole):
    name = f"frozen-{victim}"
    children = start(whole, name, faults=tuple("train:12=signal:STOP" * (index == victim) for index in (0, 1)))
    try:
        (code,) = end([children[1 - victim]])
        assert code == 76
        assert re.search(f"process {victim} (is behind|has been silent|is gone)", told(whole, name, 1 - victim))
    finally:
        children[victim].kill()
        children[victim].wait()
    go_on(whole, name)


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(10))
def test_a_stuck_process_ends_both_within_the_limit_and_ten_seconds(turn, whole):
    stuck, at = turn % 2, 5 + 3 * turn
    faults = tuple(f"{('train', 'input')[turn % 3 == 0]}:{at}=sleep:1000" * (index == stuck) for index in (0, 1))
    assert end(start(whole, f"stuck-{turn}", faults=faults)) == [76, 76]
    assert f"process {stuck} is behind" in told(whole, f"stuck-{turn}", 1 - stuck)
    waited = [re.search(r"no(?: progress|ne) for (\d+) s in step", told(whole, f"stuck-{turn}", i))[1] for i in (0, 1)]
    assert max(map(int, waited)) <= BOUND_S


@pytest.mark.slow
def test_a_thousand_uneven_steps_raise_no_alarm(tmp_path):
    draw, nominal_s = random.Random(0), 0.1
    faults = tuple(
        ",".join(f"train:{step}=sleep:{nominal_s * draw.uniform(1 / 3, 3):.3f}" for step in range(1, 1001))
        for _ in range(2)
    )
    arguments = ["training.num_epochs=51", "evaluation.every_epochs=51", "checkpoint.every_steps=500"]
    assert end(start(tmp_path, "uneven", *arguments, faults=faults), seconds=900) == [0, 0], told(tmp_path, "uneven", 0)
    assert read_outcome(tmp_path / "uneven").step >= 1000
    assert not list((tmp_path / "uneven").glob("hang-*"))


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(20))
def test_one_process_asked_at_a_random_moment_stops_both_after_the_same_step(turn, whole):
    draw, workdir = random.Random(turn), f"asked-{turn}"
    place, most = draw.choice([("train", 38), ("input", 38), ("evaluate", 4), ("checkpoint", 6), ("compile", 1)])
    asked, fault = draw.randrange(2), f"{place}:{draw.randint(1, most)}=signal:TERM"
    children = start(whole, workdir, faults=tuple(fault * (index == asked) for index in (0, 1)))
    assert end(children) == [75, 75], told(whole, workdir, 0) + told(whole, workdir, 1)
    folder = whole / workdir / "checkpoints"
    assert all(find_damage(folder / str(step)) == [] for step in list_steps(folder))
    stopped = re.search(r"interrupted (?:at step (\d+) and saved|before the first step)", told(whole, workdir, 0))
    assert list_steps(folder)[-1:] == ([int(stopped[1])] if stopped[1] else [])
    go_on(whole, workdir)
    assert list_differences(read_outcome(whole / "whole"), read_outcome(whole / workdir)) == []
