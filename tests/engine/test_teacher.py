"""A student of a package: what it learns, that it goes on and is replayed alike, and what is refused."""

import dataclasses
import datetime
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlvlab_jax.config.schema import Config
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.loop import run
from mlvlab_jax.engine.losses import cross_entropy, distillation_loss
from mlvlab_jax.engine.step import make_examples
from mlvlab_jax.engine.teacher import open_teacher
from mlvlab_jax.engine.updates import make_updates
from mlvlab_jax.errors import ConfigError, DataError
from mlvlab_jax.package.build import write_package
from mlvlab_jax.package.load import load_package
from mlvlab_jax.trees import compute_digest
from tests.conftest import RecordingTracker, tiny_config

TODAY = datetime.date(2026, 1, 1)
OTHER_PIXELS = {"mean": [0.2], "std": [0.7]}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Of a run whose pixels are normalised in another way than its student's."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    config = tiny_config(pipeline=OTHER_PIXELS, training={"num_epochs": 2})
    run(config, workdir=folder, tracker=RecordingTracker())
    return write_package(folder, today=TODAY)


def student(package, *, distillation=None, **changes) -> Config:
    training = {"distillation": {"package": str(package), **(distillation or {})}} | changes.pop("training", {})
    return tiny_config(training=training, **changes)


def first_update(config):
    """The experiment, its first batch, and what the first update says of it."""
    experiment = make_experiment(config)
    experiment = dataclasses.replace(experiment, teacher=open_teacher(config, experiment.data))
    updates = make_updates(config, experiment, on_bad=lambda found: None)
    batch = jax.tree.map(jnp.copy, next(iter(updates.batches(0))))
    key, variables = jnp.copy(experiment.state.key), jax.tree.map(jnp.copy, experiment.state.variables)
    _, scalars = updates(experiment.state, batch)
    return experiment, key, variables, batch, scalars


def test_the_loss_is_shared_between_labels_and_what_the_package_says(package):
    config = student(
        package,
        distillation={"weight": 0.3, "temperature": 4.0},
        model={"params": {"dropout": 0.0}},
        pipeline={"augment": {"crop_padding": 0, "horizontal_flip": False}},
    )
    experiment, key, variables, batch, scalars = first_update(config)
    logits, _ = experiment.model.apply(variables, make_examples(key, batch, config.pipeline)["image"], key, True)
    said = load_package(package).predict_logits(np.asarray(batch["image"]))
    student_p, teacher_p = (np.exp(x / 4) / np.exp(x / 4).sum(1, keepdims=True) for x in (np.asarray(logits), said))
    divergence = (teacher_p * np.log(teacher_p / student_p)).sum()
    labelled, _ = cross_entropy(logits, batch["label"], batch["mask"])
    np.testing.assert_allclose(scalars[0], 0.7 * labelled + 0.3 * 16 * divergence, rtol=1e-4)


def test_a_student_that_says_the_same_has_no_loss():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    mask = jnp.asarray([1.0, 1, 0, 1])
    assert distillation_loss(logits, logits + 1.0, mask, 2.0) == pytest.approx(0, abs=1e-6)
    one = distillation_loss(logits, -logits, mask, 2.0)
    assert one == pytest.approx(distillation_loss(logits, -logits, mask.at[2].set(0), 2.0))
    assert one > 0.1


def test_the_teacher_sees_the_student_s_augmented_images(package):
    config = student(package, pipeline={"augment": {"crop_padding": 2, "horizontal_flip": True}})
    experiment, key, _, batch, _ = first_update(config)
    updates = make_updates(config, experiment, on_bad=lambda found: None)
    said = updates._lesson(key, batch)["teacher"]
    plain = load_package(package).predict_logits(np.asarray(batch["image"]))
    assert np.abs(said - plain).max() > 1e-2


def test_a_taught_run_goes_on_bit_for_bit_and_notes_its_teacher(package, tmp_path):
    config = student(package, checkpoint={"every_steps": 4})
    whole = run(config, workdir=tmp_path / "whole", tracker=RecordingTracker())
    workdir = tmp_path / "cut"
    run(config, workdir=workdir, tracker=RecordingTracker(), stop_requested=lambda step: step == 7)
    again = run(config, workdir=workdir, tracker=RecordingTracker())
    assert compute_digest(again.state) == compute_digest(whole.state)
    noted = json.loads((workdir / "manifest.json").read_text())["teacher"]
    manifest = json.loads((package / "manifest.json").read_text())
    assert noted == {"package": str(package), "sha256": manifest["files"]["model.safetensors"]["sha256"]}


def test_another_teacher_is_refused_where_a_run_goes_on(package, tmp_path):
    held, workdir = tmp_path / "package", tmp_path / "run"
    shutil.copytree(package, held)
    config = student(held)
    run(config, workdir=workdir, tracker=RecordingTracker(), stop_requested=lambda step: step == 3)
    other = tmp_path / "other"
    run(tiny_config(seed=5, training={"num_epochs": 1}), workdir=other, tracker=RecordingTracker())
    shutil.rmtree(held)
    shutil.copytree(write_package(other, today=TODAY), held)
    with pytest.raises(DataError, match="was taught by"):
        run(config, workdir=workdir, tracker=RecordingTracker())


def test_what_cannot_be_taught_is_refused(package, tmp_path):
    data = make_experiment(tiny_config()).data
    with pytest.raises(ConfigError, match="expected 1, found 2"):
        open_teacher(student(package, training={"steps_per_dispatch": 2}), data)
    with pytest.raises(ConfigError, match="in their order"):
        open_teacher(student(package), make_experiment(tiny_config(data={"params": {"num_classes": 3}})).data)
    coloured = make_experiment(tiny_config(data={"params": {"channels": 3}})).data
    with pytest.raises(ConfigError, match="take a package for these images"):
        open_teacher(student(package), coloured)
    with pytest.raises(DataError, match="nowhere"):
        open_teacher(student(tmp_path / "nowhere"), data)
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(package / "model.safetensors", bare)
    with pytest.raises(DataError, match="no package; expected a folder that mlvlab package made"):
        open_teacher(student(bare), data)
