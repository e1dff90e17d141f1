"""Stacked layers on a mesh: each lies as it would alone, and trains to the same numbers."""

import jax
import numpy as np
import pytest

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.config.schema import MeshConfig
from mlvlab_jax.engine.mesh import make_mesh
from mlvlab_jax.engine.sharding import shard_params
from mlvlab_jax.models.stacking import stack_blocks
from mlvlab_jax.plugins import MODELS, Spec
from mlvlab_jax.trees import named_leaves
from mlvlab_jax.types import ImageSpec
from tests.conftest import tiny_config
from tests.engine.test_step import train

SIZE = {"hidden_size": 64, "num_heads": 4, "num_layers": 2, "patch_size": 4}
STACKED = {
    "name": "vision_transformer",
    "params": SIZE | {"scan_layers": True, "stochastic_depth": 0.1},
}


@pytest.mark.parametrize(
    "mesh", [{"data": 1, "fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}, {"data": 1, "fsdp": 4, "tensor": 2}]
)
def test_the_layers_stay_whole_and_each_lies_as_alone(mesh):
    mesh = make_mesh(MeshConfig(**mesh))
    spec = Spec("vision_transformer", params_from(MODELS.entry("vision_transformer").params, SIZE))
    model = MODELS.build(spec, num_classes=3, image=ImageSpec(8, 8, 1), dtype=np.float32)
    alone = jax.eval_shape(model.init, jax.random.key(0)).params
    stacked = dict(named_leaves(shard_params(jax.eval_shape(stack_blocks, alone), mesh)))
    num_spread = 0
    for name, sharding in named_leaves(shard_params(alone, mesh)):
        if not name.startswith("block0"):
            continue
        found = stacked[name.replace("block0", "stacked_blocks")].spec
        assert tuple(found) == (None, *sharding.spec), name
        num_spread += any(sharding.spec)
    assert num_spread >= 4  # at least the kernels of the four products


@pytest.mark.slow
def test_a_mesh_trains_stacked_layers_to_what_one_device_does(on_devices):
    changes = {"model": STACKED, "optimizer": {"name": "sgd"}, "training": {"remat": "dots"}}
    spread, losses = train(tiny_config(**changes, mesh={"data": 2, "fsdp": 2, "tensor": 2}), 2)
    kernel = spread.variables.params["stacked_blocks"]["mlp_in"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 32, 128)
    on_devices(1)
    whole, expected = train(tiny_config(**changes, mesh={"data": 1}), 2)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(spread.variables), jax.tree.leaves(whole.variables), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
