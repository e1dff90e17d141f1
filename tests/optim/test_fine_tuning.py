"""Parameters that stay as they are, for good or for a while, and layers that learn at rates of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.config.training import FreezeConfig, TrainingConfig
from mlvlab_jax.data.shape import DataShape
from mlvlab_jax.engine.experiment import make_experiment, make_learner
from mlvlab_jax.engine.loop import run
from mlvlab_jax.engine.step import make_train_step
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.models.stacking import STACKED_BLOCKS, stack_blocks
from mlvlab_jax.optim.chain import make_optimizer
from mlvlab_jax.optim.fine_tuning import scales
from mlvlab_jax.plugins import OPTIMIZERS, SCHEDULES, Spec
from mlvlab_jax.trees import named_leaves
from mlvlab_jax.types import ImageSpec
from tests.conftest import RecordingTracker, tiny_config
from tests.contracts.test_optimizers import HORIZON, PARAMS

VIT = {
    "name": "vision_transformer",
    "params": {"hidden_size": 8, "num_heads": 1, "num_layers": 3, "mlp_dim": 8, "patch_size": 4},
}
RESNET = {"name": "resnet", "params": {"width": 4, "stem": "small"}}
CONVNEXT = {"name": "convnext", "params": {"widths": [4, 8], "depths": [1, 2]}}
KEY = jax.random.key(0)
GRADIENTS = jax.tree.map(jnp.ones_like, PARAMS)


def make(name="adamw", *, freeze=(), **training):
    return make_optimizer(
        Spec(name, params_from(OPTIMIZERS.entry(name).params, {"weight_decay": 0.1})),
        Spec("constant", params_from(SCHEDULES.entry("constant").params, {})),
        TrainingConfig(
            freeze=tuple(FreezeConfig(**dict(zip(("params", "until_epoch"), rule, strict=False))) for rule in freeze),
            **training,
        ),
        HORIZON,
    ).tx


def norms(tree):
    return {name: float(jnp.abs(leaf).max()) for name, leaf in named_leaves(tree)}


# schedule_free_adamw averages all weights, so none may be frozen: see tests/contracts/test_optimizers.py.
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS.names() if name != "schedule_free_adamw"])
def test_what_is_frozen_has_no_update_and_no_state_and_the_rest_has_that_of_always(name):
    tx, plain = make(name, freeze=[("^(?!head)",)]), make(name)
    state = tx.init(PARAMS)
    assert not [leaf for leaf in jax.tree.leaves(state) if leaf.shape in {(3, 3, 2, 4), (4, 6), (6,)}]
    updates, _ = tx.update(GRADIENTS, state, PARAMS)
    found = norms(updates)
    assert {layer for layer, size in found.items() if size} == {"head/kernel"}
    expected, _ = plain.update(GRADIENTS, plain.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["head"]["kernel"], expected["head"]["kernel"], rtol=1e-6)


def test_what_is_frozen_for_a_while_begins_with_updates_of_the_usual_size():
    tx, plain = make(freeze=[("conv", 0.3), ("dense/bias", 0.1)]), make()
    state, other = tx.init(PARAMS), plain.init(PARAMS)
    for count in range(5):  # ten steps an epoch
        updates, state = tx.update(GRADIENTS, state, PARAMS)
        expected, other = plain.update(GRADIENTS, other, PARAMS)
        frozen = {"conv/kernel": count < 3, "dense/bias": count < 1}
        for (layer, found), (_, usual) in zip(named_leaves(updates), named_leaves(expected), strict=True):
            np.testing.assert_array_equal(found, jnp.zeros_like(usual) if frozen.get(layer) else usual)


@pytest.mark.parametrize(("freeze", "path"), [([("^conv",), ("haed", 2.0)], r"\[1\]\.params"), ([(".",)], "")])
def test_rules_that_decide_nothing_or_everything_are_refused(freeze, path):
    with pytest.raises(ConfigError, match="found in none of 4 parameters|all parameters are frozen") as caught:
        make(freeze=freeze).init(PARAMS)
    assert caught.value.path == "training.freeze" + path.replace("\\", "")


def shapes_of(model):
    shape = DataShape(ImageSpec(8, 8, 1), 10, 80)
    return jax.eval_shape(make_learner(tiny_config(model=model), shape, device=jax.devices()[0]).model.init, KEY).params


@pytest.mark.parametrize(
    ("model", "blocks"),
    [
        (VIT, ["block0", "block1", "block2"]),
        (RESNET, [f"stage{s}_{i}" for s in range(4) for i in range(2)]),
        (CONVNEXT, ["stage0_0", "stage1_0", "stage1_1"]),
    ],
)
def test_layers_nearer_to_the_images_learn_more_slowly(model, blocks):
    found = {}
    for name, scale in named_leaves(scales(shapes_of(model), 0.5)):
        found.setdefault(name.split("/")[0], set()).add(scale)
    assert found.pop("head") == found.pop("norm", {1.0}) == {1.0}
    for index, block in enumerate(blocks):
        assert found.pop(block) == {0.5 ** (len(blocks) - index)}
    between = [found.pop(name) for name in list(found) if name.startswith("stage1_")]
    assert between == [{0.25}, {0.25}] * (model is CONVNEXT)
    assert list(found.values()) == [{0.5 ** (len(blocks) + 1)}] * (3 if model is VIT else 2)


def test_stacked_blocks_learn_at_the_rates_of_single_ones():
    params = make_experiment(tiny_config(model=VIT)).state.variables.params
    single, stacked = scales(params, 0.75), scales(stack_blocks(params), 0.75)
    for name, scale in named_leaves(stacked[STACKED_BLOCKS]):
        rows = [dict(named_leaves(single[f"block{i}"]))[name] for i in range(3)]
        np.testing.assert_allclose(scale, rows, rtol=1e-6)
    assert stacked["head"] == single["head"]
    updates = jax.tree.map(jnp.ones_like, stack_blocks(params))
    tx = make("sgd", layer_decay=0.75)
    moved, _ = tx.update(updates, tx.init(updates), updates)
    kernel = moved[STACKED_BLOCKS]["mlp_in"]["kernel"]
    np.testing.assert_allclose(kernel[0] / kernel[2], 0.75**2, rtol=1e-5)


def test_layers_without_an_order_are_refused():
    tx = make("sgd", layer_decay=0.75)
    with pytest.raises(ConfigError, match="the order of the layers is not known from the parameters conv/kernel"):
        tx.update(GRADIENTS, tx.init(PARAMS), PARAMS)


def test_a_run_with_a_frozen_backbone_trains_its_head_alone_and_computes_no_other_gradient(tmp_path):
    config = tiny_config(model=VIT, training={"freeze": [{"params": "^(?!head)"}], "ema_decay": 0.9})
    before = make_experiment(config)
    result = run(config, workdir=tmp_path / "run", tracker=RecordingTracker())
    after = result.state.variables.params
    moved = {
        name
        for (name, old), (_, new) in zip(
            named_leaves(jax.device_get(before.state.variables.params)),
            named_leaves(jax.device_get(after)),
            strict=True,
        )
        if not np.array_equal(old, new)
    }
    assert moved == {"head/kernel", "head/bias"}

    def count_flops(config):
        experiment = make_experiment(config)
        step = make_train_step(experiment.model, experiment.optimizer, config.training, config.pipeline)
        batch = {
            "image": np.zeros((16, 8, 8, 1), np.uint8),
            "label": np.zeros(16, np.int32),
            "example_id": np.zeros(16, np.int32),
            "epoch": np.zeros(16, np.int32),
            "mask": np.ones(16, np.float32),
        }
        state = jax.eval_shape(lambda: experiment.state)
        return str(jax.make_jaxpr(step)(state, batch)).count("dot_general")

    assert count_flops(config) < 0.5 * count_flops(tiny_config(model=VIT))
