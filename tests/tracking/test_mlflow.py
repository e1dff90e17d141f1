import contextlib
import json
import logging
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.errors import ConfigError, DataError
from mlvlab_jax.plugins import TRACKERS, Spec
from mlvlab_jax.tracking import MLflowTracker, replay
from mlvlab_jax.tracking.mlflow import MLflowParams
from mlvlab_jax.tracking.mlflow_store import import_mlflow
from mlvlab_jax.types import RunInfo

NOWHERE = "http://127.0.0.1:9"  # the port of "discard", which nothing listens on


def info(first_step=0, **hparams):
    texts = {"config": "seed: 0\n", "parameters": "a table"}
    tags = {"seed": "0", "git.commit": "abc", "data": "d" * 9000}
    return RunInfo(100, first_step, 4, 1234, {"training.batch_size": 4, **hparams}, texts, tags)


def make(workdir, uri, **params):
    values = {"uri": uri, "interval_s": 0.05, "finish_timeout_s": 60.0, **params}
    return TRACKERS.build(Spec("mlflow", params_from(MLflowParams, values)), workdir=workdir)


def summary(steps, ended="finished"):
    best = {"step": 2, "validation/accuracy": 0.75}
    last = {"step": steps, "train/loss": 0.5}
    return {"ended": ended, "steps": steps, "best": best, "last": last, "goodput": 0.9, "seconds": {"train": 9.0}}


def curve(steps, scale=1.0):
    return [(step, step * scale) for step in steps]


