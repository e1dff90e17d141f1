"""What is computed again gives the same gradient in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.config.training import TrainingConfig
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.models.build import build_model
from mlvlab_jax.models.nets.api import Variables
from mlvlab_jax.plugins import MODELS, Spec
from mlvlab_jax.types import ImageSpec

IMAGE = ImageSpec(16, 16, 1)
KEY = jax.random.key(0)
VIT = {"hidden_size": 32, "num_heads": 2, "num_layers": 6, "patch_size": 2, "stochastic_depth": 0.2}
NETWORKS = {
    "unrolled": ("vision_transformer", VIT),
    "scanned": ("vision_transformer", VIT | {"scan_layers": True, "dropout": 0.1}),
    "resnet": ("resnet", {"depth": 18, "width": 4, "stem": "small"}),
}


def build(network, remat):
    name, params = NETWORKS[network]
    spec = Spec(name, params_from(MODELS.entry(name).params, params))
    training = TrainingConfig(remat=remat)
    return build_model(spec, training=training, num_classes=3, image=IMAGE, device=jax.devices()[0])


def compile_gradient(network, remat):
    """The compiled gradient of a loss, and its arguments, random enough that no path has a zero in it."""
    model = build(network, remat)
    variables = jax.jit(model.init)(KEY)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + 0.02 * rng.normal(size=x.shape).astype(np.float32), variables.params)
    image = jax.random.normal(KEY, (8, *IMAGE))

    def loss(params):
        logits, state = model.apply(Variables(params, variables.state), image, KEY, True)
        return jnp.sum(logits * jnp.arange(3.0)[None]), state

    return jax.jit(jax.grad(loss, has_aux=True)).lower(params).compile(), params


#: Of the memory without, what is left at most.
SHARE = {"unrolled": 0.5, "scanned": 0.5, "resnet": 0.8}
POLICIES = {"unrolled": ("full",), "scanned": ("dots", "dots_without_batch", "full"), "resnet": ("full",)}


@pytest.mark.parametrize("network", ["unrolled", "scanned", pytest.param("resnet", marks=pytest.mark.slow)])
def test_gradients_and_statistics_are_those_without_in_less_memory(network):
    program, params = compile_gradient(network, "none")
    expected, used = program(params), [program.memory_analysis().temp_size_in_bytes]
    for remat in POLICIES[network]:
        program, _ = compile_gradient(network, remat)
        used.append(program.memory_analysis().temp_size_in_bytes)
        for a, b in zip(jax.tree.leaves(program(params)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())
    assert used == sorted(used, reverse=True)
    assert used[-1] < SHARE[network] * used[0]


def test_the_parameters_are_those_without():
    for network in NETWORKS:
        without, again = (jax.eval_shape(build(network, remat).init, KEY) for remat in ("none", "full"))
        assert without == again
    whole, again = (jax.jit(build("unrolled", remat).init)(KEY) for remat in ("none", "full"))
    jax.tree.map(np.testing.assert_array_equal, whole, again)


def test_a_model_that_cannot_is_refused():
    spec = Spec("cnn", params_from(MODELS.entry("cnn").params, {"widths": [4]}))
    with pytest.raises(
        ConfigError, match=r"model 'cnn' cannot.*found 'full'; expected.*\(convnext.*resnet, vision_transformer\)"
    ) as caught:
        build_model(spec, training=TrainingConfig(remat="full"), num_classes=3, image=IMAGE, device=jax.devices()[0])
    assert caught.value.path == "training.remat"
