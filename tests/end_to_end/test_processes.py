"""`train` as several processes: one run, the numbers of one process, and clear words where one never comes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from mlvlab_jax.engine.integrity import find_damage
from mlvlab_jax.engine.recovery import list_steps
from tests.conftest import ROOT

DIGITS = ["--config", "configs/digits.yaml", "model.params.widths=[8, 16]", "training.num_epochs=1"]
DIGITS += ["tracking.log_every_steps=1", "tracking.param_histograms=true", "mesh.data=1", "mesh.fsdp=4"]


def start(*arguments, num_devices, code=None):
    flags = f"--xla_force_host_platform_device_count={num_devices}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "COLUMNS": "100"}
    command = [sys.executable, *(["-m", "mlvlab_jax.train"] if code is None else ["-c", code]), *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )


def processes(number, *, of):
    with socket.create_server(("127.0.0.1", 0)) as server:
        coordinator = f"127.0.0.1:{server.getsockname()[1]}"
    return [["--coordinator", coordinator, "--num-processes", str(of), "--process-id", str(i)] for i in range(number)]


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def values(workdir, name):
    return [record[name] for record in records(workdir) if name in record]


def test_two_processes_of_two_devices_train_as_one_process_of_four(tmp_path):
    children = [start(*DIGITS, "--workdir", str(tmp_path / "one"), num_devices=4)]
    together = ["--workdir", str(tmp_path / "two"), "--join-timeout-s", "600"]
    children += [start(*DIGITS, *together, *place, num_devices=2) for place in processes(2, of=2)]
    (_, *_), (first, _), (second, errors) = outputs = [child.communicate(timeout=900) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], outputs
    one, two = tmp_path / "one", tmp_path / "two"
    losses = values(two, "train/loss")
    assert len(losses) == 20
    np.testing.assert_allclose(losses, values(one, "train/loss"), rtol=1e-5)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, two)]
    assert summaries[1]["best"] == pytest.approx(summaries[0]["best"], rel=1e-5)
    assert {path.name.split(".")[0] for path in two.iterdir()} == {path.name.split(".")[0] for path in one.iterdir()}
    assert len(list(two.glob("events.out*"))) == len(list(one.glob("events.out*")))
    assert json.loads((two / "manifest.json").read_text())["sessions"][0]["num_processes"] == 2
    assert "digits: test accuracy" in first
    assert "accuracy" not in second + errors  # one of them speaks


def test_what_only_the_first_process_can_see_ends_all_of_them(tmp_path):
    (tmp_path / "notes.txt").write_text("not a run")
    children = [start(*DIGITS, "--workdir", str(tmp_path), *place, num_devices=2) for place in processes(2, of=2)]
    for child in children:
        _, errors = child.communicate(timeout=200)
        assert child.returncode == 64
        assert errors.count("error:") == 1
        assert "holds ['notes.txt'] but no run" in errors


def test_a_process_that_never_comes_ends_the_others_with_its_number(tmp_path):
    begin = time.monotonic()
    arguments = [*DIGITS, "--workdir", str(tmp_path / "run"), "--join-timeout-s", "8"]
    first, _, third = processes(3, of=4)
    children = [start(*arguments, *place, num_devices=1) for place in (first, third)]
    for child in children:
        _, errors = child.communicate(timeout=120)
        assert child.returncode == 76
        assert errors.startswith("error: 2 of 4 processes joined within 8 s; missing: 1, 3; ")
        assert "Traceback" not in errors
    assert time.monotonic() - begin < 110
    assert not (tmp_path / "run").exists()


def test_a_cluster_whose_other_process_never_comes_ends_this_one(tmp_path, monkeypatch):
    slurm = {"JOB_ID": "1", "STEP_NODELIST": "localhost", "NTASKS": "2", "PROCID": "0", "LOCALID": "0"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    child = start(*DIGITS, "--workdir", str(tmp_path / "run"), "--join-timeout-s", "2", num_devices=1)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 76
    assert errors.startswith("error: process 0 of 2 (Slurm) waited 2 s for the others to join")


@pytest.mark.parametrize("asked", [0, 1])
def test_a_signal_to_one_process_stops_all_after_the_same_step_and_they_go_on(asked, tmp_path):
    workdir = tmp_path / "run"
    arguments = [*DIGITS, "training.num_epochs=40", "evaluation.every_epochs=40", "tracking.param_histograms=false"]
    arguments += ["--workdir", str(workdir)]
    children = [start(*arguments, *place, num_devices=2) for place in processes(2, of=2)]
    deadline = time.monotonic() + 300
    while not (workdir / "metrics.jsonl").exists() or len(records(workdir)) < 5:
        assert time.monotonic() < deadline
        assert [child.poll() for child in children] == [None, None]
        time.sleep(0.1)
    children[asked].send_signal(signal.SIGTERM)
    outputs = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [75, 75], outputs
    stopped = int(re.search(r"interrupted at step (\d+) and saved", outputs[0][0])[1])
    assert list_steps(workdir / "checkpoints") == [stopped]
    assert find_damage(workdir / "checkpoints" / str(stopped)) == []
    again = [start(*arguments, *place, num_devices=2) for place in processes(2, of=2)]
    while len(records(workdir)) < stopped + 5:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    again[1 - asked].send_signal(signal.SIGTERM)
    outputs = [child.communicate(timeout=120) for child in again]
    assert [child.returncode for child in again] == [75, 75], outputs
    steps = [record["step"] for record in records(workdir) if "train/loss" in record]
    assert steps == list(range(1, len(steps) + 1))


STUCK = """
import sys, time
from mlvlab_jax.data import stream
from mlvlab_jax.train import main
read = stream._TrainBatches.__getitem__
def stuck(self, step):
    if step == 12 and self._shard.index == 1:
        time.sleep(1000)
    return read(self, step)
stream._TrainBatches.__getitem__ = stuck
sys.exit(main(sys.argv[1:]))
"""


def test_a_process_that_is_stuck_ends_all_of_them_and_is_named(tmp_path):
    arguments = [*DIGITS, "tracking.param_histograms=false", "training.hang_timeout_s=8"]
    arguments += ["--workdir", str(tmp_path / "run")]
    children = [start(*arguments, *place, num_devices=2, code=STUCK) for place in processes(2, of=2)]
    outputs = [child.communicate(timeout=300) for child in children]
    assert [child.returncode for child in children] == [76, 76], outputs
    assert "process 1 is behind, in step 1" in outputs[0][1]
    assert "in stuck" in (tmp_path / "run" / "hang-1.txt").read_text()
