"""The whole loop in one process: resume, early stopping, plateau, evaluation, what is written down."""

import hashlib
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlvlab_jax.data.quarantine import refuse_bad
from mlvlab_jax.engine.checkpoint import CheckpointStore
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.loop import run
from mlvlab_jax.engine.telemetry import RATES
from mlvlab_jax.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from mlvlab_jax.models.attention import Choice
from mlvlab_jax.trees import compute_digest
from tests.conftest import RecordingTracker, tiny_config
from tests.engine.test_step import MODELS

SMALL_DATA = {"name": "digits"}


def training_records(tracker):
    return [(step, {k: v for k, v in values.items() if k not in RATES}) for step, values in tracker.records]


@pytest.mark.parametrize("model", ["cnn", "vit"])
@pytest.mark.parametrize("stop_at", [4, 10])
def test_stop_and_go_on_equals_running_through_bitwise(model, stop_at, tmp_path):
    # Dropout, augmentation, EMA, plateau and early stopping are on; 4 falls inside a logging window, 10 after an eval.
    config = tiny_config(
        model=MODELS[model],
        schedule={"name": "plateau", "params": {"patience": 1, "min_delta": 0.5}},
        training={"ema_decay": 0.9, "early_stopping": {"patience": 9, "monitor": "accuracy", "mode": "max"}},
    )
    through = RecordingTracker()
    whole = run(config, workdir=tmp_path / "whole", tracker=through)
    assert whole.ended == "finished"
    before, after = RecordingTracker(), RecordingTracker()
    stopped = run(config, workdir=tmp_path / "cut", tracker=before, stop_requested=lambda step: step == stop_at)
    assert (stopped.ended, stopped.progress.step, before.finished) == ("interrupted", stop_at, 1)
    resumed = run(config, workdir=tmp_path / "cut", tracker=after)
    assert after.info.first_step == stop_at
    assert compute_digest(resumed.state) == compute_digest(whole.state)
    assert resumed.progress == whole.progress
    assert resumed.summary["best"] == whole.summary["best"]
    assert training_records(before) + training_records(after) == training_records(through)


EVERYTHING = {
    "crop_padding": 0,
    "random_resized_crop": {"scale": [0.4, 1.0]},
    "randaugment": {"num_ops": 1},
    "color_jitter": {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1},
    "erasing": {"probability": 0.5},
    "mixup": {"alpha": 0.8},
    "cutmix": {"alpha": 1.0},
}


def test_with_every_augmentation_stop_and_go_on_equals_running_through_bitwise(tmp_path):
    data = {"params": {"channels": 3}}
    config = tiny_config(data=data, pipeline={"augment": EVERYTHING}, training={"num_epochs": 1})
    whole = run(config, workdir=tmp_path / "whole", tracker=RecordingTracker())
    run(config, workdir=tmp_path / "cut", tracker=RecordingTracker(), stop_requested=lambda step: step == 2)
    resumed = run(config, workdir=tmp_path / "cut", tracker=RecordingTracker())
    assert (whole.ended, resumed.ended, resumed.progress.step) == ("finished", "finished", 5)
    assert compute_digest(resumed.state) == compute_digest(whole.state)


def test_a_checkpoint_is_the_state_at_its_step_though_training_went_on(tmp_path):
    config = tiny_config(checkpoint={"every_steps": 7, "keep_last": 9})
    through = run(config, workdir=tmp_path / "a", tracker=RecordingTracker())
    cut = run(config, workdir=tmp_path / "b", tracker=RecordingTracker(), stop_requested=lambda step: step == 7)
    experiment = make_experiment(config)
    with CheckpointStore(tmp_path / "a" / "checkpoints", config.checkpoint, mode="min") as store:
        assert 7 in store.steps()
        state, progress = store.restore(7, experiment.state, experiment.layout)
        last, _ = store.restore(18, experiment.state, experiment.layout)
        with pytest.raises(CheckpointError, match="no checkpoint of step 3; there are"):
            store.resolve(3)
    assert compute_digest(state) == compute_digest(cut.state)
    assert progress["step"] == 7
    assert compute_digest(last) == compute_digest(through.state)


