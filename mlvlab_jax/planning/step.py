"""The training step of a configuration, compiled for devices that need not be here, on data that need not be there."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mlvlab_jax.config.schema import Config
from mlvlab_jax.data.shape import DataShape
from mlvlab_jax.engine.experiment import Learner, check_accumulation, count_losses, make_learner
from mlvlab_jax.engine.flops import count_flops
from mlvlab_jax.engine.mesh import batch_sharding, check_batch_size, make_mesh
from mlvlab_jax.engine.state import TrainState, describe_state
from mlvlab_jax.engine.step import compile_train_step, make_train_step
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.planning.collectives import Collective, count_collectives
from mlvlab_jax.planning.memory import count_shard_bytes, count_state_bytes, split_memory
from mlvlab_jax.planning.program import Program
from mlvlab_jax.planning.traffic import count_traffic
from mlvlab_jax.trees import count_elements
from mlvlab_jax.types import Tree

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What one step moves, for one device.

    memory_bytes: to and from main memory. collectives: between devices. compiler_flops, compiler_bytes: as the
    compiler's own cost analysis says, which counts a loop once and what stays on the chip like main memory.
    """

    memory_bytes: float
    collectives: tuple[Collective, ...]
    compiler_flops: float
    compiler_bytes: float


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """What the compiler says of one step.

    mesh: sizes of its axes. num_steps: of the run. memory: bytes of one device by kind. needed_bytes: at its fullest.
    flops: of one step over all devices, recomputed parts included, or None where they cannot be counted.
    model_flops: what the model itself asks for. traffic: None where the program was too large to be compiled.
    """

    mesh: dict[str, int]
    num_steps: int
    num_params: int
    memory: dict[str, int]
    needed_bytes: float
    flops: float | None
    model_flops: float | None
    traffic: Traffic | None


def compile_step(config: Config, shape: DataShape, devices: Sequence[Any]) -> CompiledStep:
    """Compiles the step that training would run, with its shardings, and measures the program.

    Args:
        config: The run.
        shape: Of its data.
        devices: What it would run on.

    Raises:
        ConfigError: Parts of the configuration do not fit each other, the data or the devices.
    """
    mesh = make_mesh(config.mesh, devices=devices)
    training = config.training
    check_batch_size(training.batch_size, mesh, pieces=training.accumulation_steps)
    learner = make_learner(config, shape, device=devices[0])
    with_ema = learner.optimizer.keeps_average(training)
    state, layout = describe_state(
        learner.model,
        learner.optimizer,
        with_ema=with_ema,
        mesh=mesh,
        rules=config.mesh.rules,
        num_losses=count_losses(training),
    )
    check_accumulation(training.accumulation_steps, state)
    batch = describe_batch(training.batch_size, shape)
    if training.distillation is not None:  # the teacher's own arithmetic is not part of this program
        batch["teacher"] = jax.ShapeDtypeStruct((training.batch_size, shape.num_classes), jnp.float32)
    pure = make_train_step(learner.model, learner.optimizer, training, config.pipeline)
    shardings = jax.tree.map(lambda _: batch_sharding(mesh), batch)
    held = count_state_bytes(state, layout) | {"batch": count_shard_bytes(batch, shardings)}
    jitted: Any = compile_train_step(pure, layout, mesh, options=config.compile_options)
    memory, needed, traffic = _compile(jitted.lower(state, batch), held, len(devices))
    return CompiledStep(
        mesh=dict(mesh.shape),
        num_steps=learner.horizon.num_steps,
        num_params=count_elements(state.variables.params),
        memory=memory,
        needed_bytes=needed,
        flops=count_flops(pure, state, batch),
        model_flops=_count_model(learner, state, shape, training.batch_size),
        traffic=traffic,
    )


def describe_batch(batch_size: int, shape: DataShape) -> Tree:
    """Shapes and types of a batch on the devices, as `HostBatch` says."""
    label = ((batch_size, shape.num_classes), jnp.uint8) if shape.multi_label else ((batch_size,), jnp.int32)
    fields = {
        "image": ((batch_size, *shape.image), jnp.uint8),
        "label": label,
        "example_id": ((batch_size,), jnp.int32),
        "epoch": ((batch_size,), jnp.int32),
        "mask": ((batch_size,), jnp.float32),
    }
    return {name: jax.ShapeDtypeStruct(*field) for name, field in fields.items()}


def _count_model(learner: Learner, state: TrainState, shape: DataShape, batch_size: int) -> float | None:
    """Three times the forward pass: itself, and twice as much for the gradients of weights and activations."""
    image = jax.ShapeDtypeStruct((batch_size, *shape.image), jnp.float32)
    forward = count_flops(
        lambda variables, image: learner.model.apply(variables, image, jax.random.key(0), True)[0],
        state.variables,
        image,
    )
    return None if forward is None else 3 * forward


def _compile(lowered: Any, held: dict[str, int], num_devices: int) -> tuple[dict[str, int], float, Traffic | None]:
    """Memory by kind, the sum that is needed, and what the program moves."""
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "compile option" in str(error):
            raise ConfigError(
                f"{str(error).splitlines()[0]}; expected options of XLA's compiler for the devices planned for; "
                "correct it or leave it out",
                path="compile_options",
            ) from None
        needed = _read_needed(str(error))
        if needed is None:
            raise
        return held | {"activations": max(0, round(needed) - sum(held.values()))}, needed, None
    memory = split_memory(held, compiled.memory_analysis())
    program, costs = Program(compiled.as_text()), compiled.cost_analysis()
    collectives = count_collectives(program, num_devices=num_devices)
    traffic = Traffic(count_traffic(program), collectives, costs.get("flops", 0.0), costs.get("bytes accessed", 0.0))
    return memory, sum(memory.values()), traffic


def _read_needed(message: str) -> float | None:
    """Bytes that a TPU program would need which its compiler refused as too large; None of another error."""
    found = re.search(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm", message)
    return float(found[1]) * _UNITS[found[2]] if found else None
