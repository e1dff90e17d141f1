"""Starts of a run as they are watched: a slow source, a trace, a known peak, a death without warning."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from jax.profiler import ProfileData

from mlvlab_jax.data.source import ArraySource
from mlvlab_jax.engine import utilization
from mlvlab_jax.engine.attempt import AttemptLog, describe_memory
from mlvlab_jax.engine.goodput import read_ledger
from mlvlab_jax.engine.loop import run
from mlvlab_jax.engine.telemetry import RATES
from mlvlab_jax.engine.verdict import LIMITS
from mlvlab_jax.hardware import Hardware
from tests.conftest import ROOT, RecordingTracker, tiny_config


def test_a_slow_source_is_named_and_the_phases_sum_to_the_wall_time(tmp_path, tracker, monkeypatch):
    fetch, make = ArraySource.fetch, ArraySource.__init__

    def make_as_if_on_disk(self, *args, **kwargs):
        make(self, *args, **kwargs)
        self.resident = False

    batches = itertools.count(1)

    def fetch_slowly(self, ids):
        if len(ids) == 16 and next(batches) % 6 == 0:  # training batches alone; longer than what reading ahead can hide
            time.sleep(2.5)
        return fetch(self, ids)

    monkeypatch.setattr(ArraySource, "fetch", fetch_slowly)
    monkeypatch.setattr(ArraySource, "__init__", make_as_if_on_disk)
    monkeypatch.setitem(LIMITS, "input", 0.03)  # where compiling takes a minute, so that a busy machine is no failure
    config = tiny_config(pipeline={"num_threads": 1, "prefetch_batches": 1})
    begun = time.perf_counter()
    with AttemptLog(tmp_path) as attempt:
        result = run(config, workdir=tmp_path, tracker=tracker, attempt=attempt)
    wall = time.perf_counter() - begun
    assert "Input-bound: " in result.summary["verdict"]
    assert " waiting for images to be read and decoded; try " in result.summary["verdict"]
    (line,) = read_ledger(tmp_path / "goodput.jsonl")
    assert line.ended == "finished"
    assert (line.first_step, line.step) == (0, 18)
    assert sum(line.seconds.values()) == pytest.approx(wall, abs=0.1)
    assert line.seconds["input"] > 2.5
    assert line.seconds["compile"] > 0
    assert result.summary["attempts"]["number"] == 1
    assert result.summary["memory"]["host_peak_bytes"] > 50e6


def test_a_run_has_its_trace_its_step_times_and_on_a_known_device_its_mfu(tmp_path, tracker, monkeypatch):
    known = Hardware("test", 1e9, 0.0, 0.0, 0.0, "made up")
    monkeypatch.setattr(utilization, "find_hardware", {"cpu": known}.get)
    config = tiny_config(tracking={"profile": {"first_step": 5, "num_steps": 2}}, training={"num_epochs": 2})
    result = run(config, workdir=tmp_path, tracker=tracker)
    windows = [values for _, values in tracker.records if "images_per_second" in values]
    assert len(windows) == 3
    # Widths 8 and 16, two convolutions each, on 8 x 8 and 4 x 4 pixels, and the head: by hand.
    products = 64 * 9 * (1 * 8 + 8 * 8) + 16 * 9 * (8 * 16 + 16 * 16) + 16 * 10
    for values in windows:
        assert set(values) >= {*RATES, "mfu"}
        assert 0 < values["step_ms_p50"] <= values["step_ms_p95"] <= values["step_ms_max"]
        assert values["mfu"] == pytest.approx(values["images_per_second"] * 3 * 2 * products / (8 * 1e9))
    assert "mfu" not in result.summary["last"]
    (trace,) = tmp_path.glob("plugins/profile/*/*.xplane.pb")
    planes = ProfileData.from_serialized_xspace(trace.read_bytes()).planes
    events = [event for plane in planes for line in plane.lines for event in line.events]
    steps = [dict(event.stats)["step_num"] for event in events if event.name == "train"]
    assert steps == [5, 6]


def test_an_unknown_device_has_no_mfu_and_costs_no_trace_of_the_model(monkeypatch):
    monkeypatch.setattr(utilization, "count_flops", pytest.fail)

    class Experiment:
        class mesh:  # noqa: N801
            devices = np.array([SimpleNamespace(device_kind="Abacus 3")])

    assert utilization.Utilization(Experiment, batch_size=8).read(100.0) is None


KILLED = """
import os, pathlib, signal, sys, time
from tests.conftest import RecordingTracker, tiny_config
from mlvlab_jax.engine.loop import run

def die(step):
    if step == 8:
        time.sleep(2.5)  # the save of step 5 is committed, the heart has beaten
        os.kill(os.getpid(), signal.SIGKILL)
    return False

config = tiny_config(checkpoint={"every_steps": 5})
run(config, workdir=pathlib.Path(sys.argv[1]), tracker=RecordingTracker(), stop_requested=die)
"""


def test_what_a_killed_attempt_did_after_its_last_save_is_found_lost_on_the_next_start(tmp_path):
    died = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, check=False, env=dict(os.environ))
    assert died.returncode == -signal.SIGKILL
    result = run(tiny_config(checkpoint={"every_steps": 5}), workdir=tmp_path, tracker=RecordingTracker())
    first, second = read_ledger(tmp_path / "goodput.jsonl")
    assert (first.first_step, first.step, first.ended) == (0, 8, None)
    assert (second.first_step, second.step, second.ended) == (5, 18, "finished")
    attempts = json.loads((tmp_path / "summary.json").read_text())["attempts"]
    assert (attempts["number"], attempts["lost_steps"]) == (2, 3)
    assert attempts["seconds"]["lost"] == pytest.approx(
        (first.seconds["train"] + first.seconds["input"]) * 3 / 8, abs=0.002
    )
    of_both = sum(first.seconds.values()) + result.summary["seconds"]["total"]
    assert sum(attempts["seconds"].values()) == pytest.approx(of_both, abs=0.02)
    assert attempts["down_s"] > 0
    assert result.summary["goodput"] < result.summary["seconds"]["train"] / result.summary["seconds"]["total"]


def test_an_error_that_ends_an_attempt_is_named(tmp_path, tracker):
    def fail(step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny_config(), workdir=tmp_path, tracker=tracker, stop_requested=fail)
    assert [each.ended for each in read_ledger(tmp_path / "goodput.jsonl")] == ["KeyboardInterrupt"]


def test_memory_is_told_of_devices_that_tell():
    assert describe_memory()["host_peak_bytes"] > 50e6
    assert "device_peak_bytes" not in describe_memory()  # a CPU does not
