"""Plans of tiny runs on fake devices: what is held, computed, sent, and whether it fits."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from mlvlab_jax.data.open import describe_data, open_data
from mlvlab_jax.data.shape import DataShape
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.step import compile_train_step, make_train_step
from mlvlab_jax.errors import ConfigError, DataError
from mlvlab_jax.hardware import Hardware
from mlvlab_jax.planning import plan as plan_module
from mlvlab_jax.planning.plan import Target, make_plan
from mlvlab_jax.planning.roofline import compute_roofline
from mlvlab_jax.planning.search import MAX_CANDIDATES, describe_changes, find_fit, search
from mlvlab_jax.planning.shape import find_shape
from mlvlab_jax.planning.step import describe_batch
from mlvlab_jax.types import ImageSpec
from tests.conftest import tiny_config

SHAPE = DataShape(ImageSpec(8, 8, 1), 10, 72)
VIT = {"name": "vision_transformer", "params": {"hidden_size": 64, "num_heads": 4, "num_layers": 1, "patch_size": 4}}
PLAIN = {"augment": {"crop_padding": 0, "horizontal_flip": False}}
FAKE = Hardware("fake", 1e12, 1e9, 1e11, 1e10, "this test")


def plan(devices=4, memory_bytes=None, shape=SHAPE, **changes):
    config = tiny_config(**{"model": VIT, "pipeline": PLAIN, "mesh": {"data": devices}, **changes})
    return make_plan(config, shape, Target(jax.devices()[:devices], memory_bytes))


@pytest.fixture
def fake_hardware(monkeypatch):
    monkeypatch.setattr(plan_module, "find_hardware", lambda kind: FAKE)


def test_what_is_held_is_what_training_would_hold():
    config = tiny_config(model=VIT, pipeline=PLAIN, mesh={"data": 2, "fsdp": 4}, training={"ema_decay": 0.9})
    memory = make_plan(config, SHAPE, Target(jax.devices())).step.memory
    state = make_experiment(config).state

    def held(tree):
        return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))

    assert memory["params"] == held(state.variables.params) == memory["ema"]
    assert memory["params"] < sum(leaf.nbytes for leaf in jax.tree.leaves(state.variables.params)) / 2
    assert memory["optimizer"] == held((state.opt_state, state.step, state.key))
    assert memory["batch"] == 16 // 8 * (64 + 4 * 4)
    assert memory["activations"] > 0


def test_the_planned_step_is_the_one_that_trains():
    config = tiny_config(mesh={"data": 4, "fsdp": 2})
    experiment = make_experiment(config)
    pure = make_train_step(experiment.model, experiment.optimizer, config.training, config.pipeline)
    step = compile_train_step(pure, experiment.layout, experiment.mesh)
    trained = step.lower(experiment.state, describe_batch(16, SHAPE)).compile()
    planned = make_plan(config, experiment.data.shape, Target(jax.devices())).step
    assert planned.traffic.compiler_flops == trained.cost_analysis()["flops"]
    assert planned.memory["activations"] == trained.memory_analysis().temp_size_in_bytes
    assert planned.num_steps == experiment.horizon.num_steps


def test_flops_of_products_are_those_on_paper():
    # Patches 4 x (16 x 64); qkv, out and MLP 12 x 64^2 a token and attention 2 x 5 x 64, head 64 x 10.
    tokens = 5
    forward = 2 * (4 * 16 * 64 + (tokens * 12 * 64**2 + 2 * tokens * tokens * 64) + 64 * 10)
    step = plan(devices=1).step
    assert step.model_flops == pytest.approx(16 * 3 * forward, rel=0.01)
    assert step.flops == pytest.approx(step.model_flops, rel=0.02)  # nothing needs the gradient of the pixels
    assert plan(devices=1, training={"accumulation_steps": 4}).step.flops == step.flops


def test_the_slowest_of_three_bounds_the_step_and_a_price_makes_a_cost(fake_hardware):
    config = tiny_config(model=VIT, pipeline=PLAIN, mesh={"data": 4}, training={"precision": "bfloat16"})
    made = make_plan(config, SHAPE, Target(jax.devices()[:4], dollars_per_hour=2.0))
    line, step = made.roofline, made.step
    sent = sum(collective.sent_bytes for collective in step.traffic.collectives)
    expected = {"compute": step.flops / 4 / 1e12, "memory": step.traffic.memory_bytes / 1e11, "network": sent / 1e10}
    assert line.seconds == expected
    assert line.step_s == max(expected.values()) == expected[line.bound]
    assert made.images_per_second == 16 / line.step_s
    assert line.mfu == step.model_flops / (4 * 1e12 * line.step_s)
    assert made.dollars == pytest.approx(18 * line.step_s / 3600 * 4 * 2.0)
    # What float32 products can do on this device is not in the table.
    assert compute_roofline(step, FAKE, num_devices=4, precision="float32") is None


def test_an_unknown_device_gives_no_times():
    made = plan()
    assert made.roofline is made.hours is made.dollars is made.fits is None
    assert json.loads(json.dumps(made.to_tree()))["fits"] is None


def test_gradients_of_a_sharded_model_are_not_all_reduced_whole():
    """Every parameter's share, and no more than a few whole ones, goes round."""
    kinds = {c.kind for c in plan(mesh={"data": 1, "fsdp": 4}).step.traffic.collectives}
    assert "all-gather" in kinds
    assert {c.kind for c in plan().step.traffic.collectives} == {"all-reduce"}


