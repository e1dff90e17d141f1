"""Our side of step_time.py and gpu_suite.py: answers with the seconds of training steps.

"ours" is the engine's step on uint8 pixels. "bare" is what one would write by hand around the same network: normalised
pixels, optax, the mean cross entropy, nothing else.

Needs this package's models, optim and engine.step, and none of the libraries that read data or write records.
"""

import dataclasses
import gc
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from cases import LEARNING_RATE, MEAN, STD, WEIGHT_DECAY, Case
from weights import Named, name_for_timm, perturb
from worker import answer_requests

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.config.schema import MeshConfig, PipelineConfig
from mlvlab_jax.config.training import TrainingConfig
from mlvlab_jax.engine.mesh import batch_sharding, make_mesh
from mlvlab_jax.engine.state import TrainState, create_state
from mlvlab_jax.engine.step import SCALARS, compile_train_step, make_train_step
from mlvlab_jax.hardware import find_hardware
from mlvlab_jax.models.build import build_model
from mlvlab_jax.models.nets.api import Model, Variables
from mlvlab_jax.optim.chain import make_optimizer
from mlvlab_jax.optim.horizon import Horizon
from mlvlab_jax.plugins import MODELS, OPTIMIZERS, SCHEDULES, PluginTable, Spec
from mlvlab_jax.trees import count_elements, map_with_name
from mlvlab_jax.types import ImageSpec

#: A step as compiled: takes the carried arrays, gives them back updated, and what it says of the batch.
Step = Callable[[Any], tuple[Any, jax.Array]]
#: Numbers by name of what a step says.
Read = Callable[[jax.Array], dict[str, float]]


def make_spec(table: PluginTable, name: str, **params: object) -> Spec:
    return Spec(name, params_from(table.entry(name).params, params))


@dataclasses.dataclass
class Side:
    """A case's network and arrays, and the compiled steps with what each carries."""

    case: Case
    model: Model
    state: TrainState
    layout: TrainState
    train_step: Any
    batch: dict[str, Any]
    steps: dict[str, tuple[Step, Any]] = dataclasses.field(default_factory=dict)

    @property
    def pixels(self) -> jax.Array:
        """Normalised images, float32."""
        return (jnp.asarray(self.batch["image"], jnp.float32) / 255 - MEAN) / STD


def make_side(case: Case) -> Side:
    """The case's network with perturbed first weights, its step and one batch on the device."""
    training = params_from(
        TrainingConfig,
        {"batch_size": case.batch_size, "learning_rate": LEARNING_RATE, "precision": case.precision},
    )
    pipeline = params_from(PipelineConfig, {"mean": [MEAN], "std": [STD]})
    mesh = make_mesh(params_from(MeshConfig, {}))
    model = make_model(case, training, mesh.devices.flat[0])
    adamw = make_spec(OPTIMIZERS, "adamw", weight_decay=WEIGHT_DECAY)
    horizon = Horizon(num_steps=100_000, steps_per_epoch=1000.0, steps_per_eval=1000.0)
    optimizer = make_optimizer(adamw, make_spec(SCHEDULES, "constant", warmup_epochs=0.0), training, horizon)
    state, layout = create_state(model, optimizer, seed=0, with_ema=False, mesh=mesh)
    params = map_with_name(lambda name, leaf: perturb(name, np.asarray(leaf)), state.variables.params)
    variables = Variables(jax.device_put(params, layout.variables.params), state.variables.state)
    batch = jax.device_put(make_batch(case), batch_sharding(mesh))
    step = compile_train_step(make_train_step(model, optimizer, training, pipeline), layout, mesh)
    return Side(case, model, dataclasses.replace(state, variables=variables), layout, step, batch)


def make_model(case: Case, training: TrainingConfig, device: Any) -> Model:
    """The case's network, as the trainer would build it for the device."""
    spec, image = make_spec(MODELS, case.network, **case.params), ImageSpec(*case.image)
    return build_model(spec, training=training, num_classes=case.num_classes, image=image, device=device)


def make_batch(case: Case) -> dict[str, np.ndarray]:
    """Random pixels and labels, as the engine's step takes them."""
    draw, size = np.random.default_rng(0), case.batch_size
    return {
        "image": draw.integers(0, 256, (size, *case.image), dtype=np.uint8),
        "label": draw.integers(0, case.num_classes, size, dtype=np.int32),
        "example_id": np.arange(size, dtype=np.int32),
        "epoch": np.zeros(size, np.int32),
        "mask": np.ones(size, np.float32),
    }


def loss_of(model: Model, params: Any, model_state: Any, image: jax.Array, label: jax.Array) -> tuple[jax.Array, Any]:
    """Mean cross entropy of a batch, and the new batch statistics."""
    logits, model_state = model.apply(Variables(params, model_state), image, jax.random.key(0), True)
    return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean(), model_state


def bare_step(side: Side) -> tuple[Step, Any, Read]:
    """A step as one would write it by hand, what it carries at the start, and how to read it."""
    model, image, label = side.model, side.pixels, side.batch["label"]

    def decays(tree: Any) -> Any:
        spared = ("bias", "scale", "cls", "pos_embed")
        return map_with_name(lambda name, leaf: not name.endswith(spared), tree)

    optimizer = optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY, mask=decays)

    def step(carried: Any, image: jax.Array, label: jax.Array) -> tuple[Any, jax.Array]:
        params, model_state, opt_state = carried
        differentiate = jax.value_and_grad(lambda p: loss_of(model, p, model_state, image, label), has_aux=True)
        (loss, model_state), grads = differentiate(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), model_state, opt_state), loss

    params, model_state = jax.tree.map(jnp.copy, (side.state.variables.params, side.state.variables.state))
    carried = (params, model_state, optimizer.init(params))
    compiled = jax.jit(step, donate_argnums=0).lower(carried, image, label).compile()
    return lambda carried: compiled(carried, image, label), carried, lambda loss: {"loss": float(loss)}


