"""What a monitoring folder says, read once and strictly: the reference, the windows, the labels that came later."""

import dataclasses
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from mlvlab_jax.errors import ConfigError, DataError

C = TypeVar("C")
_SCHEMA = 1
_FIX = "expected what the monitor of a server writes; name the folder given as monitoring.folder"

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass_transform(kw_only_default=True, frozen_default=True)
def _record(cls: type[C]) -> type[C]:
    """A frozen dataclass that is read by strict rules; keys it does not know are of a later version and left out."""
    config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)
    made: Any = dataclass(frozen=True, kw_only=True, config=config)(cls)
    return made


@_record
class Histogram:
    """edges: m + 1 ascending limits of bins. counts: (m)."""

    edges: tuple[float, ...]
    counts: tuple[Count, ...]


@_record
class ReferenceRecord:
    """What the served version was measured on before it was served. prediction: counts (k). num: examples."""

    schema: int
    model: str
    version: str
    package_sha256: str
    class_names: tuple[str, ...]
    features: dict[str, Histogram]
    prediction: tuple[Count, ...]
    num: int


@_record
class ResultRecord:
    """Of one test of one feature; `floor` is the effect below which no difference is worth a word."""

    test: str
    feature: str
    p_value: float
    effect: float
    floor: float
    rejected: bool


@_record
class ImageRecord:
    """A kept image. file: path in the folder. distance: from the reference, larger is less alike."""

    file: Annotated[str, Field(pattern=r"^images/window-\d+/\d+\.png$")]
    request_id: str
    item: int
    prediction: Count
    confidence: Share
    distance: float


@_record
class WindowRecord:
    """One complete window. features: counts on the reference's edges. prediction: counts (k)."""

    window: Count
    start: datetime
    end: datetime
    num: Count
    model: str
    version: str
    rejected: bool
    alarm: bool
    tests: tuple[ResultRecord, ...]
    features: dict[str, tuple[Count, ...]]
    prediction: tuple[Count, ...]
    images: tuple[ImageRecord, ...] = ()


@_record
class LabelRecord:
    """The true class of an answered image, told later. version: of the model that answered."""

    request_id: str
    item: int
    label: Count
    prediction: Count
    version: str
    time: datetime


@_record
class LiveRecord:
    """Accuracy of the answers whose label is known, with its 95 % interval."""

    num: Count
    correct: Count
    accuracy: Share
    low: Share
    high: Share


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {
    kind: TypeAdapter(kind) for kind in (ReferenceRecord, WindowRecord, LabelRecord, LiveRecord)
}


@dataclasses.dataclass(frozen=True)
class History:
    """A monitoring folder.

    windows: in order, of all versions. labels: of the served version. torn: files that end in a half-written line.
    """

    folder: Path
    reference: ReferenceRecord
    windows: tuple[WindowRecord, ...]
    labels: tuple[LabelRecord, ...]
    live: LiveRecord | None
    torn: tuple[str, ...]

    def comparable(self, window: WindowRecord) -> bool:
        """Whether the window is of the version that the reference is of."""
        return (window.model, window.version) == (self.reference.model, self.reference.version)


def read_history(folder: Path) -> History:
    """Reads reference.json, windows.jsonl, labels.jsonl and live.json; all but the first may not be there yet.

    A line that is being written, the last one without its end, is left out and said in `torn`.

    Raises:
        ConfigError: There is no such folder, or no reference in it, so nothing was watched there.
        DataError: A file is damaged; the message names the line and the key.
    """
    if not (folder / "reference.json").is_file():
        raise ConfigError(f"{folder}: no reference.json, so nothing was watched there; check --folder")
    reference = _read(folder / "reference.json", ReferenceRecord)
    _check_reference(reference, folder / "reference.json")
    windows, torn_window = _read_lines(folder / "windows.jsonl", WindowRecord)
    labels, torn_label = _read_lines(folder / "labels.jsonl", LabelRecord)
    live = folder / "live.json"
    history = History(
        folder=folder,
        reference=reference,
        windows=windows,
        labels=tuple(label for label in labels if label.version == reference.version),
        live=_read(live, LiveRecord) if live.exists() else None,
        torn=(*(["windows.jsonl"] if torn_window else []), *(["labels.jsonl"] if torn_label else [])),
    )
    _check_fit(history)
    return history


def _read(path: Path, kind: type[C]) -> C:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; {_FIX}") from None
    return _parse(text, kind, place=str(path))


def _read_lines(path: Path, kind: type[C]) -> tuple[tuple[C, ...], bool]:
    """The records of the whole lines, and whether a part of a line follows them."""
    try:
        *whole, rest = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return (), False
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; {_FIX}") from None
    return tuple(_parse(line, kind, place=f"{path}:{number}") for number, line in enumerate(whole, 1)), bool(rest)


def _parse(text: bytes, kind: type[C], *, place: str) -> C:
    try:
        record: C = _ADAPTERS[kind].validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise DataError(f"{place}: {key + ': ' if key else ''}{first['msg']}; {_FIX}") from None
    return record


def _check_reference(reference: ReferenceRecord, path: Path) -> None:
    if reference.schema != _SCHEMA:
        raise DataError(f"{path}: schema {reference.schema}; expected {_SCHEMA}; use the version that wrote it")
    if len(reference.prediction) != len(reference.class_names):
        raise DataError(
            f"{path}: counts of {len(reference.prediction)} classes and {len(reference.class_names)} names; {_FIX}"
        )
    for name, histogram in reference.features.items():
        if not 1 <= len(histogram.counts) == len(histogram.edges) - 1:
            sizes = f"{len(histogram.edges)} edges and {len(histogram.counts)} counts"
            raise DataError(f"{path}: features.{name}: {sizes}; expected an edge more than counts; {_FIX}")


def _check_fit(history: History) -> None:
    """What is of the served version must fit the reference, as it is drawn against it."""
    path, reference = history.folder / "windows.jsonl", history.reference
    for window in filter(history.comparable, history.windows):
        place = f"{path}: window {window.window}"
        if len(window.prediction) != len(reference.prediction):
            raise DataError(
                f"{place}: counts of {len(window.prediction)} classes; expected {len(reference.prediction)}; {_FIX}"
            )
        for name, counts in window.features.items():
            expected = reference.features.get(name)
            if expected is None or len(counts) != len(expected.counts):
                raise DataError(f"{place}: features.{name}: {len(counts)} bins, not those of reference.json; {_FIX}")
        if any(image.prediction >= len(reference.class_names) for image in window.images):
            raise DataError(f"{place}: an image of a class beyond the {len(reference.class_names)} there are; {_FIX}")
    if any(max(each.label, each.prediction) >= len(reference.class_names) for each in history.labels):
        place = f"{history.folder / 'labels.jsonl'}: version {reference.version}"
        raise DataError(f"{place}: a class beyond the {len(reference.class_names)} there are; {_FIX}")
