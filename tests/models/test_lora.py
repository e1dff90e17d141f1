"""Thin matrices beside kernels: what they change, what is trained, and what a package makes of them."""

import datetime

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.config.training import LoraConfig, TrainingConfig
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.loop import run
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.models.build import build_model
from mlvlab_jax.models.nets.api import Variables
from mlvlab_jax.models.nets.lora import add_adapters, merge_adapters
from mlvlab_jax.models.stacking import stack_blocks, unstack_blocks
from mlvlab_jax.package.arrays import read_arrays
from mlvlab_jax.package.build import write_package
from mlvlab_jax.package.load import load_package
from mlvlab_jax.plugins import MODELS, Spec
from mlvlab_jax.trees import named_leaves
from mlvlab_jax.types import ImageSpec
from mlvlab_jax.weights_command import main
from tests.conftest import tiny_config
from tests.engine.test_recovery import NotingTracker
from tests.optim.test_fine_tuning import VIT

LORA = LoraConfig(rank=2, alpha=3.0)
KEY = jax.random.key(7)
IMAGE = jax.random.normal(KEY, (5, 8, 8, 1))


def spec_of(name, **params):
    return Spec(name, params_from(MODELS.entry(name).params, params))


def build(**params):
    spec = spec_of(VIT["name"], **(VIT["params"] | params))
    image = ImageSpec(8, 8, 1)
    return build_model(spec, training=TrainingConfig(), num_classes=10, image=image, device=jax.devices()[0])


def disturb(params):
    """Every adapter away from zero."""
    leaves, treedef = jax.tree.flatten(params)
    return jax.tree.unflatten(treedef, [x + 0.1 * jax.random.normal(KEY, x.shape) for x in leaves])


def test_adapters_change_nothing_at_first_and_as_much_as_their_sum_with_the_kernels_later():
    model = build()
    adapted = add_adapters(model, LORA)
    plain, variables = model.init(KEY), adapted.init(KEY)
    own = {name: leaf.shape for name, leaf in named_leaves(variables.params) if "lora" in name}
    assert len(own) == 2 * 4 * 3
    assert own["block1/attention/qkv/lora_a"] == (8, 2)
    assert own["block1/attention/qkv/lora_b"] == (2, 24)
    expected, _ = model.apply(plain, IMAGE, KEY, False)
    np.testing.assert_array_equal(adapted.apply(variables, IMAGE, KEY, False)[0], expected)
    moved = Variables(disturb(variables.params), {})
    merged = merge_adapters(moved, LORA)
    qkv = moved.params["block1"]["attention"]["qkv"]
    np.testing.assert_allclose(
        merged.params["block1"]["attention"]["qkv"]["kernel"],
        qkv["kernel"] + 1.5 * qkv["lora_a"] @ qkv["lora_b"],
        atol=1e-6,
    )
    assert jax.tree.structure(merged.params) == jax.tree.structure(plain.params)
    found = adapted.describe(moved, IMAGE)
    for one, other in zip(found, model.describe(merged, IMAGE), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert jnp.abs(found[0] - model.apply(Variables(disturb(plain.params), {}), IMAGE, KEY, False)[0]).max() > 1e-3


def test_stacked_blocks_have_a_pair_each():
    model = add_adapters(build(scan_layers=True), LORA)
    variables = Variables(disturb(model.init(KEY).params), {})
    assert variables.params["stacked_blocks"]["mlp_in"]["lora_a"].shape == (3, 8, 2)
    single = Variables(unstack_blocks(variables.params), {})
    assert "lora_a" in single.params["block2"]["mlp_in"]
    whole, parts = merge_adapters(variables, LORA), merge_adapters(single, LORA)
    again = stack_blocks(parts.params)
    for one, other in zip(jax.tree.leaves(whole.params), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_model_without_such_kernels_is_refused():
    spec = spec_of("cnn", widths=[4])
    training = TrainingConfig(lora=LORA)
    model = build_model(spec, training=training, num_classes=3, image=ImageSpec(8, 8, 1), device=jax.devices()[0])
    with pytest.raises(ConfigError, match="found in no kernel of two dims") as caught:
        model.init(KEY)
    assert caught.value.path == "training.lora.kernels"


def test_a_run_trains_adapters_and_head_alone_and_its_package_has_their_sum(tmp_path):
    config = tiny_config(model=VIT, training={"lora": {"rank": 2}, "learning_rate": 0.05})
    before = dict(named_leaves(jax.device_get(make_experiment(config).state.variables.params)))
    tracker = NotingTracker()
    result = run(config, workdir=tmp_path / "run", tracker=tracker)
    assert "training.lora without weights: what is not trained stays as chance made it" in tracker.notes
    variables = jax.tree.map(jnp.asarray, jax.device_get(result.state.variables))
    moved = {name for name, leaf in named_leaves(variables.params) if not np.array_equal(leaf, before[name])}
    assert moved == {name for name in before if "lora" in name or name.startswith("head")}
    momenta = [leaf.shape for name, leaf in named_leaves(result.state.opt_state) if "kernel" in name]
    assert set(momenta) == {(8, 10)}
    package = load_package(write_package(tmp_path / "run", checkpoint="last", today=datetime.date(2026, 1, 1)))
    split = result.experiment.data.splits["test"]
    images = split.fetch(split.ids[:5]).image
    expected, _ = result.experiment.model.apply(variables, jnp.asarray(images / 127.5 - 1, jnp.float32), KEY, False)
    np.testing.assert_allclose(package.predict_logits(images), expected, atol=1e-4)
    file = tmp_path / "timm.safetensors"
    assert (
        main(["export", str(tmp_path / "run"), "--format", "timm", "--checkpoint", "last", "--output", str(file)]) == 0
    )
    merged = merge_adapters(variables, config.training.lora).params["block1"]["mlp_in"]["kernel"]
    np.testing.assert_allclose(read_arrays(file)["blocks.1.mlp.fc1.weight"], merged.T, atol=1e-6)