def our_step(side: Side) -> tuple[Step, Any, Read]:
    """The engine's step, a copy of the state, and how to read it."""
    compiled = side.train_step.lower(side.state, side.batch).compile()

    def read(scalars: jax.Array) -> dict[str, float]:
        told = dict(zip(SCALARS, map(float, scalars), strict=True))
        return {"loss": told["loss_sum"] / told["num_examples"], "grad_norm": told["grad_norm"]}

    return lambda state: compiled(state, side.batch), jax.tree.map(jnp.copy, side.state), read


KINDS = {"ours": our_step, "bare": bare_step}
#: The one case at work; asked for by name, since requests are JSON.
_made: list[Side] = []


def describe() -> dict[str, object]:
    """Device, its peak in bfloat16 (None: not known), and versions."""
    device = jax.devices()[0]
    hardware = find_hardware(device.device_kind)
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "peak_flops": hardware and hardware.bfloat16_flops,
        "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")},
    }


def make(case: dict[str, Any], weights: str | None) -> dict[str, object]:
    """Prepares a case, and writes its weights and batch for the other side.

    Args:
        case: `cases.Case` as a tree.
        weights: Path of the npz to write; None where there is no other side.
    """
    forget()
    side = make_side(Case.from_tree(case))
    _made.append(side)
    if weights:
        named = _rename(side, side.state.variables.params)
        np.savez(weights, image=np.asarray(side.pixels), label=np.asarray(side.batch["label"]), **named)
    return {"num_params": count_elements(side.state.variables.params)}


def check(gradients: str | None) -> dict[str, float]:
    """Loss and norm of the gradient at the first weights; the gradient is written as npz where a path is given."""
    side = _made[0]
    params, model_state = side.state.variables
    differentiate = jax.value_and_grad(lambda p, *rest: loss_of(side.model, p, *rest), has_aux=True)
    (loss, _), grads = jax.jit(differentiate)(params, model_state, side.pixels, side.batch["label"])
    if gradients:
        np.savez(gradients, **_rename(side, grads))
    return {"loss": float(loss), "grad_norm": float(optax.tree.norm(grads))}


def prepare(label: str, kind: str, changes: dict[str, object]) -> dict[str, object]:
    """Compiles a step and makes two of them; seconds of the compilation, and the loss before each update.

    Args:
        label: What `run` will call it.
        kind: One of `KINDS`.
        changes: Parameters of the network that differ from the case's.
    """
    side = _made[0]
    if changes:
        side = make_side(dataclasses.replace(side.case, params={**side.case.params, **changes}))
    started = time.perf_counter()
    step, carried, read = KINDS[kind](side)
    seconds = time.perf_counter() - started
    told = []
    for _ in range(2):
        carried, scalars = step(carried)
        told.append(read(scalars))
    _made[0].steps[label] = (step, carried)
    return {"compile_s": seconds, "updates": told}


def run(label: str, num_steps: int) -> float:
    """Seconds of so many steps, the device's work included."""
    step, carried = _made[0].steps[label]
    started = time.perf_counter()
    for _ in range(num_steps):
        carried, scalars = step(carried)
    jax.block_until_ready((carried, scalars))
    seconds = time.perf_counter() - started
    _made[0].steps[label] = (step, carried)
    return seconds


def save(folder: str, num_saves: int) -> dict[str, object]:
    """Seconds for which saves of the state block, and sizes; see checkpoint.py."""
    from checkpoint import measure_saves

    return measure_saves(_made[0].state, Path(folder), num_saves=num_saves)


def run_trainer(smoke: bool) -> dict[str, object]:
    """The engine's loop beside a bare one on ViT-S/16, the images held in memory; see trainer_overhead.py."""
    from trainer_overhead import measure

    from mlvlab_jax.config.load import config_from_tree

    forget()
    side, count = (16, 64) if smoke else (224, 4096)
    sizes = {"num_train": count, "num_test": 16, "height": side, "width": side, "channels": 3}
    tree = {
        "model": {"name": "vision_transformer", "params": {"variant": "Ti" if smoke else "S", "patch_size": 16}},
        "data": {"name": "synthetic", "params": sizes},
        "pipeline": {"validation_fraction": 0.0},
        "training": {"batch_size": 16 if smoke else 256, "num_epochs": 3, "precision": "bfloat16"},
        "evaluation": {"every_epochs": 3},
    }
    return measure(config_from_tree(tree), num_repeats=1 if smoke else 5)


def forget() -> None:
    """Lets go of the case and its arrays."""
    _made.clear()
    gc.collect()


def _rename(side: Side, tree: Any) -> Named:
    params = params_from(MODELS.entry(side.case.network).params, side.case.params)
    return name_for_timm(side.case.network, params, ImageSpec(*side.case.image), jax.device_get(tree))


if __name__ == "__main__":
    handlers = (describe, make, check, prepare, run, save, run_trainer, forget)
    answer_requests({handler.__name__: handler for handler in handlers})
