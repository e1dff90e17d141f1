"""What the last layer is given, computed by hand from the outputs of the layers before it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.models.cnn import CnnParams
from mlvlab_jax.models.nets.api import from_linen
from mlvlab_jax.models.nets.cnn import Cnn
from mlvlab_jax.models.nets.resnet import ResNet
from mlvlab_jax.models.nets.vit import VisionTransformer
from mlvlab_jax.models.resnet import ResNetParams
from mlvlab_jax.models.vit import Size, VisionTransformerParams
from mlvlab_jax.types import ImageSpec

IMAGE = ImageSpec(8, 8, 3)
SIZE = Size(hidden_size=16, num_layers=1, num_heads=2, mlp_dim=32)


def vit(pool):
    params = params_from(VisionTransformerParams, {"pool": pool, "dropout": 0.1})
    return VisionTransformer(params=params, size=SIZE, patch_size=4, num_classes=5, dtype=jnp.float32)


def last(outputs, name):
    """Output of a layer, as flax itself captures it."""
    (value,) = outputs[name]["__call__"]
    return np.asarray(value, np.float64)


CASES = {
    "cnn": (
        lambda: Cnn(params=CnnParams(widths=(4, 6), convs_per_stage=1, dropout=0.5), num_classes=5, dtype=jnp.float32),
        lambda outputs: np.asarray(nn.gelu(last(outputs, "stage1_0_norm")), np.float64).mean((1, 2)),
    ),
    "resnet": (
        lambda: ResNet(params=ResNetParams(width=2, stem="small"), num_classes=5, dtype=jnp.float32),
        lambda outputs: last(outputs, "stage3_1").mean((1, 2)),
    ),
    "vit by token": (lambda: vit("cls"), lambda outputs: last(outputs, "norm")[:, 0]),
    "vit by mean": (lambda: vit("gap"), lambda outputs: last(outputs, "norm").mean(1)),
}


def draw_variables(model):
    """Random numbers of the shapes of the model's arrays; variances are positive."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: np.abs(rng.normal(0, 0.5, leaf.shape)).astype(np.float32), shapes)


@pytest.mark.parametrize("name", CASES)
def test_the_embedding_is_what_the_head_is_given(name):
    make, compute = CASES[name]
    module = make()
    model = from_linen(module, IMAGE)

    @jax.jit
    def forward(variables, image):
        arrays = {"params": variables.params, **variables.state}
        _, captured = module.apply(arrays, image, False, capture_intermediates=True, mutable=["intermediates"])
        return model.describe(variables, image)[1], captured["intermediates"]

    image = np.random.default_rng(1).normal(size=(3, *IMAGE)).astype(np.float32)
    embedding, captured = forward(draw_variables(model), image)
    expected = compute(captured)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(embedding, expected, rtol=1e-4)
