"""Forms of the vision transformer: what each adds, what it leaves alone, and which do not go together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.models.nets.api import Variables
from mlvlab_jax.models.nets.positions import axial_angles, sincos_positions, turn
from mlvlab_jax.models.stacking import stack_blocks
from mlvlab_jax.models.vit import VisionTransformerParams
from mlvlab_jax.plugins import MODELS, Spec
from mlvlab_jax.trees import named_leaves
from mlvlab_jax.types import ImageSpec

IMAGE = ImageSpec(8, 12, 3)
KEY = jax.random.key(0)
SIZE = {"hidden_size": 16, "num_heads": 2, "num_layers": 2, "patch_size": 4}
FORMS = {
    "DeiT-III": {"position": "learned_patches", "layer_scale": 0.3},
    "registers and a mean, normalised": {"registers": 4, "pool": "gap", "final_norm": "pooled"},
    "SigLIP": {"pool": "map", "registers": 1},
    "rope": {"position": "rope", "registers": 2, "qk_norm": True},
    "sincos": {"position": "sincos", "gelu": "exact"},
}


def build(**params):
    spec = Spec("vision_transformer", params_from(VisionTransformerParams, SIZE | params))
    return MODELS.build(spec, num_classes=3, image=IMAGE, dtype=jnp.float32)


def draw_params(model):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, KEY).params
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


def draw_images(count=3):
    return jax.random.normal(jax.random.key(1), (count, *IMAGE))


@pytest.mark.parametrize("form", FORMS)
def test_a_loop_over_blocks_gives_what_the_blocks_give_one_by_one(form):
    alone, looped = build(**FORMS[form]), build(**FORMS[form], scan_layers=True)
    params = draw_params(alone)
    expected, found = (
        jax.jit(model.intermediates)(Variables(tree, {}), draw_images())
        for model, tree in ((alone, params), (looped, stack_blocks(params)))
    )
    assert set(expected) == set(found) == {"block_00", "block_01", "embedding"}
    for name, value in expected.items():
        assert np.ptp(value) > 0.1
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scan", [False, True])
def test_what_blocks_give_takes_no_memory_where_only_the_embedding_is_asked_for(scan):
    model = build(num_layers=4, pool="gap", scan_layers=scan)
    arguments = jax.eval_shape(model.init, KEY), jax.ShapeDtypeStruct((64, *IMAGE), jnp.float32)

    def measure(function):
        return jax.jit(function).lower(*arguments).compile().memory_analysis()

    plain, embedding, parts = (
        measure(f) for f in (lambda v, x: model.apply(v, x, KEY, False)[0], model.embed, model.intermediates)
    )
    assert embedding.temp_size_in_bytes == plain.temp_size_in_bytes
    assert parts.output_size_in_bytes >= 4 * 64 * 6 * 16 * 4


@pytest.mark.parametrize("form", FORMS)
def test_every_array_of_a_form_changes_the_logits(form):
    model = build(**FORMS[form])
    params = draw_params(model)
    loss = lambda params: (model.apply(Variables(params, {}), draw_images(), KEY, True)[0] ** 2).sum()  # noqa: E731
    for name, gradient in named_leaves(jax.jit(jax.grad(loss))(params)):
        assert np.abs(gradient).max() > 0, name


def shapes_of(**params):
    return {name: leaf.shape for name, leaf in named_leaves(jax.eval_shape(build(**params).init, KEY).params)}


def test_an_embedding_has_a_place_for_the_class_token_where_it_is_learned_for_all():
    assert shapes_of()["pos_embed"] == (1, 7, 16)
    assert shapes_of(registers=4)["pos_embed"] == (1, 7, 16)
    assert shapes_of(position="learned_patches")["pos_embed"] == (1, 6, 16)
    assert shapes_of(pool="gap")["pos_embed"] == (1, 6, 16)
    for position in ("rope", "sincos"):
        assert "pos_embed" not in shapes_of(position=position)


def test_options_that_are_off_leave_no_arrays():
    extra = shapes_of(layer_scale=1e-4, qk_norm=True, registers=4).keys() - shapes_of().keys()
    assert {name.removeprefix("block0/") for name in extra if "block1" not in name} == {
        *("attention_scale", "mlp_scale", "registers"),
        *(f"attention/{which}_norm/{what}" for which in "qk" for what in ("scale", "bias")),
    }


@pytest.mark.parametrize("pool", ["gap", "map"])
def test_registers_have_no_part_in_pooling(pool):
    # Without blocks that mix tokens, what the registers hold cannot reach the logits.
    model = build(pool=pool, registers=2)
    params = draw_params(model)
    for i in range(2):
        params[f"block{i}"]["attention"]["out"] = jax.tree.map(jnp.zeros_like, params[f"block{i}"]["attention"]["out"])
    logits = [
        jax.jit(lambda p: model.apply(Variables(p, {}), draw_images(), KEY, False)[0])(params | {"registers": tokens})
        for tokens in (params["registers"], params["registers"] + 1)
    ]
    np.testing.assert_array_equal(*logits)
    assert np.ptp(logits[0]) > 0.1


def test_layer_scale_is_the_share_of_each_branch_that_counts():
    model = build(layer_scale=1.0)
    params = draw_params(model)
    scaled = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0 * leaf if path[-1].key.endswith("_scale") else leaf, params
    )
    assert np.ptp(params["block0"]["attention_scale"]) > 0
    found = jax.jit(model.intermediates)(Variables(scaled, {}), draw_images())
    np.testing.assert_array_equal(found["block_00"], found["block_01"])
    assert jax.jit(build(layer_scale=0.25).init)(KEY).params["block1"]["mlp_scale"].tolist() == [0.25] * 16


def test_turned_queries_and_keys_know_only_how_far_apart_they_are():
    rows, columns, width = 4, 5, 8
    angles = axial_angles(rows, columns, width, unturned=1)
    assert angles.shape == (21, 4)
    assert not angles[0].any()
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, width)).astype(np.float32)
    turned = [turn(jnp.tile(x, (1, 21, 1, 1)), jnp.asarray(angles))[0, :, 0] for x in (query, key)]
    np.testing.assert_allclose(turned[0][0], query, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(turned[0], axis=1), np.linalg.norm(query), rtol=1e-5)
    products = np.asarray(turned[0] @ turned[1].T)[1:, 1:].reshape(rows, columns, rows, columns)
    for row, column in ((0, 0), (1, 2), (2, 3)):
        np.testing.assert_allclose(products[row, column, row + 1, column + 1], products[0, 0, 1, 1], rtol=1e-4)
    assert abs(products[0, 0, 1, 0] - products[0, 0, 0, 1]) > 1e-3
    # By hand: the first pair of the columns' half turns by one radian a column.
    expected = query[0] * np.cos(2) - query[1] * np.sin(2)
    np.testing.assert_allclose(turned[0][1 + 2][0], expected, rtol=1e-5)


def test_queries_that_are_normalised_do_not_grow_with_their_kernel():
    model = build(qk_norm=True, num_layers=1)
    params = draw_params(model)
    apply = jax.jit(lambda p: model.apply(Variables(p, {}), draw_images(), KEY, False)[0])
    qkv = params["block0"]["attention"]["qkv"]
    by_head = qkv["kernel"].reshape(16, 2, 3, 8) * np.array([10.0, 10.0, 1.0])[:, None]
    bias = qkv["bias"].reshape(2, 3, 8) * np.array([10.0, 10.0, 1.0])[:, None]
    grown = {"kernel": by_head.reshape(16, 48).astype(np.float32), "bias": bias.reshape(48).astype(np.float32)}
    attention = params["block0"]["attention"] | {"qkv": grown}
    changed = params | {"block0": params["block0"] | {"attention": attention}}
    np.testing.assert_allclose(apply(changed), apply(params), rtol=1e-3, atol=1e-4)


def test_sincos_positions_are_distinct_and_bounded():
    table = sincos_positions(3, 5, 16)[0]
    assert table.shape == (15, 16)
    assert np.abs(table).max() <= 1
    assert len(np.unique(table.round(5), axis=0)) == 15


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"final_norm": "pooled"}, "found pool 'cls'; expected pool 'gap', or final_norm 'tokens'"),
        ({"final_norm": "pooled", "pool": "map"}, "found pool 'map'"),
        ({"position": "rope", "num_heads": 8}, "heads of a multiple of 4, found hidden_size / num_heads 2"),
        ({"registers": -1}, "greater than or equal to 0"),
        ({"position": "sincos", "hidden_size": 18}, "a multiple of 4, found 18"),
        ({"num_heads": 3}, "num_heads 3 does not divide hidden_size 16; expected a divisor; 2 fits"),
    ],
)
def test_forms_that_do_not_go_together_are_refused(params, expected):
    with pytest.raises(ValidationError, match=expected):
        params_from(VisionTransformerParams, SIZE | params)
