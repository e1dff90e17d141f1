import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from mlvlab_jax.engine.flops import count_flops
from mlvlab_jax.plugins import MODELS
from mlvlab_jax.types import ImageSpec
from tests.conftest import tiny_config


def shape(*dims):
    return jax.ShapeDtypeStruct(dims, jnp.float32)


def test_products_and_convolutions_by_hand():
    assert count_flops(lambda a, b: a @ b, shape(3, 5), shape(5, 7)) == 2 * 3 * 5 * 7
    assert (
        count_flops(lambda a, b: jnp.einsum("bij,bkj->bik", a, b), shape(4, 3, 5), shape(4, 6, 5)) == 2 * 4 * 3 * 6 * 5
    )
    convolve = lambda x, w: jax.lax.conv_general_dilated(  # noqa: E731
        x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=4
    )
    assert count_flops(convolve, shape(2, 8, 8, 16), shape(3, 3, 4, 32)) == 2 * (2 * 4 * 4 * 32) * 3 * 3 * 4
    assert count_flops(lambda x: x + 1, shape(3)) == 0


def test_a_loop_counts_as_often_as_it_runs_and_recomputation_once():
    def unrolled(x, w):
        for k in range(5):
            x = jnp.tanh(x @ w[k])
        return x

    def scanned(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    arguments, expected = (shape(3, 4), shape(5, 4, 4)), 5 * 2 * 3 * 4 * 4
    assert count_flops(unrolled, *arguments) == expected
    assert count_flops(jax.jit(scanned), *arguments) == expected
    assert count_flops(jax.checkpoint(unrolled), *arguments) == expected
    assert count_flops(lambda x, w: jax.lax.cond(x[0, 0] > 0, unrolled, lambda x, w: x, x, w), *arguments) == expected


def test_the_parts_of_a_shard_map_add_up(monkeypatch):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    product = jax.shard_map(lambda a, b: a @ b, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))
    assert count_flops(product, shape(16, 4), shape(4, 4)) == 2 * 16 * 4 * 4


def test_a_loop_of_unknown_length_has_no_known_count():
    def until(x, w):
        return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ w, x)

    assert count_flops(until, shape(4, 4), shape(4, 4)) is None
    assert count_flops(lambda x: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x + 1, x), shape(4)) == 0


@pytest.mark.parametrize(
    ("name", "params"),
    [("cnn", {"widths": [32, 64]}), ("resnet", {}), ("vision_transformer", {"variant": "Ti", "patch_size": 16})],
)
def test_three_times_the_forward_pass_is_what_xla_counts_of_a_gradient(name, params):
    spec = tiny_config(model={"name": name, "params": params}).model
    model = MODELS.build(spec, num_classes=10, image=ImageSpec(224, 224, 3), dtype=jnp.float32)
    variables, image = jax.eval_shape(model.init, jax.random.key(0)), shape(2, 224, 224, 3)

    def apply(variables, image):
        return model.apply(variables, image, jax.random.key(0), True)[0]

    def loss(params, variables, image):
        return apply(variables._replace(params=params), image).sum()

    of_xla = jax.jit(jax.grad(loss)).lower(variables.params, variables, image).cost_analysis()["flops"]
    # XLA counts element-wise arithmetic too, but no gradient of the pixels, and no products with padding.
    assert 3 * count_flops(apply, variables, image) == pytest.approx(of_xla, rel=0.1)
