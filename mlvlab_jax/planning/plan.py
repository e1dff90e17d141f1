"""A plan: what a run needs of each device, how long it takes at best, what it costs, and whether it fits."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from mlvlab_jax.config.schema import Config
from mlvlab_jax.data.shape import DataShape
from mlvlab_jax.hardware import find_hardware
from mlvlab_jax.planning.prices import DATE, PRICES, SOURCE
from mlvlab_jax.planning.roofline import Roofline, compute_roofline
from mlvlab_jax.planning.step import CompiledStep, compile_step


@dataclasses.dataclass(frozen=True)
class Target:
    """What is planned for.

    memory_bytes: of a device, in place of what is known of it; None: as known. dollars_per_hour: of a device, in place
    of the list price.
    """

    devices: Sequence[Any]
    memory_bytes: float | None = None
    dollars_per_hour: float | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is known of a run before it runs; None is unknown.

    device: its kind, as jax calls it. capacity_bytes: memory of one. dollars_per_hour: of one.
    """

    config: Config
    device: str
    num_devices: int
    step: CompiledStep
    capacity_bytes: float | None
    roofline: Roofline | None
    dollars_per_hour: float | None
    price_source: str

    @property
    def fits(self) -> bool | None:
        """Whether a step fits in the memory of a device."""
        return None if self.capacity_bytes is None else self.step.needed_bytes <= self.capacity_bytes

    @property
    def images_per_second(self) -> float | None:
        """Training throughput of all devices at the roofline."""
        return None if self.roofline is None else self.config.training.batch_size / self.roofline.step_s

    @property
    def hours(self) -> float | None:
        """Of all training steps at the roofline; evaluations, checkpoints and waiting come on top."""
        return None if self.roofline is None else self.step.num_steps * self.roofline.step_s / 3600

    @property
    def dollars(self) -> float | None:
        """Cost of these hours."""
        if self.hours is None or self.dollars_per_hour is None:
            return None
        return self.hours * self.num_devices * self.dollars_per_hour

    def to_tree(self) -> dict[str, Any]:
        """Plain JSON values."""
        training, step = self.config.training, self.step
        return {
            "device": self.device,
            "num_devices": self.num_devices,
            "mesh": step.mesh,
            "batch_size": training.batch_size,
            "accumulation_steps": training.accumulation_steps,
            "precision": training.precision,
            "num_params": step.num_params,
            "memory_bytes": step.memory,
            "needed_bytes": step.needed_bytes,
            "capacity_bytes": self.capacity_bytes,
            "fits": self.fits,
            "step_flops": step.flops,
            "model_flops": step.model_flops,
            "traffic": None if step.traffic is None else dataclasses.asdict(step.traffic),
            "roofline": None if self.roofline is None else dataclasses.asdict(self.roofline),
            "images_per_second": self.images_per_second,
            "num_steps": step.num_steps,
            "hours": self.hours,
            "dollars": self.dollars,
            "dollars_per_device_hour": self.dollars_per_hour,
            "price_source": self.price_source,
        }


def make_plan(config: Config, shape: DataShape, target: Target) -> Plan:
    """Compiles the training step and says what it needs.

    Args:
        config: The run.
        shape: Of its data.
        target: Devices, and what is to be taken for known of them.

    Raises:
        ConfigError: Parts of the configuration do not fit each other, the data or the devices.
    """
    kind, num_devices = target.devices[0].device_kind, len(target.devices)
    hardware = find_hardware(kind)
    step = compile_step(config, shape, target.devices)
    listed = PRICES.get(hardware.name) if hardware else None
    return Plan(
        config=config,
        device=hardware.name if hardware else kind,
        num_devices=num_devices,
        step=step,
        capacity_bytes=target.memory_bytes or (hardware.memory_bytes if hardware else None),
        roofline=compute_roofline(step, hardware, num_devices=num_devices, precision=config.training.precision),
        dollars_per_hour=listed if target.dollars_per_hour is None else target.dollars_per_hour,
        price_source=f"{SOURCE}, {DATE}" if target.dollars_per_hour is None else "--price",
    )
