"""The one named mesh (data, fsdp, tensor) and how a batch lies on it."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mlvlab_jax.config.schema import MeshConfig
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.types import Tree

AXES = ("data", "fsdp", "tensor")


def make_mesh(config: MeshConfig, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Devices laid out as configured.

    Args:
        config: How many along each axis.
        devices: Which; all that jax sees by default. They need not be attached, as those of a topology are not.

    Raises:
        ConfigError: The product of the axes is not the number of devices.
    """
    num_devices = jax.device_count() if devices is None else len(devices)
    shared = config.fsdp * config.tensor
    data = num_devices // shared if config.data == -1 else config.data
    if data == 0 or data * shared != num_devices:
        raise ConfigError(
            f"data {config.data} x fsdp {config.fsdp} x tensor {config.tensor} does not make {num_devices} devices; "
            "expected their product to be the number of devices; data: -1 takes what the others leave",
            path="mesh",
        )
    shape = (data, config.fsdp, config.tensor)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Examples spread over data and fsdp; the same on all devices along tensor."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(value: Any, mesh: Mesh) -> jax.Array:
    """A host array on every device; every process gives the same one."""
    array = np.asarray(value)
    with jax.transfer_guard_host_to_device("allow"):
        return jax.make_array_from_callback(array.shape, replicated(mesh), lambda index: array[index])


def fetch(tree: Tree, mesh: Mesh) -> Tree:
    """The whole arrays on the host, in every process; all processes must call it."""
    if jax.process_count() > 1:
        tree = jax.jit(lambda leaves: leaves, out_shardings=replicated(mesh))(tree)
    return jax.device_get(tree)


def check_batch_size(batch_size: int, mesh: Mesh, *, pieces: int) -> None:
    """Refuses a batch that cannot be spread evenly.

    Args:
        batch_size: Examples in a global batch.
        mesh: Where it goes.
        pieces: Parts the batch is computed in, one after the other.

    Raises:
        ConfigError: Names the batch, the mesh and the two nearest sizes that fit.
    """
    ways = mesh.shape["data"] * mesh.shape["fsdp"] * pieces
    if batch_size % ways:
        lower, upper = batch_size // ways * ways, -(-batch_size // ways) * ways
        fits = f"{lower} or {upper}" if lower else str(upper)
        raise ConfigError(
            f"{batch_size} examples cannot be spread evenly over data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']} "
            f"x {pieces} accumulation steps; expected a multiple of {ways}; {fits} fits",
            path="training.batch_size",
        )
