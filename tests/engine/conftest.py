"""Meshes of fewer devices than there are; faults in this process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlvlab_jax.engine import faults
from mlvlab_jax.engine.state import TrainState
from mlvlab_jax.models.nets.api import Variables


def make_state(**params):
    """A state of these parameters and hardly anything else."""
    key = jnp.zeros(2, jnp.uint32)
    return TrainState(jnp.zeros((), jnp.int32), Variables(params, {}), {"momentum": jnp.ones(3)}, None, key)


@pytest.fixture
def on_devices(monkeypatch):
    """Lets meshes be made of the first n devices alone."""

    def limit(count):
        def make_mesh(shape, names, axis_types, devices):
            chosen = np.array(jax.devices()[:count]).reshape(shape)
            return jax.sharding.Mesh(chosen, names, axis_types=axis_types)

        monkeypatch.setattr("mlvlab_jax.engine.mesh.jax.device_count", lambda: count)
        monkeypatch.setattr("mlvlab_jax.engine.mesh.jax.make_mesh", make_mesh)

    return limit


@pytest.fixture
def plan_faults(monkeypatch):
    """Puts faults into this process, until the test ends."""

    def plan(text):
        monkeypatch.setenv(faults.VARIABLE, text)
        faults._planned.cache_clear()

    yield plan
    monkeypatch.undo()
    faults._planned.cache_clear()
