"""From the configuration to the network that training runs."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp

from mlvlab_jax.config.training import TrainingConfig
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.models.attention import Accelerator
from mlvlab_jax.models.nets.api import Model
from mlvlab_jax.models.nets.lora import add_adapters
from mlvlab_jax.plugins import MODELS, Spec
from mlvlab_jax.types import ImageSpec


def build_model(
    spec: Spec, *, training: TrainingConfig, num_classes: int, image: ImageSpec, device: jax.Device
) -> Model:
    """The network in the precision of training, as `training.remat` and the device want it.

    A plugin's build function may take `remat` (a policy by name) and `device` (an `Accelerator`); one that does without
    is given neither.

    Args:
        spec: Which network.
        training: Its precision, remat and lora are used.
        num_classes: Width of the logits.
        image: Shape of what it is given.
        device: One of those it will run on.

    Raises:
        ConfigError: The model cannot compute its activations again, or does not fit the image or the device.
    """
    taken = _parameters(spec.name)
    dtype: Any = jnp.dtype(training.precision)
    context: dict[str, Any] = {"num_classes": num_classes, "image": image, "dtype": dtype}
    if "device" in taken:
        context["device"] = Accelerator.of(device)
    if training.remat != "none":
        if "remat" not in taken:
            able = [name for name in MODELS.names() if "remat" in _parameters(name)]
            raise ConfigError(
                f"model {spec.name!r} cannot compute its activations again, found {training.remat!r}; expected 'none', "
                f"or a model that can ({', '.join(able)}); accumulation_steps saves memory with any model",
                path="training.remat",
            )
        context["remat"] = training.remat
    model: Model = MODELS.build(spec, **context)
    return model if training.lora is None else add_adapters(model, training.lora)


def _parameters(name: str) -> set[str]:
    """What a model's build function takes."""
    return set(inspect.signature(MODELS.entry(name).build).parameters)
