"""Writes the golden files of the shipped configurations anew: `make golden`."""

from pathlib import Path

import jax
import jax.numpy as jnp
from clu import parameter_overview

from mlvlab_jax.config.load import load_config, to_yaml
from mlvlab_jax.plugins import MODELS
from mlvlab_jax.types import ImageSpec

GOLDEN = Path(__file__).parent
CONFIGS = GOLDEN.parents[1] / "configs"
#: Of a data set of TFDS, or of another source: what the images are, and the number of classes.
DATA = {
    "digits": (ImageSpec(8, 8, 1), 10),
    "arrays": (ImageSpec(28, 28, 1), 10),
    "image_folder": (ImageSpec(224, 224, 3), 10),
    "fashion_mnist": (ImageSpec(28, 28, 1), 10),
    "cifar10": (ImageSpec(32, 32, 3), 10),
    "imagenet2012": (ImageSpec(224, 224, 3), 1000),
}


def render(path: Path) -> str:
    """The resolved configuration and the parameter table of its model, as text."""
    config = load_config([path]).config
    image, num_classes = DATA[config.data.params.dataset if config.data.name == "tfds" else config.data.name]
    if config.pipeline.preprocess.size:
        image = ImageSpec(*config.pipeline.preprocess.size, 3)
    model = MODELS.build(config.model, num_classes=num_classes, image=image, dtype=jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0)).params
    table = parameter_overview.get_parameter_overview(params, include_stats=False)
    return f"{to_yaml(config)}\n{table}\n"


if __name__ == "__main__":
    for config_path in sorted(CONFIGS.glob("*.yaml")):
        (GOLDEN / f"{config_path.stem}.txt").write_text(render(config_path))