@contextlib.contextmanager
def held(database):
    """The database, locked by another connection as nobody else can even read it."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def test_a_run_has_params_tags_curves_files_summary_and_status(tmp_path, database, stored, mlflow_client):
    tracker = make(tmp_path / "my-run", f"sqlite:///{database}", tags={"team": "vision"})
    tracker.start(info())
    for step in (1, 2, 3):
        tracker.scalars(step, {"train/loss": 1.0 / step, "validation/accuracy": 0.5})
    tracker.summary(summary(3))
    tracker.finish()
    (experiment,) = [e for e in mlflow_client.search_experiments() if e.name == "mlvlab"]
    (run,) = mlflow_client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "my-run"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"training.batch_size": "4", "num_params": "1234"}
    expected = {"seed": "0", "git.commit": "abc", "mlflow.source.git.commit": "abc", "team": "vision"}
    assert expected.items() <= run.data.tags.items()
    assert run.data.tags["data"] == "d" * 8000  # as much as MLflow takes
    assert run.data.tags["ended"] == "finished"
    assert run.data.tags["mlvlab.delivered"] == str((tmp_path / "my-run" / "mlflow.jsonl").stat().st_size)
    assert run.data.metrics["best/validation/accuracy"] == 0.75
    assert run.data.metrics["goodput"] == 0.9
    assert run.data.metrics["seconds/train"] == 9.0
    points = mlflow_client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in points] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert {file.path for file in mlflow_client.list_artifacts(run.info.run_id)} == {"config.yaml", "parameters.txt"}
    config = mlflow_client.download_artifacts(run.info.run_id, "config.yaml", str(tmp_path))
    assert Path(config).read_text() == "seed: 0\n"
    assert (database.parent / "mlartifacts").is_dir()


def test_records_made_while_the_database_is_locked_arrive_once_and_in_order(tmp_path, database, stored):
    tracker = make(tmp_path / "run", f"sqlite:///{database}")
    tracker.start(info())
    for step in range(10):
        tracker.scalars(step, {"loss": float(step)})
    while not stored.history("loss"):
        time.sleep(0.05)
    with held(database):
        for step in range(10, 500):
            tracker.scalars(step, {"loss": float(step)})  # all return, though nothing can be written
        time.sleep(1.5)
    tracker.finish()
    assert stored.history("loss") == curve(range(500))


@pytest.mark.parametrize("call", ["log_batch", "log_text", "set_tag", "create_run"])
def test_a_store_that_refuses_some_calls_has_everything_once_and_in_order(
    call, tmp_path, database, stored, monkeypatch
):
    mlflow = import_mlflow()
    original, calls = getattr(mlflow.MlflowClient, call), []

    def refuse(*args, **kwargs):
        calls.append(call)
        if len(calls) in (1, 2, 4):
            raise mlflow.MlflowException("attempt to write a readonly database")
        return original(*args, **kwargs)

    monkeypatch.setattr(mlflow.MlflowClient, call, refuse)
    tracker = make(tmp_path / "run", f"sqlite:///{database}")
    tracker.start(info())
    for step in range(1, 30):
        tracker.scalars(step, {"loss": float(step)})
        time.sleep(0.01)
    tracker.summary(summary(29))
    tracker.finish()
    assert len(calls) > 1
    assert stored.history("loss") == curve(range(1, 30))
    assert stored.rows("SELECT count(*), status FROM runs") == [(1, "FINISHED")]


def test_a_database_that_is_deleted_is_made_again_with_all_of_the_run(tmp_path, migrated, database, stored):
    tracker = make(tmp_path / "run", f"sqlite:///{database}")
    tracker.start(info())
    tracker.scalars(1, {"loss": 1.0})
    while not stored.history("loss"):
        time.sleep(0.05)
    database.unlink()
    shutil.copyfile(migrated, database)  # an empty one, as MLflow would make it
    tracker.scalars(2, {"loss": 2.0})
    tracker.finish()
    assert stored.history("loss") == curve([1, 2])
    assert stored.pairs("params")["training.batch_size"] == "4"
    assert stored.rows("SELECT name, status FROM runs") == [("run", "FAILED")]  # no summary: an error ended it


def test_a_server_that_is_down_stops_nothing_and_the_rest_is_delivered_by_replay(tmp_path, database, stored, caplog):
    tracker = make(tmp_path / "run", NOWHERE, finish_timeout_s=0.5)
    tracker.start(info())
    for step in range(1, 50):
        tracker.scalars(step, {"loss": float(step)})
    tracker.summary(summary(49))
    tracker.finish()
    assert f"python -m mlvlab_jax.tracking.replay {tmp_path / 'run'}" in caplog.text
    for _ in range(2):  # the second has nothing to add
        assert replay.main([str(tmp_path / "run"), "--uri", f"sqlite:///{database}"]) == 0
    assert stored.history("loss") == curve(range(1, 50))
    assert stored.rows("SELECT name, status FROM runs") == [("run", "FINISHED")]


def test_replay_says_when_the_store_is_still_away_and_refuses_a_folder_without_a_run(tmp_path, capsys):
    tracker = make(tmp_path / "run", NOWHERE, finish_timeout_s=0.1)
    tracker.start(info())
    tracker.finish()
    assert replay.main([str(tmp_path / "run"), "--timeout", "0.2"]) == 1
    assert "has not taken everything" in capsys.readouterr().out
    assert replay.main([str(tmp_path)]) == ConfigError.exit_code
    assert "no mlflow.jsonl" in capsys.readouterr().err


KILLED = """
import sys, time, pathlib
sys.path.insert(0, ".")
from tests.tracking.test_mlflow import info, make
tracker = make(pathlib.Path(sys.argv[1]), sys.argv[2])
tracker.start(info())
for step in range(1, 21):
    tracker.scalars(step, {"loss": float(step)})
