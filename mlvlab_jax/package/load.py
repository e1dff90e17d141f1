"""Opens a package: its files verified, its outputs compared with those it was made with."""

import dataclasses
import datetime
import logging
from collections.abc import Callable
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
from mlvlab_jax.package.reference import Reference, read_reference
from mlvlab_jax.package.verify import check_listing, verify_files
from mlvlab_jax.types import ImageSpec

if TYPE_CHECKING:
    from jax.stages import Wrapped

    from mlvlab_jax.data.decode import Header
    from mlvlab_jax.package.export import Forward, Weights

__all__ = ["Package", "load_package", "verify_files"]

_log = logging.getLogger(__name__)

#: Difference of golden outputs that rounding explains, relative to the largest of them (at least 1), by (platform,
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
    reference: Reference = dataclasses.field(repr=False)
    source: Literal["export", "weights"]
    _forward: "Wrapped" = dataclasses.field(repr=False)
    _weights: "Weights" = dataclasses.field(repr=False)

    @property
    def name(self) -> str:
        """What people call the model."""
        return self.manifest.name

    def preprocess_bytes(self, data: bytes) -> np.ndarray:
        """Pixels of an image file as the network takes them, uint8 (h w c), by the rules of training.

        Raises:
            BadImageError: Not an image of a known format, over the pixel cap, or broken.
        """
        return self.inspect_bytes(data)[1]

    def inspect_bytes(self, data: bytes) -> tuple["Header", np.ndarray]:
        """Header of an image file, with its stored size, and its pixels; all else as of `preprocess_bytes`."""
        from mlvlab_jax.data.decode import inspect_image

        return inspect_image(data, self.preprocess)

    def predict(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits and embeddings of images; each new number of them is compiled once.

        Args:
            image: uint8 (b h w c), b >= 1.

        Returns:
            Logits float32 (b k), and what the network's last layer was given, float32 (b d); the logits again where the
            network does not tell.

        Raises:
            DataError: Images of another type or shape.
        """
        import jax

        self._check(image)
        return jax.device_get(self._forward(self._weights, jax.device_put(image)))

    def predict_logits(self, image: np.ndarray) -> np.ndarray:
        """Logits alone, float32 (b k); all else as of `predict`."""
        return self.predict(image)[0]

    def predict_probabilities(self, image: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, float32 (b k); all else as of `predict`."""
        return calibrate(self.predict_logits(image), temperature=self.temperature)

    def compile(self, batch_size: int) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """`predict` for batches of one size, compiled now, its weights on the device.

        Args:
            batch_size: Images in every batch.

        Returns:
            The function, for one thread at a time, of images uint8 (batch_size h w c); other images raise `DataError`.
        """
        import jax

        pixels = jax.ShapeDtypeStruct((batch_size, *self.image), np.uint8)
        program = self._forward.lower(self._weights, pixels).compile()

        def predict(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            self._check(image)
            if len(image) != batch_size:
                raise DataError(f"{len(image)} images; expected {batch_size}, for which this was compiled")
            return jax.device_get(program(self._weights, jax.device_put(image)))

        return predict

    def _check(self, image: np.ndarray) -> None:
        if image.dtype != np.uint8 or image.ndim != 4 or image.shape[1:] != self.image or len(image) == 0:
            raise DataError(
                f"images are {image.dtype} {image.shape}; expected uint8 (b, {', '.join(map(str, self.image))}), "
                "b >= 1, as preprocess_bytes gives them"
            )


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
    num_images = len(golden["image"]) if "image" in golden else 0
    found = {name: (str(array.dtype), array.shape) for name, array in golden.items()}
    expected = {
        "image": ("uint8", (num_images, *package.image)),
        "logits": ("float32", (num_images, len(package.class_names))),
        "embedding": ("float32", (num_images, len(package.reference.center))),
    }
    if found != expected or not 0 < num_images <= 64:
        raise PackageError(f"{path}: holds {found}; expected {expected}, of 1 to 64 images; fetch the package again")
    try:
        outputs = dict(zip(("logits", "embedding"), package.predict(golden["image"]), strict=True))
    except (jax.errors.JaxRuntimeError, ValueError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise PackageError(f"{folder}: the network does not run here ({reason}); fetch the package again") from None
    allowed = _TOLERANCE.get((jax.default_backend(), precision), _ROUGH_TOLERANCE)
    differences = {name: _measure_difference(output, golden[name]) for name, output in outputs.items()}
    for name, difference in differences.items():
        if not difference <= allowed * max(1.0, float(np.abs(golden[name]).max())):
            raise PackageError(
                f"{path}: this machine's {name} differ by up to {difference:.2g}; expected rounding alone; fetch "
                "the package again, or run the tests of this installation"
            )
    return differences["logits"]


def calibrate(logits: np.ndarray, *, temperature: float) -> np.ndarray:
    """Calibrated probabilities, float32 (b k): softmax of the logits over the temperature."""
    from scipy.special import softmax

    return softmax(logits / np.float32(temperature), axis=-1)


def _measure_difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")


def _precision(documents: Documents) -> str:
    training = documents.config_tree.get("training")
    return str(training.get("precision")) if isinstance(training, dict) else ""


def _open(folder: Path, manifest: Manifest, documents: Documents, today: datetime.date) -> Package:
    import jax

    from mlvlab_jax.package.export import ExportStamp, StaleExportError, open_export

    weights = read_arrays(folder / "model.safetensors")
    stamp = parse(ExportStamp, read_document(folder, "export/export.json"), folder / "export/export.json")
    num_classes = len(documents.class_names)
    reference = read_reference(
        folder / "reference.safetensors", num_classes=num_classes, num_channels=documents.image.channels
    )
    source: Literal["export", "weights"] = "export"
    try:
        forward = open_export(
            folder / "export/model.bin",
            stamp,
            weights=weights,
            image=documents.image,
            widths=(num_classes, len(reference.center)),
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
        reference=reference,
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
