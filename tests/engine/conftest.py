"""Meshes of fewer devices than there are."""

import jax
import numpy as np
import pytest


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