print("told", flush=True)
time.sleep(600)
"""


def test_what_a_killed_run_had_not_delivered_arrives_at_the_next_start_once(tmp_path, database, stored):
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "run"), NOWHERE], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "told\n"
        process.send_signal(signal.SIGKILL)
    journal = tmp_path / "run" / "mlflow.jsonl"
    with journal.open("a") as file:
        file.write('{"step": 21, "metr')  # as a crash of the machine leaves it
    tracker = make(tmp_path / "run", f"sqlite:///{database}")
    tracker.start(info(first_step=15))
    for step in range(16, 31):
        tracker.scalars(step, {"loss": float(step), "other": 1.0})
    tracker.summary(summary(30))
    tracker.finish()
    assert stored.history("loss") == curve(range(1, 31))
    assert [step for step, _ in stored.history("other")] == list(range(16, 31))
    assert stored.rows("SELECT count(*), status FROM runs") == [(1, "FINISHED")]


def test_a_resumed_run_goes_on_in_its_mlflow_run_and_doubles_no_point(tmp_path, database, stored):
    for first_step, steps, ended in ((0, range(1, 9), "interrupted"), (5, range(6, 13), "finished")):
        # What may change on resume must not be told twice: MLflow refuses to change a parameter.
        tracker = make(tmp_path / "run", f"sqlite:///{database}")
        tracker.start(info(first_step, **{"tracking.log_every_steps": first_step}))
        for step in steps:
            tracker.scalars(step, {"loss": float(step)})
        tracker.summary(summary(steps[-1], ended))
        tracker.finish()
        status = {"interrupted": "KILLED", "finished": "FINISHED"}[ended]
        assert stored.rows("SELECT name, status FROM runs") == [("run", status)]
    assert stored.history("loss") == curve(range(1, 13))
    assert stored.pairs("params")["tracking.log_every_steps"] == "0"
    assert stored.history("steps") == curve([8, 12])


def test_runs_at_the_same_time_share_a_database_named_by_a_relative_path(tmp_path, database, stored, monkeypatch):
    monkeypatch.chdir(database.parent)
    trackers = [make(tmp_path / f"run{n}", "sqlite:///mlflow.db") for n in range(3)]
    for tracker in trackers:
        tracker.start(info())
    monkeypatch.chdir(tmp_path)
    for step in range(1, 101):
        for n, tracker in enumerate(trackers):
            tracker.scalars(step, {f"loss{n}": float(step)})
    for tracker in trackers:
        tracker.finish()
    assert sorted(stored.rows("SELECT name FROM runs")) == [("run0",), ("run1",), ("run2",)]
    assert [stored.history(f"loss{n}") for n in range(3)] == [curve(range(1, 101))] * 3
    assert not (tmp_path / "mlflow.db").exists()


def test_one_entry_that_mlflow_refuses_holds_up_nothing_else(tmp_path, database, stored, caplog):
    tracker = make(tmp_path / "run", f"sqlite:///{database}")
    tracker.start(info(**{"weird,name": 1}))
    for step in range(1, 6):
        tracker.scalars(step, {"a/../b": 1.0, "loss": float(step), "nan": float("nan")})
    tracker.finish()
    assert stored.history("loss") == curve(range(1, 6))
    assert len(stored.history("nan")) == 5
    assert stored.pairs("params")["weird_name"] == "1"
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING and r.name.startswith("mlvlab_jax")]) == 1
    assert "mlflow refuses metrics 'a/../b'" in caplog.text


def test_telemetry_is_off(mlflow_client):
    from mlflow.telemetry.utils import is_telemetry_disabled

    assert is_telemetry_disabled()


def test_without_the_extra_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs mlflow, sqlalchemy, alembic; .* pip install 'mlvlab_jax\[track\]'"):
        make(tmp_path, NOWHERE)


@pytest.fixture
def script(tmp_path, database):
    return MLflowTracker(f"sqlite:///{database}", folder=tmp_path / "pending")


def test_the_guides_tracking_snippet_runs(tmp_path, script, stored, mlflow_client, monkeypatch):
    def setup_data(config):
        return range(3), range(2)

    def setup_model(config):
        return {"dense": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "scale": np.float32(3)}}

    def train_model(model, train_loader, val_loader, config):
        return {"accuracy": 0.75, "loss": np.float32(0.5)}

    (tmp_path / "here.yaml").write_text("lr: 0.1\n")
    monkeypatch.setattr("tests.tracking.test_mlflow.MLflowTracker", lambda: script)
    config = {"path": str(tmp_path / "here.yaml"), "training": {"lr": 0.1, "steps": [1, 2]}}

    def run_experiment(config: dict):
        """Run ML experiment with tracking."""
        tracker = MLflowTracker()

        with tracker.start_run():
            # Log configuration
            tracker.log_params(config)

            # Load data
            train_loader, val_loader = setup_data(config)

            # Train model
            model = setup_model(config)
            metrics = train_model(model, train_loader, val_loader, config)

            # Log metrics
            tracker.log_metrics(metrics)

            # Log artifacts
            tracker.log_model(model, "model")
            tracker.log_file(config["path"], "config.yaml")

    run_experiment(config)
    assert stored.rows("SELECT count(*), status FROM runs") == [(1, "FINISHED")]
    assert stored.pairs("params") == {"path": config["path"], "training.lr": "0.1", "training.steps": "[1, 2]"}
    assert stored.pairs("metrics") == {"accuracy": 0.75, "loss": 0.5}
    ((run_id,),) = stored.rows("SELECT run_uuid FROM runs")
    arrays = load_file(mlflow_client.download_artifacts(run_id, "model/model.safetensors", str(tmp_path)))
    np.testing.assert_array_equal(arrays["dense/kernel"], np.arange(6).reshape(2, 3))
    assert arrays["dense/scale"].shape == ()
    assert Path(mlflow_client.download_artifacts(run_id, "config.yaml", str(tmp_path))).read_text() == "lr: 0.1\n"
    assert not list((tmp_path / "pending").iterdir())  # nothing waits any more


def test_a_script_logs_folders_steps_and_its_failure_and_what_is_wrong_is_named(tmp_path, script, stored):
    package = tmp_path / "package"
    (package / "export").mkdir(parents=True)
    (package / "config.json").write_text("{}")
    (package / "export" / "model.bin").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"no run is open .* with tracker\.start_run"):
        script.log_params({"a": 1})
    with pytest.raises(ZeroDivisionError), script.start_run("mine"):  # noqa: PT012
        script.log_model(package, "best")
        shutil.rmtree(package)  # what was logged is what was there then
        for step in (10, 20):
            script.log_metrics({"loss": 1.0 / step}, step=step)
        with pytest.raises(ConfigError, match="metric 'loss' is 'low'; expected a number"):
            script.log_metrics({"loss": "low"})
        with pytest.raises(DataError, match="nowhere: there is no such file"):
            script.log_file(tmp_path / "nowhere")
        for name in ("../outside.py", "/outside.py", "."):
            with pytest.raises(ConfigError, match="expected a name inside the run"):
                script.log_file(Path(__file__), name)
        with pytest.raises(ConfigError, match="layer is no array; expected a pytree of arrays"):
            script.log_model({"layer": object()}, "model")
        _ = 1 / 0
    assert stored.rows("SELECT name, status FROM runs") == [("mine", "FAILED")]
    assert stored.history("loss") == [(10, 0.1), (20, 0.05)]
    files = {path.relative_to(tmp_path).parts[-2:] for path in tmp_path.rglob("*.bin")}
    assert files == {("export", "model.bin")}


def test_a_script_whose_store_is_away_ends_and_its_run_can_be_replayed(tmp_path, database, stored, caplog):
    tracker = MLflowTracker(NOWHERE, folder=tmp_path / "pending", finish_timeout_s=0.2)
    with tracker.start_run("later"):
        tracker.log_metrics({"loss": 1.0}, step=1)
        tracker.log_model({"w": np.ones(3, np.float32)}, "model")
    (folder,) = (tmp_path / "pending").iterdir()
    assert str(folder) in caplog.text
    assert replay.main([str(folder), "--uri", f"sqlite:///{database}"]) == 0
    assert stored.history("loss") == [(1, 1.0)]
    assert list(database.parent.rglob("model/model.safetensors"))


def test_the_journal_is_json_lines_with_times(tmp_path, database):
    tracker = make(tmp_path / "run", f"sqlite:///{database}")
    tracker.start(info())
    tracker.scalars(1, {"loss": 1.0})
    tracker.finish()
    records = [json.loads(line) for line in (tmp_path / "run" / "mlflow.jsonl").read_text().splitlines()]
    assert [next(key for key in record if key != "time") for record in records] == [
        "run",
        "params",
        "tags",
        "text",
        "text",
        "step",
        "status",
    ]
    assert all(abs(record["time"] / 1000 - time.time()) < 600 for record in records)
