"""TensorBoard and MLflow as people start them, read over HTTP; and a minute without a database."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import venv
from importlib import metadata

import pytest

from mlvlab_jax.tracking.mlflow_store import import_mlflow
from mlvlab_jax.tracking.tensorboard import TensorBoardTracker
from tests.tracking.test_mlflow import curve, held, info, make, summary


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read()


@contextlib.contextmanager
def serving(command, url, cwd, *, start_s=120):
    """A server that answers at `url`, for the duration of the block."""
    with (cwd / "server.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=cwd, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + start_s
        while True:
            try:
                ask(url)
                break
            except OSError:
                assert process.poll() is None, (cwd / "server.log").read_text()[-2000:]
                assert time.monotonic() < deadline, (cwd / "server.log").read_text()[-2000:]
                time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # asked kindly, it would wait for its clients
        process.wait()


def test_tensorboard_shows_the_curves_of_a_run(tmp_path):
    run = tmp_path / "runs" / "mine"
    tracker = TensorBoardTracker(run)
    tracker.start(info())
    for step in range(1, 6):
        tracker.scalars(step, {"train/loss": step / 4, "validation/accuracy": 0.5})
    tracker.finish()
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path / "runs"), "--host", "127.0.0.1"]
    with serving([*command, "--port", str(port), "--load_fast", "false"], f"{url}/data/environment", tmp_path):
        tags = {}
        while "mine" not in tags:  # it reads the folder in a thread of its own
            tags = json.loads(ask(f"{url}/data/plugin/scalars/tags"))
        points = json.loads(ask(f"{url}/data/plugin/scalars/scalars?run=mine&tag=train/loss"))
    assert set(tags["mine"]) == {"train/loss", "validation/accuracy"}
    assert [(step, value) for _, step, value in points] == [(step, step / 4) for step in range(1, 6)]


@pytest.fixture(scope="module")
def mlflow_command(tmp_path_factory):
    """The whole of MLflow, of the version the client has, in an environment of its own."""
    folder = tmp_path_factory.mktemp("mlflow-server") / "venv"
    venv.create(folder, with_pip=True)
    wanted = f"mlflow=={metadata.version('mlflow-skinny')}"
    python = str(folder / "bin" / "python")
    made = subprocess.run([python, "-m", "pip", "install", "-q", wanted], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"{wanted} cannot be installed: {made.stderr[-300:]}")
    return [python, "-m", "mlflow"]


@pytest.mark.slow
def test_an_mlflow_server_that_goes_away_and_comes_back_has_everything_once(tmp_path, mlflow_command):
    (tmp_path / "server").mkdir()
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [*mlflow_command, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", "sqlite:///m.db", "--artifacts-destination", "files"]
    tracker = make(tmp_path / "run", url)
    tracker.start(info())
    tracker.scalars(1, {"loss": 1.0})  # there is no server yet
    with serving(command, f"{url}/health", tmp_path / "server"):
        for step in range(2, 200):
            tracker.scalars(step, {"loss": float(step)})
            time.sleep(0.02)
    for step in range(200, 300):  # nor now
        tracker.scalars(step, {"loss": float(step)})
    time.sleep(5)
    with serving(command, f"{url}/health", tmp_path / "server"):
        tracker.scalars(300, {"loss": 300.0})
        tracker.summary(summary(300))
        tracker.finish()
        client = import_mlflow().MlflowClient(url)
        (run,) = client.search_runs([client.get_experiment_by_name("mlvlab").experiment_id])
        assert run.info.status == "FINISHED"
        points = client.get_metric_history(run.info.run_id, "loss")
        assert [(point.step, point.value) for point in points] == curve(range(1, 301))
        assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"config.yaml", "parameters.txt"}


@pytest.mark.slow
def test_after_a_minute_of_a_locked_database_nothing_is_lost(tmp_path, database, stored):
    tracker = make(tmp_path / "run", f"sqlite:///{database}")
    tracker.start(info())
    tracker.scalars(0, {"loss": 0.0})
    with held(database):
        for step in range(1, 6001):
            tracker.scalars(step, {"loss": float(step)})
            time.sleep(0.01)
    tracker.finish()
    assert stored.history("loss") == curve(range(6001))


@pytest.mark.slow
def test_after_a_minute_without_its_folder_a_database_is_made_anew_with_everything(tmp_path, database, stored):
    tracker = make(tmp_path / "run", f"sqlite:///{database}", finish_timeout_s=120.0)
    tracker.start(info())
    for step in range(1, 3001):
        tracker.scalars(step, {"loss": float(step)})
        time.sleep(0.02)
        if step == 100:
            # A file in place of its folder: what is deleted cannot be made again either.
            database.parent.rename(tmp_path / "gone")
            database.parent.write_text("")
    database.parent.unlink()
    tracker.finish()
    assert stored.history("loss") == curve(range(1, 3001))
    assert stored.pairs("params")["training.batch_size"] == "4"
