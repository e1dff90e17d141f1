"""What accelerators can do at best, by the name jax gives them; an unknown device stays unknown."""

import dataclasses
from types import MappingProxyType


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Peak figures of one device as its maker states them, without sparsity.

    bfloat16_flops: of matrix products, a second. memory_bytes: on the device. memory_bandwidth: bytes a second.
    link_bandwidth: bytes a second that a device can send to its neighbours, all links together; 0 where there are none.
    source: where the figures stand.
    """

    name: str
    bfloat16_flops: float
    memory_bytes: float
    memory_bandwidth: float
    link_bandwidth: float
    source: str


_TPU = "cloud.google.com/tpu/docs/system-architecture-tpu-vm"
_NVIDIA = "NVIDIA's data sheet"
_GIB = 2**30
#: By `Device.device_kind`, or the first words of it.
_KNOWN = MappingProxyType(
    {
        "TPU v4": Hardware("TPU v4", 275e12, 32 * _GIB, 1.228e12, 300e9, _TPU),
        "TPU v5 lite": Hardware("TPU v5e", 197e12, 16 * _GIB, 0.819e12, 200e9, _TPU),
        "TPU v5e": Hardware("TPU v5e", 197e12, 16 * _GIB, 0.819e12, 200e9, _TPU),
        "TPU v5": Hardware("TPU v5p", 459e12, 95 * _GIB, 2.765e12, 600e9, _TPU),
        "TPU v5p": Hardware("TPU v5p", 459e12, 95 * _GIB, 2.765e12, 600e9, _TPU),
        "TPU v6 lite": Hardware("TPU v6e", 918e12, 32 * _GIB, 1.638e12, 400e9, _TPU),
        "TPU v6e": Hardware("TPU v6e", 918e12, 32 * _GIB, 1.638e12, 400e9, _TPU),
        "NVIDIA A100-SXM4-40GB": Hardware("A100 40 GB", 312e12, 40e9, 1.555e12, 300e9, _NVIDIA),
        "NVIDIA A100-SXM4-80GB": Hardware("A100 80 GB", 312e12, 80e9, 2.039e12, 300e9, _NVIDIA),
        "NVIDIA H100 80GB HBM3": Hardware("H100 SXM", 989.4e12, 80e9, 3.35e12, 450e9, _NVIDIA),
        "NVIDIA H100 PCIe": Hardware("H100 PCIe", 756e12, 80e9, 2.0e12, 0.0, _NVIDIA),
        "NVIDIA H200": Hardware("H200", 989.4e12, 141e9, 4.8e12, 450e9, _NVIDIA),
        "NVIDIA B200": Hardware("B200", 2250e12, 180e9, 7.7e12, 900e9, _NVIDIA),
        "NVIDIA L4": Hardware("L4", 121e12, 24e9, 0.3e12, 0.0, _NVIDIA),
        "NVIDIA L40S": Hardware("L40S", 362e12, 48e9, 0.864e12, 0.0, _NVIDIA),
    }
)


def find_hardware(device_kind: str) -> Hardware | None:
    """The figures of a device; None where they are not known, never a guess.

    Args:
        device_kind: As `jax.Device.device_kind` says it.
    """
    return _KNOWN.get(device_kind)
