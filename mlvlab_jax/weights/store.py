"""What `mlvlab weights import` writes: arrays under our names, and beside them a document of what they are."""

import json
from pathlib import Path
from typing import Any

from mlvlab_jax.config.fields import dump_params, params_from
from mlvlab_jax.errors import ConfigError, DataError
from mlvlab_jax.files import write_json
from mlvlab_jax.plugins import MODELS
from mlvlab_jax.types import ImageSpec
from mlvlab_jax.weights.exporting import Weights
from mlvlab_jax.weights.files import read_weights, write_safetensors
from mlvlab_jax.weights.importing import Imported, Target


def name_output(output: Path) -> Path:
    """The file of arrays that `output` means, which is not there yet.

    Raises:
        ConfigError: It is there, or the document beside it.
    """
    path = output if output.suffix == ".safetensors" else output / "weights.safetensors"
    for file in (path, path.with_suffix(".json")):
        if file.exists():
            raise ConfigError(f"--output {output}: {file} is there; expected a new file; remove it, or name another")
    return path


def write_imported(output: Path, imported: Imported, target: Target) -> Path:
    """Writes the arrays and the document: both, or neither.

    Args:
        output: A new file that ends in .safetensors, or a folder for one.
        imported: All arrays of the network.
        target: The network.

    Returns:
        The file of arrays.

    Raises:
        ConfigError: There is such a file.
    """
    path = name_output(output)
    document = path.with_suffix(".json")
    model = {"name": target.spec.name, "params": dump_params(target.spec.params)}
    names = target.classes.names
    tree = {"model": model, "image": list(target.image), "num_classes": target.classes.number}
    write_json(document, tree | {"class_names": list(names) if names else None, "weights": imported.provenance})
    try:
        write_safetensors(path, imported.arrays)
    except OSError:
        document.unlink(missing_ok=True)
        raise
    return path


def read_imported(source: Path) -> Weights:
    """What `write_imported` wrote.

    Raises:
        DataError: The file or its document is missing, or they are of other versions.
    """
    file = read_weights(str(source))
    path = file.path.with_suffix(".json")
    try:
        tree: Any = json.loads(path.read_text())
        entry = MODELS.entry(tree["model"]["name"])
        params: Any = params_from(entry.params, tree["model"]["params"])
        image = ImageSpec(*tree["image"])
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise DataError(
            f"{path}: not the document of imported weights ({error}); expected a package, a run, or what mlvlab "
            "weights import wrote; import the weights again"
        ) from None
    return Weights(entry.name, params, image, file.arrays)
