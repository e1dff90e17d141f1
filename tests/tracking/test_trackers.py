import contextlib
import errno
import io
import json
import os
import shutil

import numpy as np
import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mlvlab_jax.tracking.console import ConsoleTracker
from mlvlab_jax.tracking.jsonl import JsonlTracker
from mlvlab_jax.tracking.multi import MultiTracker
from mlvlab_jax.tracking.tensorboard import TensorBoardTracker
from mlvlab_jax.types import RunInfo


def info(first_step=0):
    return RunInfo(
        10,
        first_step,
        4,
        1234,
        {"training.batch_size": 4},
        {"config": "seed: 0", "parameters": "a table"},
        {"seed": "0"},
    )


def test_jsonl_drops_what_a_resumed_run_writes_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tracker = JsonlTracker(path)
    tracker.start(info())
    for step in (2, 4, 6):
        tracker.scalars(step, {"train/loss": step / 10})
    tracker.scalars(2, {"test/accuracy": 0.5})
    tracker.finish()
    with path.open("a") as file:
        file.write('{"step": 8, "tra')  # cut off by a crash
    tracker = JsonlTracker(path)
    tracker.start(info(first_step=4))
    tracker.scalars(6, {"train/loss": 0.6})
    tracker.finish()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [2, 4, 6]


def test_tensorboard_reads_back_what_was_written_and_forgets_later_steps_after_a_resume(tmp_path):
    # The first was killed before it had saved anything.
    for first_step, steps in ((0, (2, 4)), (0, (2, 4, 6)), (4, (6, 8))):
        tracker = TensorBoardTracker(tmp_path)
        tracker.start(info(first_step))
        for step in steps:
            tracker.scalars(step, {"train/loss": step / 10 + first_step})
        tracker.images(1, {"first_batch": np.full((3, 4, 4, 1), 7, np.uint8)})
        tracker.histograms(2, {"params/w": np.arange(9.0)})
        tracker.finish()
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0, "scalars": 0, "histograms": 0, "tensors": 0})
    events.Reload()
    assert [(e.step, pytest.approx(e.value)) for e in events.Scalars("train/loss")] == [
        (2, 0.2),
        (4, 0.4),
        (6, 4.6),
        (8, 4.8),
    ]
    tags = events.Tags()
    assert "first_batch" in tags["images"]
    assert "params/w" in tags["histograms"]
    assert "config/text_summary" in tags["tensors"]


def test_tensorboard_has_the_test_once_though_the_run_was_killed_before_its_end(tmp_path):
    for _ in range(2):
        tracker = TensorBoardTracker(tmp_path)
        tracker.start(info(8))
        tracker.scalars(6, {"test/loss": 0.5, "test/accuracy": 1.0})
        tracker.finish()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("test/loss")] == [(6, 0.5)]
    tracker.start(info(8))
    tracker.scalars(7, {"test/loss": 0.25})
    tracker.finish()
    events.Reload()
    assert [e.step for e in events.Scalars("test/loss")] == [6, 7]


@pytest.mark.parametrize("what", ["folder deleted", "read-only"])
def test_no_record_of_files_is_lost_when_their_folder_is_deleted_or_read_only_for_a_while(what, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    trackers = [JsonlTracker(folder / "metrics.jsonl"), TensorBoardTracker(folder)]
    both = MultiTracker(list(zip(("jsonl", "tensorboard"), trackers, strict=True)))
    both.start(info())
    for step in range(1, 31):
        if step == 11:
            disk = start_trouble(what, folder, monkeypatch)
        if step == 21:
            disk.close()
        both.scalars(step, {"train/loss": step / 10})
    both.summary({"ended": "finished", "steps": 30})
    both.finish()
    expected = [(step, pytest.approx(step / 10)) for step in range(1, 31)]
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(record["step"], record["train/loss"]) for record in records] == expected
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == expected
    texts = {
        tag: events.Tensors(f"{tag}/text_summary")[0].tensor_proto.string_val[0] for tag in ("made from", "summary")
    }
    assert b"| seed | 0 |" in texts["made from"]
    assert b"| ended | finished |" in texts["summary"]


def start_trouble(what, folder, monkeypatch):
    """Begins what the disk does to the writers; closing what is returned ends it."""
    trouble = contextlib.ExitStack()
    if what == "folder deleted":
        shutil.rmtree(folder)
        return trouble
    write, own = os.write, {path.stat().st_ino for path in folder.iterdir()}

    def refuse(fd, data):
        if os.fstat(fd).st_ino in own:
            raise OSError(errno.EROFS, "Read-only file system")
        return write(fd, data)

    trouble.enter_context(monkeypatch.context()).setattr(os, "write", refuse)
    return trouble


def plain(interval_s=0.0, **kwargs):
    out = io.StringIO()
    return ConsoleTracker(Console(file=out, width=100, highlight=False, **kwargs), interval_s=interval_s), out


def test_the_console_prints_plain_lines_where_there_is_no_terminal():
    tracker, out = plain()
    tracker.start(info())
    for step in range(1, 4):
        tracker.progress(step, 1.0 / step)
    tracker.scalars(3, {"train/loss": 0.5, "validation/accuracy": 0.75})
    tracker.finish()
    lines = out.getvalue().splitlines()
    assert lines[:2] == ["a table", "1,234 parameters; 10 steps of 4"]
    assert [line.split("  ")[:2] for line in lines[2:4]] == [["step 2/10", "loss 0.5000"], ["step 3/10", "loss 0.3333"]]
    assert all("images/s  ETA" in line for line in lines[2:4])
    assert lines[4] == "step      3  validation/accuracy 0.7500"


def test_the_console_waits_between_plain_lines():
    tracker, out = plain(interval_s=1000)
    tracker.start(info())
    for step in range(1, 9):
        tracker.progress(step, 1.0)
    tracker.finish()
    assert "step" not in out.getvalue().split("steps of 4")[1]


def test_the_console_shows_a_bar_on_a_terminal():
    tracker, out = plain(force_terminal=True)
    tracker.start(info(first_step=4))
    tracker.progress(5, 0.25)
    tracker.progress(6, 0.125)
    tracker.finish()
    text = out.getvalue()
    assert "going on after step 4" in text
    assert "6/10" in text
    assert "loss 0.1250" in text
    assert "images/s" in text


def test_a_tracker_that_fails_is_named_once_and_stops_nothing(tracker):
    class Broken:
        def __getattr__(self, name):
            raise OSError("disk full")

    both = MultiTracker([("broken", Broken()), ("good", tracker)])
    notes = []
    tracker.note = notes.append
    both.start(info())
    both.scalars(1, {"a": 1.0})
    assert notes == ["tracker 'broken' failed, and may lack records: OSError: disk full"]
    assert tracker.records == [(1, {"a": 1.0})]
