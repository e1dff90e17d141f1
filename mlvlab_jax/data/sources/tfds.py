"""TensorFlow Datasets prepared as ArrayRecord, read without TensorFlow."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from mlvlab_jax.config.fields import OPERATIONAL, configclass
from mlvlab_jax.data.source import OpenedData, Record, Records
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


@SOURCES.register("tfds", TfdsParams)
def open_tfds(params: TfdsParams) -> OpenedData:
    """The splits as stored.

    Raises:
        DataError: Not prepared in `data_dir`, or without image or label.
    """
    builder = _builder(params)
    features = builder.info.features
    if "image" not in features or "label" not in features or features["image"].shape is None:
        raise DataError(f"{builder.data_path}: features {sorted(features)}; expected 'image' and 'label'")
    names = {"train": params.train_split, "validation": params.validation_split, "test": params.test_split}
    class_names = tuple(features["label"].names)
    splits = {name: _open_split(builder, split, len(class_names)) for name, split in names.items() if split is not None}
    shape = features["image"].shape
    image = None if None in shape else ImageSpec(*shape)
    identity = {"origin": builder.info.full_name, "files": _digest_files(builder)}
    paths = (Path(str(builder.data_path)),)
    return OpenedData(splits, class_names, identity, image, paths)


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


def _open_split(builder: Any, split: str, num_classes: int) -> Records:
    import tensorflow_datasets

    place = f"{builder.data_path}[{split}]"
    try:
        stored = builder.as_data_source(split=split, decoders={"image": tensorflow_datasets.decode.SkipDecoding()})
    except ValueError as error:
        raise DataError(f"{place}: {error}; the splits are {sorted(builder.info.splits)}") from None
    if len(stored) == 0:
        raise DataError(f"{place}: the split is empty; expected at least one example")
    return TfdsRecords(stored, num_classes=num_classes, place=place)


class TfdsRecords:
    """The image files and labels of a split.

    Args:
        stored: Examples with "image", the bytes of a file, and "label".
        num_classes: An example with a label beyond, such as the -1 of a split without labels, counts as unreadable: it
            is met only when it is read.
        place: Of the split, for messages.
    """

    def __init__(self, stored: Any, *, num_classes: int, place: str) -> None:
        self._stored = stored
        self._num_classes = num_classes
        self._place = place

    def __len__(self) -> int:
        return len(self._stored)

    def name(self, index: int) -> str:
        """The record's number."""
        return f"{self._place}[{index}]"

    def read(self, ids: np.ndarray) -> list[Record]:
        """The records at `ids`."""
        return [self._make(r["image"], int(r["label"])) for r in self._stored.__getitems__(ids.tolist())]

    def _make(self, data: bytes, label: int) -> Record:
        if 0 <= label < self._num_classes:
            return Record(data, label)
        return Record(b"", 0, f"label {label}; expected 0 to {self._num_classes - 1}")


def _digest_files(builder: Any) -> str:
    """SHA-256 over names and sizes of the prepared files and the data set's own description."""
    digest = hashlib.sha256()
    for path in sorted(Path(str(builder.data_path)).iterdir()):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        if path.suffix == ".json":
            digest.update(path.read_bytes())
    return digest.hexdigest()
