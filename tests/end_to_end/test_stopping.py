"""A run that is asked to stop, in whatever phase, saves, ends with 75, and goes on as if nothing had happened."""

import json
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

CONFIG = """
model: {name: cnn, params: {widths: [4, 8], dropout: 0.2}}
data: {name: digits}
pipeline: {augment: {crop_padding: 1}}
training: {batch_size: 64, num_epochs: 2, ema_decay: 0.99, early_stopping: {patience: 50}}
schedule: {name: plateau, params: {patience: 1}}
evaluation: {every_epochs: 0.5, batch_size: 64}
checkpoint: {every_steps: 7}
tracking: {log_every_steps: 5}
"""

#: Each start of the run is one call of the command, as a new process would make it.
STARTS = """
import os, sys
from mlvlab_jax.engine import faults
from mlvlab_jax.train import main
for fault in sys.argv[1].split(";"):
    os.environ["MLVLAB_FAULTS"] = fault
    faults._planned.cache_clear()
    print("exit code", main(sys.argv[2:]), flush=True)
"""

#: Phase -> the moment of the signal, and the steps after which it may end. Of 40 steps each tenth is evaluated, and each
#: seventh saved.
PHASES = {
    "import": ("import:2=signal:TERM", {0}),
    "compile": ("compile:1=signal:TERM", {0}),
    "step": ("train:6=signal:TERM", {6}),
    "data wait": ("input:3=signal:INT", {8}),
    "evaluation": ("evaluate:1=signal:TERM", {10}),
    "evaluation made up for": ("evaluate:1=signal:TERM", {10}),
    "save": ("checkpoint:3=signal:TERM", {10}),
    # The steps after it are slow, so that the seal, in a thread beside, comes before the next evaluation.
    "save going on": ("seal:1=signal:TERM,train:5=sleep:2,train:6=sleep:2", {14, 15, 16, 17, 18}),
    "test": ("evaluate:4=signal:TERM", {40}),
    "analysis": ("analyse:1=signal:TERM", {40}),
}


def command_of(tmp_path, workdir, *arguments, faults="", code=None):
    """What subprocess is to be given for one run."""
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = ["-m", "mlvlab_jax.train"] if code is None else ["-c", code, faults]
    command = [sys.executable, *command, "--config", str(tmp_path / "tiny.yaml"), "--workdir", str(tmp_path / workdir)]
    return {"args": [*command, *arguments], "env": {**environment, "MLVLAB_FAULTS": faults}, "text": True}


def start(*arguments, **options):
    return subprocess.run(**command_of(*arguments, **options), capture_output=True, timeout=300)


