"""Points that a tracker has too often or not at all are named."""

from mlvlab_jax.engine.curves import find_strays
from mlvlab_jax.tracking.journal import Journal
from mlvlab_jax.tracking.tensorboard import TensorBoardTracker
from mlvlab_jax.types import RunInfo

RECORDS = [{"step": 1, "train/loss": 3.0}, {"step": 2, "train/loss": 2.0}, {"step": 2, "validation/loss": 2.5}]
INFO = RunInfo(num_steps=2, first_step=0, batch_size=1, num_params=1, hparams={}, texts={}, tags={})


def write_events(folder, records):
    tracker = TensorBoardTracker(folder)
    tracker.start(INFO)
    for record in records:
        tracker.scalars(record["step"], {name: value for name, value in record.items() if name != "step"})
    tracker.finish()


def test_where_nothing_was_tracked_nothing_is_missing(tmp_path):
    assert find_strays(tmp_path, RECORDS) == []


def test_event_files_are_held_against_the_records(tmp_path):
    write_events(tmp_path / "whole", RECORDS)
    assert find_strays(tmp_path / "whole", RECORDS) == []
    write_events(tmp_path / "other", [RECORDS[0], RECORDS[0], RECORDS[2]])
    assert find_strays(tmp_path / "other", RECORDS) == ["TensorBoard, train/loss: too often [1], missing [2]"]


def test_the_journal_is_held_against_the_records(tmp_path):
    journal = Journal(tmp_path / "mlflow.jsonl", uri="", experiment="", name="")
    for record in RECORDS:
        journal.append_curve(record["step"], {name: value for name, value in record.items() if name != "step"})
    assert find_strays(tmp_path, RECORDS) == []
    journal.append({"step": 2, "metrics": {"validation/loss": 2.5}})
    journal.file.close()
    assert find_strays(tmp_path, RECORDS) == ["mlflow.jsonl, validation/loss: too often [2], missing []"]
