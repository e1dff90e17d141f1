"""A wall clock that is set forward and back at every look: durations are those of a clock that only runs."""

import datetime
import itertools

import pytest

from mlvlab_jax.engine import crash, folder, goodput
from mlvlab_jax.engine.goodput import read_ledger
from mlvlab_jax.engine.loop import run
from tests.conftest import RecordingTracker, tiny_config

CONFIG = tiny_config(training={"num_epochs": 2, "hang_timeout_s": 60})
DAY_S = 86400
#: More than the run takes on a busy machine, and less than a jump.
MOST_S = 600


@pytest.fixture
def jumping(monkeypatch):
    jumps = itertools.cycle([DAY_S, -DAY_S, 3 * DAY_S, 0])
    real_now = datetime.datetime.now

    class Jumping(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return real_now(tz) + datetime.timedelta(seconds=next(jumps))

    class Module:
        datetime, timedelta, UTC = Jumping, datetime.timedelta, datetime.UTC

    for module in (crash, folder, goodput):
        monkeypatch.setattr(module, "datetime", Module)


def test_no_duration_sees_the_wall_clock_jump(jumping, tmp_path):
    first = RecordingTracker()
    run(CONFIG, workdir=tmp_path, tracker=first, stop_requested=lambda step: step == 4)
    second = RecordingTracker()
    summary = run(CONFIG, workdir=tmp_path, tracker=second).summary
    assert summary["ended"] == "finished"
    assert {k: v for k, v in summary["seconds"].items() if not 0 <= v < MOST_S} == {}
    attempts = read_ledger(tmp_path / "goodput.jsonl")
    assert len(attempts) == 2
    assert all(0 <= value < MOST_S for each in attempts for value in each.seconds.values())
    assert all(0 <= value < MOST_S for value in summary["attempts"]["seconds"].values())
    assert summary["attempts"]["down_s"] >= 0  # between two processes there is the wall clock alone
    rates = [value for t in (first, second) for _, values in t.records for k, value in values.items() if "step_ms" in k]
    assert rates
    assert all(0 <= rate < 1e3 * MOST_S for rate in rates)
