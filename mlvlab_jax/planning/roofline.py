"""From what a step computes and moves to the shortest time it can take."""

import dataclasses
from typing import Literal

from mlvlab_jax.hardware import Hardware
from mlvlab_jax.planning.step import CompiledStep

Bound = Literal["compute", "memory", "network"]


@dataclasses.dataclass(frozen=True)
class Roofline:
    """The shortest time of one step: that of the slowest of three, which a perfect program would overlap.

    seconds: by what bounds it. step_s: the largest of them. mfu: model FLOPs over what the devices could do in that
    time, or None where they cannot be counted.

    References:
        S. Williams, A. Waterman, D. Patterson, "Roofline: An Insightful Visual Performance Model for Multicore
        Architectures", 2009.
    """

    seconds: dict[Bound, float]
    step_s: float
    bound: Bound
    mfu: float | None


def compute_roofline(
    step: CompiledStep, hardware: Hardware | None, *, num_devices: int, precision: str
) -> Roofline | None:
    """The roofline of a step; None where a peak that it needs is not known, or the program was not compiled.

    Args:
        step: What is computed and moved.
        hardware: Peaks of one device.
        num_devices: Devices that share the step.
        precision: Of products. A TPU computes those of float32 with bfloat16 factors too; other devices do not, and
            their float32 peaks are not in the table.
    """
    traffic = step.traffic
    if traffic is None or hardware is None or not _is_peak_known(hardware, precision):
        return None
    peak = hardware.bfloat16_flops
    sent = sum(collective.sent_bytes for collective in traffic.collectives)
    if sent and not hardware.link_bandwidth:
        return None
    flops = traffic.compiler_flops if step.flops is None else step.flops / num_devices
    seconds: dict[Bound, float] = {
        "compute": flops / peak,
        "memory": traffic.memory_bytes / hardware.memory_bandwidth,
        "network": sent / hardware.link_bandwidth if sent else 0.0,
    }
    bound = max(seconds, key=lambda name: seconds[name])
    mfu = None if step.model_flops is None else step.model_flops / (num_devices * peak * seconds[bound])
    return Roofline(seconds, seconds[bound], bound, mfu)


def _is_peak_known(hardware: Hardware, precision: str) -> bool:
    return precision == "bfloat16" or hardware.name.startswith("TPU")
