"""Training on smaller images at first: which size when, and batches of it."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mlvlab_jax.config.schema import Config
from mlvlab_jax.engine.experiment import Experiment
from mlvlab_jax.engine.mesh import batch_sharding
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.types import Tree

_PATH = "training.progressive"
Size = tuple[int, int]


class Resolutions:
    """`training.progressive` in steps: images are made smaller on the device, before all random changes.

    Args:
        config: Of the run; `check_progressive` lets it pass.
        experiment: The same made real.

    References:
        M. Tan, Q. Le, "EfficientNetV2: Smaller Models and Faster Training", 2021 (progressive learning).
    """

    def __init__(self, config: Config, experiment: Experiment) -> None:
        spec = experiment.data.spec
        self._whole: Size = (spec.height, spec.width)
        stages = config.training.progressive
        self._ends = [(experiment.horizon.steps(stage.until_epoch), stage.size) for stage in stages]
        self._shrink = {size: _compile_shrink(size, experiment.mesh) for size in self.sizes() if size != self._whole}

    def sizes(self) -> list[Size]:
        """Every size that there is a program for, the first needed first."""
        return list(dict.fromkeys([*(size for _, size in self._ends), self._whole]))

    def size_at(self, step: int) -> Size:
        """Height and width of the images of the update that makes `step` the number of updates."""
        return next((size for end, size in self._ends if step <= end), self._whole)

    def shrink(self, batches: Iterator[Tree], done: int) -> Iterator[Tree]:
        """Device batches of the updates after `done`, each in its size."""
        for step, batch in enumerate(batches, start=done + 1):
            shrink = self._shrink.get(self.size_at(step))
            yield batch if shrink is None else {**batch, "image": shrink(batch["image"])}


def check_progressive(config: Config, experiment: Experiment) -> None:
    """Refuses stages that are not in order or that the network cannot take, and a run that cannot follow them.

    Raises:
        ConfigError: Says which.
    """
    stages = config.training.progressive
    if not stages:
        return
    for name, wrong in {
        "training.steps_per_dispatch above 1": config.training.steps_per_dispatch > 1,
        "training.distillation": config.training.distillation is not None,
    }.items():
        if wrong:
            raise ConfigError(f"images that change their size do not go together with {name}; take one out", path=_PATH)
    ends = [stage.until_epoch for stage in stages]
    if ends != sorted(set(ends)) or ends[-1] >= config.training.num_epochs:
        raise ConfigError(
            f"the stages end with the epochs {', '.join(f'{end:g}' for end in ends)}; expected them to rise and stay "
            f"below training.num_epochs, {config.training.num_epochs:g}: the last epochs have the whole images",
            path=_PATH,
        )
    for number, stage in enumerate(stages):
        _check_size(stage.size, experiment, path=f"{_PATH}[{number}].size")


def _check_size(size: Size, experiment: Experiment, *, path: str) -> None:
    spec = experiment.data.spec
    if not (0 < size[0] <= spec.height and 0 < size[1] <= spec.width):
        raise ConfigError(
            f"{size[0]} x {size[1]}; expected at most the {spec.height} x {spec.width} of the images", path=path
        )
    image = jax.ShapeDtypeStruct((1, *size, spec.channels), jnp.float32)
    variables = experiment.state.variables

    def apply(variables: Any, image: jax.Array) -> Any:
        return experiment.model.apply(variables, image, jax.random.key(0), True)

    try:
        jax.eval_shape(apply, variables, image)
    except Exception as error:  # a network may fail in any way on a size it was not made for
        raise ConfigError(
            f"the network cannot take images of {size[0]} x {size[1]} with the parameters it has for {spec.height} x "
            f"{spec.width} ({type(error).__name__}); expected a network whose parameters fit any size, such as one of "
            "convolutions or a transformer with position: rope or sincos, and a multiple of its patch; take another",
            path=path,
        ) from error


def _compile_shrink(size: Size, mesh: Mesh) -> Any:
    """Images uint8 (b h w c) made smaller, each pixel the mean of what it stands for."""

    def shrink(image: jax.Array) -> jax.Array:
        smaller = jax.image.resize(
            image.astype(jnp.float32), (image.shape[0], *size, image.shape[3]), "linear", antialias=True
        )
        return jnp.clip(jnp.round(smaller), 0, 255).astype(np.uint8)

    batches = batch_sharding(mesh)
    return jax.jit(shrink, in_shardings=batches, out_shardings=batches)
