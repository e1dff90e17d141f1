"""Processes that read for a run: killed, broken, asked to stop with it, and left behind by it."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlvlab_jax.engine.outcome import list_differences, read_outcome
from tests.conftest import ROOT

CONFIG = """
plugins: [tests.end_to_end.breaking_source]
model: {name: cnn, params: {widths: [4, 8], dropout: 0.2}}
data: {name: breaking}
pipeline: {num_processes: 2, prefetch_batches: 4, max_memory_mib: 0}
training: {batch_size: 64, num_epochs: 2, ema_decay: 0.99}
checkpoint: {every_steps: 3}
tracking: {log_every_steps: 1}
"""
#: A run without an end, in which there are no readers but those of the training.
ENDLESS = ("training.num_epochs=1000", "evaluation.every_epochs=1000")


_STARTED = []


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    for child in _STARTED:
        child.kill()
        child.wait()
    _STARTED.clear()


def start(folder, workdir, *arguments, faults=""):
    """A run in a process group of its own, as a terminal starts it."""
    (folder / "c.yaml").write_text(CONFIG)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": "", "XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, "-m", "mlvlab_jax.train", "--config", str(folder / "c.yaml"), *arguments]
    with (folder / f"{workdir}.log").open("w") as log:
        child = subprocess.Popen(
            [*command, "--workdir", str(folder / workdir)],
            env={**environment, "MLVLAB_FAULTS": faults},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _STARTED.append(child)
    return child


def wait_for_steps(folder, child, number):
    end = time.monotonic() + 200
    path = folder / "metrics.jsonl"
    while time.monotonic() < end and child.poll() is None:
        if path.exists() and len(path.read_text().splitlines()) >= number:
            return
        time.sleep(0.05)
    raise AssertionError(child.poll())


def list_readers(child):
    """Reader processes of a run: started by multiprocessing, as its tracker of resources is, which is not one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            mine = f"\nPPid:\t{child.pid}\n" in (folder / "status").read_text()
            found += [int(folder.name)] * (mine and b"spawn_main" in (folder / "cmdline").read_bytes())
    return found


def list_shared_memory():
    """Blocks of Python's shared memory."""
    return set(Path("/dev/shm").glob("psm_*"))


def are_gone(pids, seconds=10.0):
    end = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def goes_away(blocks, seconds=120.0):
    """Whether none is left in the end; those of tests that run beside go when these end."""
    stop = time.monotonic() + seconds
    while any(path.exists() for path in blocks) and time.monotonic() < stop:
        time.sleep(0.2)
    return not [path for path in blocks if path.exists()]


def check_killed_reader(folder, workdir, *, turn):
    before = list_shared_memory()
    child = start(folder, workdir, *ENDLESS)
    wait_for_steps(folder / workdir, child, 3 + turn)
    readers = list_readers(child)
    assert len(readers) == 2
    os.kill(readers[turn % 2], signal.SIGKILL)
    killed = time.monotonic()
    assert child.wait(timeout=60) == 70
    assert time.monotonic() - killed < 20  # with what the other process still had; the table states 10 s when idle
    told = (folder / f"{workdir}.log").read_text()
    assert "error: a reader process died before it gave the batch of update " in told
    assert "(examples image-" in told
    assert "exit code -9" in told
    assert are_gone(readers)
    assert goes_away(list_shared_memory() - before)


def test_a_killed_reader_ends_the_run_with_the_batch_it_owed_and_leaves_nothing(tmp_path):
    check_killed_reader(tmp_path, "killed", turn=0)


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(10))
def test_a_reader_killed_at_any_moment_ends_the_run(turn, tmp_path):
    check_killed_reader(tmp_path, "killed", turn=turn)


@pytest.mark.parametrize("num_processes", [2, pytest.param(0, marks=pytest.mark.slow)])
def test_an_error_in_a_reader_names_the_example(num_processes, tmp_path):
    before = list_shared_memory()
    child = start(tmp_path, "broken", "data.params.wrong=77", f"pipeline.num_processes={num_processes}")
    assert child.wait(timeout=200) == 70
    told = (tmp_path / "broken.log").read_text()
    assert "ValueError: a bug of this source" in told
    assert re.search(r"^while reading split '(train|validation)', examples image-77$", told, re.MULTILINE), told
    assert goes_away(list_shared_memory() - before)


def test_readers_outlive_a_signal_to_all_processes_and_not_the_run(tmp_path):
    before = list_shared_memory()
    child = start(tmp_path, "asked", *ENDLESS)
    wait_for_steps(tmp_path / "asked", child, 5)
    readers = list_readers(child)
    os.killpg(child.pid, signal.SIGINT)
    assert child.wait(timeout=60) == 75, (tmp_path / "asked.log").read_text()
    assert are_gone(readers)
    again = start(tmp_path, "asked", *ENDLESS)
    steps = json.loads((tmp_path / "asked" / "summary.json").read_text())["steps"]
    wait_for_steps(tmp_path / "asked", again, steps + 2)
    readers = list_readers(again)
    assert len(readers) == 2
    again.kill()
    again.wait()
    assert are_gone(readers)
    assert goes_away(list_shared_memory() - before)


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(10))
@pytest.mark.parametrize("num_processes", [0, 2])
def test_a_run_killed_again_before_its_readers_have_given_a_batch_each_ends_the_same(num_processes, turn, tmp_path):
    readers = f"pipeline.num_processes={num_processes}"
    assert start(tmp_path, "whole", "pipeline.num_processes=0").wait(timeout=300) == 0
    assert start(tmp_path, "cut", readers, faults=f"train:{2 + turn}=signal:TERM").wait(timeout=300) == 75
    for moment in ("input:1", "input:2", "train:1"):
        assert start(tmp_path, "cut", readers, faults=f"{moment}=signal:KILL").wait(timeout=300) == -signal.SIGKILL
    assert start(tmp_path, "cut", readers).wait(timeout=300) == 0, (tmp_path / "cut.log").read_text()
    assert list_differences(read_outcome(tmp_path / "whole"), read_outcome(tmp_path / "cut")) == []
