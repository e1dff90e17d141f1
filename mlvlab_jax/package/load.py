"""Opens a package: its files verified, its outputs compared with those it was made with."""

import dataclasses
import datetime
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from mlvlab_jax.config.schema import PreprocessSpec
from mlvlab_jax.data.profile import DataProfile
from mlvlab_jax.errors import DataError, PackageError
from mlvlab_jax.package.archive import open_folder
from mlvlab_jax.package.arrays import check_weights, read_arrays
from mlvlab_jax.package.documents import Documents, parse, read_document, read_documents
from mlvlab_jax.package.manifest import Manifest
from mlvlab_jax.package.verify import check_listing, verify_files
from mlvlab_jax.types import ImageSpec

if TYPE_CHECKING:
    from mlvlab_jax.package.export import Forward, Weights

__all__ = ["Package", "load_package", "verify_files"]

_log = logging.getLogger(__name__)

#: Difference of golden logits that rounding explains, relative to the largest of them (at least 1), by (platform,
#: precision); elsewhere matrix products are in TF32 or bfloat16.
_TOLERANCE = {("cpu", "float32"): 1e-4}
_ROUGH_TOLERANCE = 5e-2


@dataclasses.dataclass(frozen=True)
class Package:
    """A model ready to be used.

    source: "export", or "weights" where the network was built from the configuration because the export is out of date.
    """

    manifest: Manifest
    preprocess: PreprocessSpec
    image: ImageSpec
    class_names: tuple[str, ...]
    temperature: float
    profile: DataProfile
    source: Literal["export", "weights"]
    _forward: "Forward" = dataclasses.field(repr=False)
    _weights: "Weights" = dataclasses.field(repr=False)

    def preprocess_bytes(self, data: bytes) -> np.ndarray:
        """Pixels of an image file as the network takes them, uint8 (h w c), by the rules of training.

        Raises:
            BadImageError: Not an image of a known format, over the pixel cap, or broken.
        """
        from mlvlab_jax.data.decode import decode_image

        return decode_image(data, self.preprocess)

    def predict_logits(self, image: np.ndarray) -> np.ndarray:
        """Logits, float32 (b k), of images, uint8 (b h w c), b >= 1; each new b is compiled once.

        Raises:
            DataError: Images of another type or shape.
        """
        import jax.numpy as jnp

        if image.dtype != np.uint8 or image.ndim != 4 or image.shape[1:] != self.image or len(image) == 0:
            raise DataError(
                f"images are {image.dtype} {image.shape}; expected uint8 (b, {', '.join(map(str, self.image))}), "
                "b >= 1, as preprocess_bytes gives them"
            )
        return np.asarray(self._forward(self._weights, jnp.asarray(image)))

    def predict_probabilities(self, image: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, float32 (b k): softmax of the logits over the temperature."""
        from scipy.special import softmax

        return softmax(self.predict_logits(image) / np.float32(self.temperature), axis=-1)


def load_package(path: Path, *, verify: bool = True, today: datetime.date | None = None) -> Package:
    """Opens the package at `path`, a folder or a tar. Nothing in it is imported, unpickled or run but its StableHLO.

    Args:
        path: Of the package.
        verify: Compare every file with its digest, and the outputs with the golden ones. False: for files that this
            process verified a moment ago.
        today: Day to hold against the export's window; None: today's, UTC.

    Raises:
        PackageError: The package is not whole, was altered, or does not give the outputs it was made with.
    """
    with open_folder(Path(path)) as folder:
        manifest = verify_files(folder) if verify else check_listing(folder)
        documents = read_documents(folder)
        package = _open(folder, manifest, documents, today or datetime.datetime.now(datetime.UTC).date())
        if verify:
            check_golden(package, folder, precision=_precision(documents))
    return package


def check_golden(package: Package, folder: Path, *, precision: str) -> float:
    """Compares the outputs of `package` with those in its golden file.

    Returns:
        The largest difference of a logit.

    Raises:
        PackageError: It is more than rounding explains.
    """
    import jax

    path = folder / "golden.safetensors"
    golden = read_arrays(path)
    shapes = {name: (str(array.dtype), array.shape[1:]) for name, array in golden.items()}
    expected = {"image": ("uint8", tuple(package.image)), "logits": ("float32", (len(package.class_names),))}
    if shapes != expected or not 0 < len(golden["image"]) == len(golden["logits"]) <= 64:
        raise PackageError(f"{path}: holds {shapes}; expected {expected}, of 1 to 64 images; fetch the package again")
    logits = package.predict_logits(golden["image"])
    difference = float(np.abs(logits - golden["logits"]).max())
    allowed = _TOLERANCE.get((jax.default_backend(), precision), _ROUGH_TOLERANCE)
    if not difference <= allowed * max(1.0, float(np.abs(golden["logits"]).max())):
        raise PackageError(
            f"{path}: this machine's logits differ by up to {difference:.2g}; expected rounding alone; fetch "
            "the package again, or run the tests of this installation"
        )
    return difference


def _precision(documents: Documents) -> str:
    training = documents.config_tree.get("training")
    return str(training.get("precision")) if isinstance(training, dict) else ""


def _open(folder: Path, manifest: Manifest, documents: Documents, today: datetime.date) -> Package:
    import jax

    from mlvlab_jax.package.export import ExportStamp, StaleExportError, open_export

    weights = read_arrays(folder / "model.safetensors")
    stamp = parse(ExportStamp, read_document(folder, "export/export.json"), folder / "export/export.json")
    num_classes = len(documents.class_names)
    source: Literal["export", "weights"] = "export"
    try:
        forward = open_export(
            folder / "export/model.bin",
            stamp,
            weights=weights,
            image=documents.image,
            num_classes=num_classes,
            today=today,
        )
    except StaleExportError as error:
        _log.warning("%s: the export is not used: %s; the network is built from the weights", folder, error)
        forward, source = _rebuild(documents, weights, folder), "weights"
    return Package(
        manifest=manifest,
        preprocess=documents.preprocess.preprocess,
        image=documents.image,
        class_names=documents.class_names,
        temperature=documents.calibration.temperature or 1.0,
        profile=documents.profile,
        source=source,
        _forward=jax.jit(forward),
        _weights=jax.device_put(weights),
    )


def _rebuild(documents: Documents, weights: dict[str, np.ndarray], folder: Path) -> "Forward":
    from mlvlab_jax.package.network import make_forward

    if documents.config is None:
        plugins = documents.config_tree["plugins"]
        raise PackageError(
            f"{folder}: the network is of plugins {plugins}, which a package never imports, and its export is "
            f"out of date; import {', '.join(plugins)} before loading it, or package the run again"
        )
    forward, shapes = make_forward(documents.config, num_classes=len(documents.class_names), image=documents.image)
    check_weights(weights, shapes, place=str(folder / "model.safetensors"))
    return forward
