import types

import jax
import numpy as np
import pytest

from mlvlab_jax.config.schema import MeshConfig
from mlvlab_jax.data.stream import Shard
from mlvlab_jax.engine.mesh import fetch, make_mesh, replicate
from mlvlab_jax.engine.shard import process_shard
from mlvlab_jax.errors import ConfigError


def mesh_of(owners):
    """Stands for a mesh of (data, fsdp, tensor) whose devices belong to these processes."""
    owners = np.array(owners)
    devices = np.vectorize(lambda owner: types.SimpleNamespace(process_index=owner), otypes=[object])(owners)
    return types.SimpleNamespace(
        devices=devices, shape=dict(zip(("data", "fsdp", "tensor"), owners.shape, strict=True))
    )


@pytest.mark.parametrize(
    ("owners", "shards"),
    [
        ([[[0]], [[0]], [[1]], [[1]]], [Shard(0, 2), Shard(1, 2)]),  # data over both
        ([[[0], [0], [1], [1]]], [Shard(0, 2), Shard(1, 2)]),  # fsdp over both
        ([[[0, 0]], [[1, 1]]], [Shard(0, 2), Shard(1, 2)]),  # tensor inside each
        ([[[0, 0, 1, 1]]], [Shard(0, 1), Shard(0, 1)]),  # tensor over both: the same rows for both
        ([[[0, 1]], [[2, 3]]], [Shard(0, 2), Shard(0, 2), Shard(1, 2), Shard(1, 2)]),
        ([[[1]], [[0]]], [Shard(1, 2), Shard(0, 2)]),  # devices in another order than processes
    ],
)
def test_processes_read_the_rows_that_their_devices_hold(owners, shards, monkeypatch):
    for process, expected in enumerate(shards):
        monkeypatch.setattr("mlvlab_jax.engine.mesh.jax.process_index", lambda process=process: process)
        assert process_shard(mesh_of(owners)) == expected


def test_a_tensor_axis_that_cuts_across_processes_is_refused(monkeypatch):
    monkeypatch.setattr("mlvlab_jax.engine.mesh.jax.process_index", lambda: 0)
    with pytest.raises(ConfigError, match="tensor 2 cuts across processes") as caught:
        process_shard(mesh_of([[[0, 0]], [[0, 1]], [[1, 1]]]))
    assert caught.value.path == "mesh.tensor"


def test_what_is_laid_on_every_device_comes_back_from_a_run_that_forbids_transfers():
    mesh = make_mesh(MeshConfig())
    with jax.transfer_guard("disallow"):
        laid = replicate(np.arange(6).reshape(2, 3), mesh)
        back = fetch({"a": laid}, mesh)["a"]
    assert laid.sharding.is_fully_replicated
    assert laid.sharding.num_devices == 8
    np.testing.assert_array_equal(back, [[0, 1, 2], [3, 4, 5]])
