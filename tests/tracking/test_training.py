import importlib.util
import json

from mlvlab_jax import train
from mlvlab_jax.engine.folder import open_run_folder
from mlvlab_jax.engine.loop import run
from mlvlab_jax.tracking import replay
from mlvlab_jax.tracking.multi import make_tracker
from tests.conftest import tiny_config
from tests.tracking.test_mlflow import held


def test_training_ends_while_the_database_is_locked_and_its_records_arrive_later(tmp_path, database, stored):
    params = {"uri": f"sqlite:///{database}", "interval_s": 0.05, "finish_timeout_s": 0.1}
    trackers = [{"name": "jsonl"}, {"name": "tensorboard"}, {"name": "mlflow", "params": params}]
    config = tiny_config(training={"num_epochs": 1}, tracking={"log_every_steps": 1, "trackers": trackers})
    workdir = tmp_path / "run"
    with held(database), open_run_folder(workdir, config):
        result = run(config, workdir=workdir, tracker=make_tracker(config.tracking.trackers, workdir=workdir))
    assert result.ended == "finished"
    assert stored.rows("SELECT * FROM runs") == []
    assert replay.main([str(workdir)]) == 0
    told = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for name in ("train/loss", "validation/accuracy", "test/accuracy"):
        expected = [(record["step"], record[name]) for record in told if name in record]
        assert expected
        assert stored.history(name) == expected
    tags, params = stored.pairs("tags"), stored.pairs("params")
    assert tags["ended"] == "finished"
    assert len(tags["lock.sha256"]) == 64
    assert len(tags["git.commit"]) == 40
    assert tags["flags.XLA_FLAGS"] == "--xla_force_host_platform_device_count=8"
    assert "cpu:7" in tags["devices"]
    assert params["model.params.dropout"] == "0.2"
    numbers = stored.pairs("latest_metrics")
    assert numbers["best/test/accuracy"] == result.summary["best"]["test/accuracy"]
    assert numbers["goodput"] == result.summary["goodput"]


def test_without_the_extra_the_command_ends_before_training_and_says_what_to_install(tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlflow" else find(name))
    path = tmp_path / "config.yaml"
    path.write_text("model: {name: cnn}\ntracking: {trackers: [{name: mlflow}]}\n")
    assert train.main(["--config", str(path), "--workdir", str(tmp_path / "run")]) == 64
    said = capsys.readouterr().err
    assert f"{path}:2: tracking.trackers: tracker 'mlflow' needs mlflow" in said
    assert "pip install 'mlvlab_jax[track]'" in said
    assert not (tmp_path / "run").exists()
