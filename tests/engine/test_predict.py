import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlvlab_jax.data.augment import normalize
from mlvlab_jax.data.source import ArraySource
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.predict import Predictor
from tests.conftest import tiny_config


@pytest.fixture(scope="module")
def setup():
    config = tiny_config(mesh={"data": 2, "fsdp": 2, "tensor": 2})
    return config, make_experiment(config)


def predictor(setup, batch_size):
    config, made = setup
    return Predictor(made.model, config.pipeline, layout=made.layout, mesh=made.mesh, batch_size=batch_size)


@pytest.mark.parametrize("batch_size", [5, 64])
def test_every_example_once_in_split_order_whatever_the_batches(setup, batch_size):
    config, made = setup
    split, variables = made.data.splits["validation"], made.state.variables
    outputs = predictor(setup, batch_size)(variables, split, on_bad=lambda found: None)
    np.testing.assert_array_equal(outputs.index, split.ids)
    examples = split.source.fetch(split.ids)
    np.testing.assert_array_equal(outputs.label, examples.label)
    host = jax.device_get(variables)
    logits, _ = made.model.apply(
        host, normalize(jnp.asarray(examples.image), config.pipeline), jax.random.key(0), False
    )
    np.testing.assert_allclose(outputs.logits, logits, atol=1e-5)
    np.testing.assert_allclose(outputs.brightness, examples.image.mean((1, 2, 3)), rtol=1e-6)
    assert [outputs.index.dtype, outputs.label.dtype, outputs.logits.dtype] == [np.int64, np.int32, np.float32]


def test_unreadable_examples_are_left_out_and_told(setup):
    _, made = setup
    split = made.data.splits["test"]
    examples = split.source.fetch(split.ids)
    source = ArraySource(examples.image, examples.label, place="here", bad={3: "torn", 19: "gone"})
    found = []
    outputs = predictor(setup, 8)(made.state.variables, dataclasses.replace(split, source=source), on_bad=found.extend)
    assert outputs.index.tolist() == [k for k in range(20) if k not in (3, 19)]
    assert {(bad.example_id, bad.reason) for bad in found} == {(3, "torn"), (19, "gone")}
