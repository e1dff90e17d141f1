"""Which rows of a batch a process reads."""

import jax
import numpy as np
from jax.sharding import Mesh

from mlvlab_jax.data.stream import Shard
from mlvlab_jax.errors import ConfigError


def process_shard(mesh: Mesh) -> Shard:
    """The part of each batch this process reads; processes that hold the same rows read the same.

    Raises:
        ConfigError: Processes share some of their rows but not all.
    """
    owners = np.vectorize(lambda device: device.process_index)(mesh.devices).reshape(-1, mesh.shape["tensor"])
    held = {process: tuple(np.flatnonzero((owners == process).any(1))) for process in np.unique(owners).tolist()}
    groups = sorted(set(held.values()))
    if len({len(group) for group in groups}) > 1 or sum(map(len, groups)) != len(owners):
        raise ConfigError(
            f"tensor {mesh.shape['tensor']} cuts across processes of {jax.local_device_count()} devices; expected one "
            "to divide the other",
            path="mesh.tensor",
        )
    return Shard(groups.index(held[jax.process_index()]), len(groups))