def test_what_does_not_fit_is_made_to_fit_by_a_change_that_was_compiled():
    made = plan(training={"batch_size": 64})
    held = sum(made.step.memory[name] for name in ("params", "optimizer", "batch"))
    tight = dataclasses.replace(made, capacity_bytes=made.step.needed_bytes - 1)
    assert plan(training={"batch_size": 64}, memory_bytes=made.step.needed_bytes).fits
    assert not tight.fits

    def make(config):
        return make_plan(config, SHAPE, Target(jax.devices()[:4], tight.capacity_bytes))

    fit = find_fit(tight, make)
    assert fit.changes == {"mesh.data": 1, "mesh.fsdp": 4}
    assert fit.plan.fits
    assert make(fit.plan.config).step.needed_bytes == fit.plan.step.needed_bytes <= tight.capacity_bytes
    assert find_fit(dataclasses.replace(made, capacity_bytes=held // 8), lambda config: tight) is None


def test_a_search_ranks_what_it_compiled(fake_hardware):
    compiled = []
    config = tiny_config(model=VIT, pipeline=PLAIN, mesh={"data": 4}, training={"precision": "bfloat16"})

    def make(changed):
        compiled.append(changed)
        return make_plan(changed, SHAPE, Target(jax.devices()[:4]))

    found = search(make_plan(config, SHAPE, Target(jax.devices()[:4])), make)
    assert len(found) == len(compiled) + 1 <= MAX_CANDIDATES
    times = [candidate.plan.roofline.step_s for candidate in found]
    assert times == sorted(times)
    assert "mesh.data=1 mesh.fsdp=4 mesh.tensor=1" in [describe_changes(candidate.changes) for candidate in found]


@pytest.mark.parametrize(
    "changes",
    [{}, {"pipeline": {"validation_fraction": 0.0, "preprocess": {"size": [6, 6], "channels": 3}}}],
)
def test_a_description_is_that_of_the_opened_data(changes):
    config = tiny_config(**changes)
    opened = open_data(config.data, config.pipeline, seed=config.seed)
    assert describe_data(config.data, config.pipeline, seed=config.seed) == opened.shape
    assert opened.shape.num_train == (72 if not changes else 80)


def test_data_that_is_not_there_can_be_described():
    config = tiny_config(
        data={"name": "image_folder", "params": {"path": "nowhere"}}, pipeline={"preprocess": {"size": [32, 24]}}
    )
    with pytest.raises(DataError, match="--num-classes, --num-train and pipeline.preprocess.size"):
        find_shape(config, num_classes=None, num_train=None)
    assert find_shape(config, num_classes=5, num_train=99) == DataShape(ImageSpec(32, 24, 3), 5, 99)
    with pytest.raises(ConfigError, match="expected both"):
        find_shape(config, num_classes=5, num_train=None)
    with pytest.raises(ConfigError, match="expected their size"):
        find_shape(tiny_config(), num_classes=5, num_train=99)


def test_a_mesh_of_another_size_is_refused_with_the_numbers():
    with pytest.raises(ConfigError, match="does not make 4 devices"):
        make_plan(tiny_config(mesh={"data": 3}), SHAPE, Target(jax.devices()[:4]))
    with pytest.raises(ConfigError, match="multiple of 12"):
        make_plan(tiny_config(mesh={"data": 4}, training={"accumulation_steps": 3}), SHAPE, Target(jax.devices()[:4]))


def test_several_labels_make_another_batch():
    batch = describe_batch(4, SHAPE._replace(multi_label=True))
    assert (batch["label"].shape, batch["label"].dtype) == ((4, 10), np.uint8)