def start_again_and_again(tmp_path, workdir, faults):
    """Exit codes of the starts, one a fault; a start that leaves a compilation behind takes its process with it."""
    codes, told = [], ""
    while len(codes) < len(faults):
        done = start(tmp_path, workdir, faults=";".join(faults[len(codes) :]), code=STARTS)
        codes += map(int, re.findall(r"^exit code (\d+)$", done.stdout, re.MULTILINE))
        codes += [done.returncode] if len(codes) < len(faults) else []
        told += done.stdout + done.stderr
    return codes, told


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing happened to, beside which others may be put."""
    folder = tmp_path_factory.mktemp("stopping")
    done = start(folder, "whole")
    assert done.returncode == 0, done.stderr
    return folder


def check_same(folder, workdir):
    assert list_differences(read_outcome(folder / "whole"), read_outcome(folder / workdir)) == []
    evaluations = [folder / name / "evaluation" / "test" / "evaluation.json" for name in ("whole", workdir)]
    assert evaluations[0].read_bytes() == evaluations[1].read_bytes()
    assert (folder / workdir / "report.html").is_file()


def test_a_run_asked_to_stop_in_each_phase_in_turn_ends_as_if_nothing_had_happened(whole):
    phases = {name: phase for name, phase in PHASES.items() if name != "import"}  # as compile: a process of its own
    faults = [fault for fault, _ in phases.values()]
    codes, told = start_again_and_again(whole, "asked", [*faults, ""])
    assert codes == [75] * len(faults) + [0], told
    stopped = [int(step or 0) for step in re.findall(r"^interrupted (?:before|at step (\d+)|in the last)", told, re.M)]
    stopped[-1:] = [40] if "interrupted in the last evaluation" in told else []
    assert len(stopped) == len(phases), told
    for (phase, (_, steps)), step in zip(phases.items(), stopped, strict=True):
        assert step in steps, (phase, told)
    check_same(whole, "asked")


@pytest.mark.slow
def test_the_evaluation_that_a_kill_cut_off_after_the_summary_is_made_up_for(whole):
    assert start(whole, "killed", faults="analyse:1=signal:KILL").returncode == -signal.SIGKILL
    assert json.loads((whole / "killed" / "summary.json").read_text())["ended"] == "finished"
    assert not (whole / "killed" / "evaluation").exists()
    again = start(whole, "killed")
    assert again.returncode == 0, again.stderr
    check_same(whole, "killed")


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_a_run_asked_to_stop_saves_and_goes_on_when_started_again(phase, whole):
    fault, workdir = PHASES[phase][0], phase.replace(" ", "-")
    stopped = start(whole, workdir, faults=fault)
    assert stopped.returncode == 75, stopped.stderr
    folder = whole / workdir / "checkpoints"
    assert all(find_damage(folder / str(step)) == [] for step in list_steps(folder))
    again = start(whole, workdir)
    assert again.returncode == 0, again.stderr
    check_same(whole, workdir)


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(20))
def test_a_run_asked_at_a_random_moment_saves_and_goes_on(turn, whole):
    draw, workdir = random.Random(turn), f"random-{turn}"
    place, most = draw.choice([("train", 38), ("input", 38), ("evaluate", 4), ("checkpoint", 6), ("compile", 1)])
    codes, told = start_again_and_again(whole, workdir, [f"{place}:{draw.randint(1, most)}=signal:TERM", ""])
    assert codes == [75, 0], told
    check_same(whole, workdir)


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(10))
def test_a_second_signal_ends_a_run_within_a_second_whose_last_save_is_whole(turn, whole):
    draw, workdir = random.Random(turn), f"twice-{turn}"
    place, most = [("train", 38), ("checkpoint", 6), ("evaluate", 4), ("input", 38), ("seal", 4)][turn % 5]
    # It stands still at that moment, so that both signals find it there.
    fault = f"{place}:{draw.randint(1, most)}=signal:STOP"
    with (whole / f"{workdir}.log").open("w") as log:
        child = subprocess.Popen(**command_of(whole, workdir, faults=fault), stdout=log, stderr=log)
    assert os.WIFSTOPPED(os.waitpid(child.pid, os.WUNTRACED)[1])
    first, second = draw.sample([signal.SIGINT, signal.SIGTERM], 2)
    for number in (first, second, signal.SIGCONT):
        child.send_signal(number)
    sent = time.monotonic()
    assert child.wait(timeout=60) in (128 + first, 128 + second)
    assert time.monotonic() - sent < 1
    folder = whole / workdir / "checkpoints"
    assert all(find_damage(folder / str(step)) == [] for step in list_steps(folder))
    assert start(whole, workdir).returncode == 0
    check_same(whole, workdir)


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [0, 2])
@pytest.mark.parametrize("turn", range(5))
def test_a_run_killed_again_before_it_used_what_was_read_ahead_ends_the_same(turn, num_processes, whole):
    draw, workdir = random.Random(turn), f"again-{turn}-{num_processes}"
    readers = (f"pipeline.num_processes={num_processes}", "pipeline.max_memory_mib=0")
    for step in (draw.randint(8, 30), draw.randint(1, 2)):
        assert start(whole, workdir, *readers, faults=f"train:{step}=signal:KILL").returncode == -signal.SIGKILL
    again = start(whole, workdir, *readers)
    assert again.returncode == 0, again.stderr
    check_same(whole, workdir)
