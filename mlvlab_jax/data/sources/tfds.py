"""TensorFlow Datasets prepared as ArrayRecord, read without TensorFlow."""

import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from mlvlab_jax.config.fields import OPERATIONAL, configclass
from mlvlab_jax.data.source import ArraySource, OpenedData, Source, open_arrays
from mlvlab_jax.data.versions import pull_hint
from mlvlab_jax.errors import DataError
from mlvlab_jax.plugins import SOURCES
from mlvlab_jax.types import ImageSpec


@configclass
class TfdsParams:
    """Which data set, and where it was prepared."""

    dataset: str
    """Name, with config and version where wanted ("fashion_mnist", "cifar10:3.0.2")."""
    data_dir: str = Field(default="~/tensorflow_datasets", json_schema_extra=OPERATIONAL)
    """Folder the data set was prepared in, in ArrayRecord format."""
    train_split: str = "train"
    """TFDS split to train on."""
    validation_split: str | None = None
    """TFDS split to validate on; null holds out a part of the training split."""
    test_split: str | None = "test"
    """TFDS split to test on; null for none."""
    max_memory_mib: int = Field(default=1024, ge=0, json_schema_extra=OPERATIONAL)
    """MiB of decoded images a split may take to be decoded once and held in memory; a larger one is read as needed."""


@SOURCES.register("tfds", TfdsParams)
def open_tfds(params: TfdsParams) -> OpenedData:
    """Opens the splits; small ones are decoded once, into one array.

    Raises:
        DataError: Not prepared in `data_dir`, without image or label, or with images of several sizes.
    """
    builder = _builder(params)
    features = builder.info.features
    if "image" not in features or "label" not in features or features["image"].shape is None:
        raise DataError(f"{builder.data_path}: features {sorted(features)}; expected 'image' and 'label'")
    if None in features["image"].shape:
        raise DataError(
            f"{builder.data_path}: images have shape {features['image'].shape}, so of several sizes; "
            "expected one size; prepare a resized copy"
        )
    names = {"train": params.train_split, "validation": params.validation_split, "test": params.test_split}
    splits: dict[str, Source] = {}
    for name, split in names.items():
        if split is not None:
            splits[name] = _open_split(builder, split, max_bytes=params.max_memory_mib * 2**20)
    class_names = tuple(features["label"].names)
    paths = (Path(str(builder.data_path)),)
    resident = {name: source for name, source in splits.items() if isinstance(source, ArraySource)}
    if len(resident) == len(splits):
        return open_arrays(resident, class_names, origin=builder.info.full_name, paths=paths)
    return OpenedData(splits, class_names, {"origin": builder.info.full_name, "files": _digest_files(builder)}, paths)


def _builder(params: TfdsParams) -> Any:
    import tensorflow_datasets

    data_dir = Path(params.data_dir).expanduser()
    try:
        builder = tensorflow_datasets.builder(
            params.dataset, data_dir=str(data_dir), try_gcs=False, file_format="array_record"
        )
    except (tensorflow_datasets.core.registered.DatasetNotFoundError, ValueError, AssertionError) as error:
        raise DataError(f"data.params.dataset: {params.dataset!r} cannot be opened in {data_dir}: {error}") from None
    if not builder.data_path.exists():
        raise DataError(
            f"{builder.data_path}: {params.dataset!r} is not prepared there; set data.params.data_dir, or prepare it "
            f"(pip install 'mlvlab_jax[tfds-prepare]'; tfds build {params.dataset} --file_format=array_record "
            f"--data_dir {data_dir})" + pull_hint(Path(str(builder.data_path)))
        )
    return builder


def _open_split(builder: Any, split: str, *, max_bytes: int) -> Source:
    import tensorflow_datasets

    place = f"{builder.data_path}[{split}]"
    try:
        records = builder.as_data_source(split=split, decoders={"image": tensorflow_datasets.decode.SkipDecoding()})
    except ValueError as error:
        raise DataError(f"{place}: {error}; the splits are {sorted(builder.info.splits)}") from None
    source = _RecordSource(records, ImageSpec(*builder.info.features["image"].shape), place=place)
    if len(source) == 0:
        raise DataError(f"{place}: the split is empty; expected at least one example")
    if len(source) * int(np.prod(source.spec)) > max_bytes:
        return source
    chunks = np.array_split(np.arange(len(source)), max(1, len(source) // 1024))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(source.fetch, chunks))
    images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    return ArraySource(images, labels, place=place)


class _RecordSource:
    """A split read from its ArrayRecord files as it is needed."""

    def __init__(self, records: Any, spec: ImageSpec, *, place: str) -> None:
        self._records = records
        self.spec = spec
        self._place = place

    def __len__(self) -> int:
        return len(self._records)

    def fetch(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reads and decodes the examples at `ids`."""
        from PIL import Image

        images = np.empty((len(ids), *self.spec), np.uint8)
        labels = np.empty(len(ids), np.int64)
        mode = "L" if self.spec.channels == 1 else "RGB"
        for i, record in enumerate(self._records.__getitems__(ids.tolist())):
            with Image.open(io.BytesIO(record["image"]), formats=["PNG", "JPEG"]) as image:
                images[i] = np.asarray(image.convert(mode)).reshape(self.spec)
            labels[i] = record["label"]
        return images, labels.astype(np.int32)


def _digest_files(builder: Any) -> str:
    """SHA-256 over names and sizes of the prepared files and the data set's own description."""
    digest = hashlib.sha256()
    for path in sorted(Path(str(builder.data_path)).iterdir()):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        if path.suffix == ".json":
            digest.update(path.read_bytes())
    return digest.hexdigest()
