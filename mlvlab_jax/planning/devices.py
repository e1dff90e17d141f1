"""Devices to plan for: those of a TPU topology, fake ones, or those that are here."""

import importlib.util
import os
import re
from collections.abc import Sequence
from typing import Any

from mlvlab_jax.config.schema import MeshConfig
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.plugins import did_you_mean

_SQUARES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16")
#: Generation -> the slices its maker rents out; a torus has other cuttings too.
TOPOLOGIES = {"v4": _CUBES, "v5e": _SQUARES, "v5p": _CUBES, "v6e": _SQUARES}
#: Without these libtpu would look for TPUs, ask a cloud's metadata server what machine this is, and refuse a second
#: process.
_NO_TPU_HERE = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
}
_AXES = ("data", "fsdp", "tensor")


def parse_mesh(text: str) -> dict[str, int]:
    """'data=8,fsdp=2' as numbers; an axis that is not named is 1.

    Raises:
        ConfigError: Another axis, a number below 1, or an axis named twice.
    """
    mesh: dict[str, int] = {}
    for part in text.split(","):
        axis, equals, number = (word.strip() for word in part.partition("="))
        if axis not in _AXES:
            raise ConfigError(
                f"--mesh {text!r}: unknown axis {axis!r}{did_you_mean(axis, _AXES)}; expected some of data, fsdp and "
                "tensor with their sizes, for example data=4,fsdp=2"
            )
        if not equals or not number.isdecimal() or int(number) == 0 or axis in mesh:
            raise ConfigError(f"--mesh {text!r}: expected each axis once, with a whole number above 0: data=4,fsdp=2")
        mesh[axis] = int(number)
    return {axis: mesh.get(axis, 1) for axis in _AXES}


def open_devices(topology: str | None, mesh: MeshConfig | None) -> Sequence[Any]:
    """The devices of a topology, as many CPUs as a mesh has places, or those that are here.

    Raises:
        ConfigError: As of `open_topology`.
    """
    if topology is not None:
        return open_topology(topology)
    if mesh is not None:
        return open_cpus(mesh.data * mesh.fsdp * mesh.tensor)
    import jax

    return jax.devices()


def open_topology(name: str) -> Sequence[Any]:
    """The devices of a TPU topology, such as 'v5e:4x4'; none of them need be here.

    Raises:
        ConfigError: There is no such topology, or no libtpu to describe it.
    """
    _check_topology(name)
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            f"--topology {name}: compiling for a TPU takes libtpu, which is not installed; "
            "pip install 'mlvlab_jax[tpu]', or plan for --mesh data=8"
        )
    for variable, value in _NO_TPU_HERE.items():
        os.environ.setdefault(variable, value)
    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")
    try:
        # Two cores of a v4 are one device, as they are by default of its successors.
        options = {"chip_config_name": "megacore"} if name.startswith("v4:") else {}
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices)
    except Exception as error:  # noqa: BLE001 - what libtpu raises has no common type; its first line is the reason
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"--topology {name}: libtpu refuses it: {reason}; {_list_shapes(name)}") from None


def _check_topology(name: str) -> None:
    generation, _, shape = name.partition(":")
    if generation not in TOPOLOGIES:
        raise ConfigError(
            f"--topology {name!r}: unknown generation {generation!r}{did_you_mean(generation, TOPOLOGIES)}; expected "
            f"one of {', '.join(TOPOLOGIES)} with a shape, for example v5e:4x4"
        )
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", shape) or shape.count("x") != TOPOLOGIES[generation][0].count("x"):
        raise ConfigError(f"--topology {name!r}: {shape!r} is no shape of a {generation}; {_list_shapes(name)}")


def _list_shapes(name: str) -> str:
    generation = name.partition(":")[0]
    return f"expected such as {', '.join(f'{generation}:{shape}' for shape in TOPOLOGIES[generation])}"


def open_cpus(num_devices: int) -> Sequence[Any]:
    """That many fake devices on this machine's CPU; jax must not have been used before.

    Raises:
        ConfigError: jax has started, with fewer devices.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", ""))
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={num_devices}".strip()
    import jax

    devices = jax.devices("cpu")
    if len(devices) < num_devices:
        raise ConfigError(f"--mesh: {num_devices} devices, but jax has started with {len(devices)}; start anew")
    return devices[:num_devices]
