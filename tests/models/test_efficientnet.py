"""EfficientNetV2: sizes of its stages, and attention to channels by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.models.efficientnet import EfficientNetV2Params, Stage
from mlvlab_jax.models.nets import efficientnet
from mlvlab_jax.plugins import MODELS, Spec
from mlvlab_jax.types import ImageSpec

KEY = jax.random.key(0)


def trace(side, **params):
    """Shapes of the intermediates for two images."""
    spec = Spec("efficientnet_v2", params_from(EfficientNetV2Params, params))
    model = MODELS.build(spec, num_classes=3, image=ImageSpec(side, side, 3), dtype=jnp.float32)
    image = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    found = jax.eval_shape(model.intermediates, jax.eval_shape(model.init, KEY), image)
    return {name: leaf.shape for name, leaf in found.items()}


@pytest.mark.parametrize(("side", "stem_stride", "last"), [(224, 2, 7), (225, 2, 8), (32, 1, 2), (33, 2, 2)])
def test_strides_halve_upwards(side, stem_stride, last):
    found = trace(side, stem_stride=stem_stride)
    assert found["stage_5"] == (2, last, last, 192)
    assert found["embedding"] == (2, 1280)


def test_factors_round_channels_to_eights_and_blocks_upwards():
    stem, stages, top = EfficientNetV2Params(variant="B2").resolved()
    assert (stem, top) == (32, 1408)
    assert [(stage.channels, stage.num_blocks) for stage in stages] == [
        *((16, 2), (32, 3), (56, 3)),
        *((104, 4), (120, 6), (208, 10)),
    ]
    _, stages, top = EfficientNetV2Params(width=0.01, depth=0.01).resolved()
    assert {(stage.channels, stage.num_blocks) for stage in stages} == {(8, 1)}
    assert top == 16


def test_channels_are_weighed_by_the_means_of_all():
    stage = Stage("depthwise", 1, 2, 8, 1)
    block = efficientnet.Block(EfficientNetV2Params(), stage, 2, 0.0, jnp.float32)
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 8))
    x = jnp.asarray(x, jnp.float32)
    shapes = jax.eval_shape(lambda x: block.init(KEY, x, False), x)
    rng = np.random.default_rng(1)
    arrays = jax.tree.map(lambda leaf: np.abs(rng.normal(size=leaf.shape)).astype(np.float32), shapes)
    out, captured = block.apply(
        jax.tree.map(jnp.asarray, arrays), x, False, capture_intermediates=True, mutable=["intermediates"]
    )
    parts = {
        name: np.asarray(of["__call__"][0]) for name, of in captured["intermediates"].items() if name != "__call__"
    }
    filtered = parts["depthwise_norm"]
    filtered = filtered / (1 + np.exp(-filtered))
    assert filtered.shape == (2, 3, 3, 8)
    dense = arrays["params"]
    squeezed = filtered.mean((1, 2)) @ dense["squeeze"]["kernel"] + dense["squeeze"]["bias"]
    excited = (squeezed / (1 + np.exp(-squeezed))) @ dense["excite"]["kernel"] + dense["excite"]["bias"]
    weighed = filtered / (1 + np.exp(-excited))[:, None, None]
    np.testing.assert_allclose(parts["project"], weighed @ dense["project"]["kernel"][0, 0], rtol=1e-3)
    np.testing.assert_array_equal(out, parts["project_norm"])


def test_stochastic_depth_rises_from_the_first_block_to_the_last(monkeypatch):
    rates = []
    monkeypatch.setattr(
        efficientnet, "StochasticDepth", lambda rate: rates.append(rate) or (lambda branch, train: branch)
    )
    trace(32, stochastic_depth=0.2, variant="B0")
    # Blocks that change the shape, here 1 and the first of all others, have nothing to be skipped for.
    blocks = [i for i in range(21) if i not in (0, 1, 3, 5, 8, 13)]
    np.testing.assert_allclose(rates[: len(blocks)], [0.2 * i / 20 for i in blocks], rtol=1e-6)
