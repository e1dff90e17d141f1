"""A run that is asked to stop, in whatever phase, saves, ends with 75, and goes on as if nothing had happened."""

import json
import os
import re
import signal
import subprocess
import sys

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


def start(tmp_path, workdir, *, faults="", code=None):
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = ["-m", "mlvlab_jax.train"] if code is None else ["-c", code, faults]
    command = [sys.executable, *command, "--config", str(tmp_path / "tiny.yaml"), "--workdir", str(tmp_path / workdir)]
    return subprocess.run(
        command, env={**environment, "MLVLAB_FAULTS": faults}, capture_output=True, text=True, timeout=300
    )


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
