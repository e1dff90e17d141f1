"""The shape of a run's data: from the source where it is there, else from what is said of it."""

from mlvlab_jax.config.schema import Config
from mlvlab_jax.data.open import describe_data
from mlvlab_jax.data.shape import DataShape
from mlvlab_jax.errors import ConfigError, DataError
from mlvlab_jax.types import ImageSpec


def find_shape(config: Config, *, num_classes: int | None, num_train: int | None) -> DataShape:
    """The shape of the data of a run.

    Args:
        config: The run. The size of images that are not there is that of `pipeline.preprocess`.
        num_classes: Of data that is not there.
        num_train: Training examples of it, those held out for validation left out.

    Raises:
        ConfigError: Too little is said of it.
        DataError: It is not there, and nothing is said of it.
    """
    if num_classes is None and num_train is None:
        try:
            return describe_data(config.data, config.pipeline, seed=config.seed)
        except DataError as error:
            raise DataError(
                f"{error}\nto plan without the data, say what it is: --num-classes, --num-train and "
                "pipeline.preprocess.size"
            ) from None
    if not num_classes or not num_train or num_classes < 1 or num_train < 1:
        raise ConfigError(
            f"--num-classes {num_classes}, --num-train {num_train}: expected both, above 0, for data that is not here; "
            "neither, to look at the data"
        )
    preprocess = config.pipeline.preprocess
    if preprocess.size is None:
        raise ConfigError(
            "images of data that is not here; expected their size, for example pipeline.preprocess.size=[224,224]",
            path="pipeline.preprocess.size",
        )
    return DataShape(ImageSpec(*preprocess.size, preprocess.channels or 3), num_classes, num_train)