def test_best_and_last_are_kept_and_the_test_is_of_the_best(tmp_path, tracker):
    config = tiny_config(training={"num_epochs": 6, "early_stopping": {"monitor": "accuracy", "mode": "max"}})
    result = run(config, workdir=tmp_path, tracker=tracker)
    measured = {
        step: values["validation/accuracy"] for step, values in tracker.records if "validation/accuracy" in values
    }
    best_step = max(measured, key=lambda step: (measured[step], -step))
    assert result.summary["best"]["step"] == best_step
    kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdecimal())
    assert max(measured) == result.progress.step
    assert kept == sorted({best_step, *sorted(measured)[-2:]})
    experiment = make_experiment(config)
    with CheckpointStore(tmp_path / "checkpoints", config.checkpoint, mode="max") as store:
        state, _ = store.restore(best_step, experiment.state, experiment.layout)
    tested = experiment.evaluator(state.evaluated, experiment.data.splits["test"], on_bad=refuse_bad).scalars
    assert result.summary["best"]["test/accuracy"] == tested["accuracy"]


def test_evaluation_equals_numpy_on_all_examples(tmp_path):
    experiment = make_experiment(
        tiny_config(evaluation={"batch_size": 8, "metrics": [{"name": "loss"}, {"name": "accuracy"}]})
    )
    split = experiment.data.splits["test"]
    image, label, _ = split.source.fetch(split.ids)
    variables = experiment.state.variables
    logits, _ = experiment.model.apply(variables, jnp.asarray((image / 255.0 - 0.5) / 0.5), jax.random.key(0), False)
    logits = np.asarray(logits, np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    measured = experiment.evaluator(variables, split, on_bad=refuse_bad).scalars
    np.testing.assert_allclose(measured["loss"], -log_p[np.arange(20), label].mean(), rtol=1e-5)
    assert measured["accuracy"] == pytest.approx((logits.argmax(1) == label).mean(), abs=1e-9)


def test_patience_ends_the_run_and_a_second_start_does_not_go_on(tmp_path):
    config = tiny_config(training={"num_epochs": 50, "early_stopping": {"patience": 2, "min_delta": 100.0}})
    result = run(config, workdir=tmp_path, tracker=RecordingTracker())
    assert result.ended == "stopped early"
    assert result.progress.stopping.num_without_improvement == 2
    again = run(config, workdir=tmp_path, tracker=RecordingTracker())
    assert (again.ended, again.progress.step) == ("stopped early", result.progress.step)


def test_a_lost_loss_ends_the_run_and_is_never_saved(tmp_path, tracker):
    config = tiny_config(training={"learning_rate": 1e30}, optimizer={"name": "sgd"})
    with pytest.raises(NonFiniteError, match=r"step \d+: the loss is .*not finite.*learning_rate"):
        run(config, workdir=tmp_path, tracker=tracker)
    assert tracker.finished == 1
    with CheckpointStore(tmp_path / "checkpoints", config.checkpoint, mode="min") as store:
        assert store.steps() == []


def test_the_tracker_is_told_everything(tmp_path, tracker):
    config = tiny_config(tracking={"param_histograms": True})
    result = run(config, workdir=tmp_path, tracker=tracker)
    assert tracker.info.num_steps == 18
    assert tracker.info.hparams["training.batch_size"] == 16
    assert "stage0_0/kernel" in tracker.info.texts["parameters"]
    assert tracker.shown["train/first_batch"].shape == (16, 8, 8, 1)
    assert "params/head/kernel" in tracker.shown
    train_steps = [step for step, values in tracker.records if "train/loss" in values]
    assert train_steps == [3, 6, 9, 12, 15, 18]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["seed"] == 0
    assert manifest["data"]["origin"] == "synthetic"
    assert len(manifest["sessions"][0]["devices"]) == 8
    assert manifest["sessions"][0]["versions"]["jax"] == jax.__version__
    assert manifest["sessions"][0]["flags"]["XLA_FLAGS"] == os.environ["XLA_FLAGS"]
    lock = hashlib.sha256(Path("requirements.lock").read_bytes()).hexdigest()
    assert tracker.info.tags["lock.sha256"] == lock
    assert tracker.info.tags["seed"] == "0"
    assert tracker.info.tags["data.origin"] == "synthetic"
    assert tracker.info.tags["versions.jax"] == jax.__version__
    assert tracker.summed_up == result.summary
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary == json.loads(json.dumps(result.summary))
    assert summary["goodput"] == pytest.approx(summary["seconds"]["train"] / summary["seconds"]["total"], abs=1e-3)
    seconds = summary["seconds"]
    assert seconds["total"] == pytest.approx(sum(v for k, v in seconds.items() if k != "total"), abs=0.01)


@pytest.mark.parametrize(
    ("changes", "expected", "path"),
    [
        (
            {"training": {"batch_size": 12}},
            "12 examples cannot be spread evenly .* 8 or 16 fits",
            "training.batch_size",
        ),
        ({"mesh": {"data": 3}}, "does not make 8 devices", "mesh"),
        ({"mesh": {"data": -1, "fsdp": 16}}, "does not make 8 devices", "mesh"),
        (
            {"training": {"early_stopping": {"monitor": "f1"}}},
            "'f1' is not measured",
            "training.early_stopping.monitor",
        ),
        (
            {"pipeline": {"augment": {"color_jitter": {"hue": 0.1}}}},
            "0.1 for images of 1 channels; expected images of 3",
            "pipeline.augment.color_jitter.hue",
        ),
        ({"pipeline": {"mean": [0.1, 0.2]}}, "2 values for images of 1 channels", "pipeline.mean"),
        (
            {"pipeline": {"validation_fraction": 0.0}, "training": {"early_stopping": {"patience": 1}}},
            "need a validation split",
            "pipeline.validation_fraction",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_anything_is_written(changes, expected, path, tmp_path):
    with pytest.raises(ConfigError, match=expected) as caught:
        run(tiny_config(**changes), workdir=tmp_path / "new", tracker=RecordingTracker())
    assert caught.value.path == path
    assert not Path(tmp_path / "new").exists()


def test_without_validation_the_last_state_is_the_best(tmp_path):
    config = tiny_config(pipeline={"validation_fraction": 0.0}, training={"num_epochs": 1})
    result = run(config, workdir=tmp_path, tracker=RecordingTracker())
    assert result.summary["best"]["step"] == result.progress.step
    assert "test/accuracy" in result.summary["best"]


def test_the_data_version_is_recorded_with_the_run_and_each_checkpoint(tmp_path):
    images = np.zeros((80, 8, 8), np.uint8)
    labels = np.arange(80) % 2
    np.savez(tmp_path / "a.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    (tmp_path / "a.npz.dvc").write_text(f"outs:\n- {{md5: {'0' * 32}, size: 9, hash: md5, path: a.npz}}\n")
    tracked = {"data": {"name": "arrays", "params": {"path": str(tmp_path / "a.npz")}}}
    config = tiny_config(**tracked)
    run(config, workdir=tmp_path / "run", tracker=RecordingTracker(), stop_requested=lambda step: step == 1)
    recorded = json.loads((tmp_path / "run" / "manifest.json").read_text())["data_version"]
    facts = {"md5": "0" * 32, "size_bytes": 9, "num_files": 1, "revision": None, "dirty": True}
    assert recorded == [{"path": str(tmp_path / "a.npz")} | facts]
    experiment = make_experiment(config)
    with CheckpointStore(tmp_path / "run" / "checkpoints", config.checkpoint, mode="min") as store:
        _, progress = store.restore(1, experiment.state, experiment.layout)
    assert progress["data_version"] == recorded
    with pytest.raises(DataError, match=r"a\.npz: not the bytes of data version 0+; changed or added: a\.npz"):
        make_experiment(tiny_config(**tracked, data_version={"verify": "strict"}))


def test_what_a_network_has_to_say_of_itself_is_noted_at_the_start(tracker, tmp_path, monkeypatch):
    monkeypatch.setattr("mlvlab_jax.models.vit.choose_attention", lambda *_, **__: Choice("xla", "attention is slow"))

    class HeardError(Exception):
        pass

    def hear(text):
        raise HeardError(text)

    monkeypatch.setattr(tracker, "note", hear)
    with pytest.raises(HeardError, match="attention is slow"):
        run(tiny_config(model=MODELS["vit"]), workdir=tmp_path, tracker=tracker)
