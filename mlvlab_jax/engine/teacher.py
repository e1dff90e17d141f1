"""The network that another learns from: that of a package, whose logits join each batch before its update."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mlvlab_jax.config.load import config_from_tree
from mlvlab_jax.config.schema import Config, PipelineConfig
from mlvlab_jax.data.device import describe_batch
from mlvlab_jax.data.open import Data
from mlvlab_jax.data.order import Split
from mlvlab_jax.engine.compiling import AheadOfTime, describe_arrays
from mlvlab_jax.engine.mesh import batch_sharding, replicate, replicated
from mlvlab_jax.engine.step import make_examples
from mlvlab_jax.errors import ConfigError, DataError, MlvlabError
from mlvlab_jax.models.nets.api import Model, Variables
from mlvlab_jax.models.stacking import unstacked_spec
from mlvlab_jax.plugins import MODELS
from mlvlab_jax.trees import map_with_name
from mlvlab_jax.types import ImageSpec, Tree
from mlvlab_jax.weights.files import WeightFile, read_weights

_PATH = "training.distillation.package"


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A network that is asked and not trained.

    sha256: of its weights. pipeline: how it wants its pixels. variables: on the host.
    """

    source: str
    sha256: str
    model: Model
    pipeline: PipelineConfig
    variables: Variables

    def describe(self) -> dict[str, str]:
        """What the manifest of a run says of it."""
        return {"package": self.source, "sha256": self.sha256}


def open_teacher(config: Config, data: Data) -> Teacher | None:
    """The teacher of a run, or None where it has none.

    Raises:
        ConfigError: It does not know the classes of the data, or the run cannot have a teacher.
        DataError: There is no such package, or it is damaged.
    """
    distillation = config.training.distillation
    if distillation is None:
        return None
    if config.training.steps_per_dispatch > 1:
        raise ConfigError(
            f"a teacher sees each batch before its update; expected 1, found {config.training.steps_per_dispatch}",
            path="training.steps_per_dispatch",
        )
    if data.train.label_sets is not None:
        raise ConfigError(
            "the data has several labels an image; a teacher's softmax is of classes that exclude each other; leave "
            "it out",
            path="training.distillation",
        )
    file = read_weights(distillation.package)
    taught = _read_config(file)
    names = tuple(data.class_names)
    if file.class_names != names:
        known = list(file.class_names or ())
        raise ConfigError(
            f"{file.source}: knows {len(known)} classes, {', '.join(known[:3])}, ...; expected the {len(names)} of the "
            f"data, {', '.join(names[:3])}, ..., in their order; take a package trained on these",
            path=_PATH,
        )
    model, variables = _make_network(file, taught, len(names), data.spec)
    return Teacher(file.source, file.sha256, model, taught.pipeline, variables)


def _read_config(file: WeightFile) -> Config:
    path = file.path.parent / "config.json"
    if file.class_names is None or not path.is_file() or not (path.parent / "manifest.json").is_file():
        raise DataError(f"{file.source}: no package; expected a folder that mlvlab package made")
    try:
        return config_from_tree(json.loads(path.read_text()))
    except (MlvlabError, ValueError) as error:
        raise DataError(f"{path}: cannot be read by this version ({error}); package the model again") from None


def _make_network(file: WeightFile, config: Config, num_classes: int, image: ImageSpec) -> tuple[Model, Variables]:
    """The package's network for the images of the run, with the package's weights."""
    dtype: Any = jnp.dtype(config.training.precision)
    try:
        model: Model = MODELS.build(unstacked_spec(config.model), num_classes=num_classes, image=image, dtype=dtype)
    except ConfigError as error:
        raise ConfigError(f"{file.source}: its network cannot take these images: {error}", path=_PATH) from None
    like = jax.eval_shape(model.init, jax.random.key(0))

    def place(name: str, leaf: jax.ShapeDtypeStruct) -> Any:
        found = file.arrays.get(name)
        if found is None or found.shape != leaf.shape:
            raise ConfigError(
                f"{file.source}: {name} is {'missing' if found is None else found.shape}; expected {leaf.shape} for "
                f"images of {image.height} x {image.width} x {image.channels}; take a package for these images",
                path=_PATH,
            )
        return found

    return model, map_with_name(place, like)


class Lesson:
    """Batches with what the teacher says of them; its program is being compiled from the moment this is made.

    The teacher sees the very images that the student does, with all random changes, as a patient teacher does.

    Args:
        teacher: Whom to ask.
        pipeline: Of the run.
        split: Whose batches these are.
        batch_size: Of them.
        key_data: `TrainState.key`, or its shape.
        mesh: Where the batches lie.

    Attributes:
        logits: Shape and type of what it says of a batch.

    References:
        L. Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", 2021.
    """

    def __init__(
        self,
        teacher: Teacher,
        pipeline: PipelineConfig,
        *,
        split: Split,
        batch_size: int,
        key_data: jax.Array,
        mesh: Mesh,
    ) -> None:
        self._variables = jax.tree.map(lambda leaf: replicate(leaf, mesh), teacher.variables)
        arguments = (describe_arrays(self._variables), describe_arrays(key_data), describe_batch(split, batch_size))
        ask = _compile(teacher, pipeline, mesh)
        self.logits = jax.eval_shape(ask, *arguments)
        self._ask = AheadOfTime(ask, arguments)

    def wait(self) -> None:
        """Returns when its program is compiled, or could not be."""
        self._ask.wait()

    def __call__(self, key_data: jax.Array, batch: Tree) -> Tree:
        """The batch with "teacher", logits float32 (b k).

        Args:
            key_data: `TrainState.key`.
            batch: Device batch.
        """
        return {**batch, "teacher": self._ask(self._variables, key_data, batch)}


def _compile(teacher: Teacher, pipeline: PipelineConfig, mesh: Mesh) -> Any:
    def ask(variables: Variables, key_data: jax.Array, batch: Tree) -> jax.Array:
        image = make_examples(key_data, batch, pipeline)["image"]
        logits, _ = teacher.model.apply(variables, _renormalize(image, pipeline, teacher.pipeline), key_data, False)
        return logits

    batches = batch_sharding(mesh)
    return jax.jit(ask, in_shardings=(replicated(mesh), replicated(mesh), batches), out_shardings=batches)


def _renormalize(image: jax.Array, now: PipelineConfig, wanted: PipelineConfig) -> jax.Array:
    """Pixels (b h w c) normalised as `now` says, as `wanted` would have them."""
    if (now.mean, now.std) == (wanted.mean, wanted.std):
        return image
    mean, std, mean_there, std_there = (
        jnp.asarray(values, jnp.float32).reshape(1, 1, 1, -1) for values in (now.mean, now.std, wanted.mean, wanted.std)
    )
    return (image * std + mean - mean_there) / std_there
