import functools
from pathlib import Path

import jax
import numpy as np
import pytest

from mlvlab_jax.config.weights import WeightsConfig
from mlvlab_jax.plugins import MODELS
from mlvlab_jax.trees import named_leaves
from mlvlab_jax.types import ImageSpec
from mlvlab_jax.weights.adapt import Classes
from mlvlab_jax.weights.exporting import Weights, export_arrays
from mlvlab_jax.weights.files import WeightFile
from mlvlab_jax.weights.importing import import_weights, recognise
from mlvlab_jax.weights.table import link, list_differences, theirs_like
from tests.weights.formula import draw_images
from tests.weights.networks import PUBLISHED, SMALL, draw_file, make_target, read_golden, small_target

OPTIONS = WeightsConfig(path="peer.safetensors")


@functools.cache
def import_small(name):
    target, file = small_target(name), draw_file(read_golden("small")[name]["arrays"])
    return target, file, import_weights(file, target, OPTIONS)


def make_variables(arrays, target):
    model = MODELS.build(target.spec, num_classes=target.classes.number, image=target.image, dtype=np.float32)
    like = jax.eval_shape(model.init, jax.random.key(0))
    return model, jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name, _ in named_leaves(like)])


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_array_has_its_place_in_a_published_model(name):
    published = read_golden("published")[name]
    target = make_target(*PUBLISHED[name], image=ImageSpec(224, 224, 3), classes=Classes(1000))
    (peer,) = recognise(WeightFile("", Path(), "", "", dict.fromkeys(published, np.zeros(0))))
    assert (peer.format, peer.model) == (name.split()[0], target.spec.name)
    like = target.like()
    links = link(peer, target.spec.params, image=target.image, like=like)
    assert sorted(ours for each in links for ours in each.ours) == sorted(like)
    expected = theirs_like(links, like)
    constants = {key: () for each in links for key, _ in each.constants}
    found = {key: tuple(shape) for key, shape in published.items()}
    assert list_differences(found, expected | constants, loose=frozenset()) == []


@pytest.mark.parametrize("name", SMALL)
def test_logits_are_those_of_the_peer(name):
    target, _, imported = import_small(name)
    model, variables = make_variables(imported.arrays, target)
    logits, _ = jax.jit(model.apply, static_argnums=3)(variables, draw_images(2, 32), jax.random.key(0), False)
    expected = np.array(read_golden("small")[name]["logits"])
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", SMALL)
def test_what_is_exported_is_bit_for_bit_what_was_imported(name):
    target, file, imported = import_small(name)
    weights = Weights(target.spec.name, target.spec.params, target.image, imported.arrays)
    exported = export_arrays(weights, name.split()[0]).arrays
    assert sorted(exported) == sorted(file.arrays)
    again = import_weights(draw_file({}, **exported), target, OPTIONS)
    for key, array in imported.arrays.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, again.arrays[key], err_msg=key)
    if name != "transformers deit":  # where the position of the second token is a part of it
        for key, array in file.arrays.items():
            np.testing.assert_array_equal(array, exported[key], err_msg=key)
