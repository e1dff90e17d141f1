"""A table of images: a line an image in CSV or JSON lines, with path, label or labels, split, and other columns."""

import itertools
import math
from array import array
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field

from mlvlab_jax.config.fields import OPERATIONAL, configclass
from mlvlab_jax.data.columns import MAX_COLUMNS, Column, ColumnReader
from mlvlab_jax.data.records import FileRecords
from mlvlab_jax.data.source import OpenedData, compute_index_digest, make_label_sets
from mlvlab_jax.data.sources.image_folder import SPLIT_FOLDERS
from mlvlab_jax.data.table import read_rows
from mlvlab_jax.errors import DataError
from mlvlab_jax.plugins import SOURCES, did_you_mean

#: Largest class number without a class list; a larger one is an article number or the like.
_MAX_NUMBER = 100_000
#: Bytes that the table of all combinations of labels may take: combinations times classes.
_MAX_SETS_BYTES = 2**28


@configclass
class ManifestParams:
    """Which table, and what its columns are called."""

    path: str = Field(json_schema_extra=OPERATIONAL)
    """A .csv file with a line of column names, or a .jsonl file with one object a line."""
    root: str | None = Field(default=None, json_schema_extra=OPERATIONAL)
    """Folder the image paths are relative to; null takes the folder of the table."""
    path_column: str = "path"
    """Column with the path of the image file."""
    label_column: str = "label"
    """Column with the label: a class name, or its number where class_names is null and all labels are whole numbers."""
    labels_column: str | None = "labels"
    """Column used where there is no label_column: any number of labels an image, a list in JSON lines."""
    labels_separator: Annotated[str, Field(min_length=1)] = ";"
    """Between the labels of an image in CSV; an empty cell means none of the classes."""
    split_column: str | None = "split"
    """Column with train, validation or test; null, or a table without it, makes all of it the training split."""
    weight_column: str | None = "weight"
    """Column with how much a row counts in the training loss, a number >= 0, as a ratio to the mean of all; null, or a
    table without it, makes all count the same."""
    class_names: tuple[str, ...] | None = None
    """Class names in the order of the labels; null takes the labels that occur, in numerical or alphabetical order."""


@SOURCES.register("manifest", ManifestParams)
def open_manifest(params: ManifestParams) -> OpenedData:
    """Reads the table; no image is opened.

    Raises:
        DataError: No such table, a column or a value missing, a label that is not in the class list, an unknown split,
            no training row, or fewer than two classes; with file and line.
    """
    table = Path(params.path).expanduser()
    root = Path(params.root).expanduser() if params.root else table.parent
    rows = _Rows()
    own = {
        params.path_column,
        params.label_column,
        params.labels_column,
        params.split_column,
        params.weight_column,
        None,
    }
    for line, row in read_rows(table):
        extra = {name: value for name, value in row.items() if name not in own}
        rows.add(_parse_row(row, params, place=f"{table}:{line}"), extra, place=f"{table}:{line}")
    if not rows.paths:
        raise DataError(
            f"{table}: no rows; expected a line of column names and a line an image, or a JSON object a line"
        )
    class_names, number_of = _classes(rows, params.class_names, table)
    label_of, label_sets = _label_sets(rows, number_of, len(class_names), table)
    if "train" not in rows.paths:
        raise DataError(f"{table}: no rows for training; expected 'train' in column {params.split_column!r}")
    splits = {
        split: FileRecords(root, paths, np.asarray([label_of[code] for code in rows.codes[split]], np.int64))
        for split, paths in rows.paths.items()
    }
    listed = (
        f"{split}\t{path}\t{label}\t{weight}"
        for split, records in splits.items()
        for path, label, weight in zip(records.paths, records.labels, rows.weights[split], strict=True)
    )
    combined = () if label_sets is None else (str(np.flatnonzero(row).tolist()) for row in label_sets)
    identity = {"origin": table.name, "index": compute_index_digest(itertools.chain(listed, combined))}
    weights = {split: np.asarray(values) for split, values in rows.weights.items() if set(values) != {1.0}}
    columns = {split: rows.finish_columns(split) for split in splits}
    return OpenedData(
        splits, class_names, identity, None, (table, root), weights, columns=columns, label_sets=label_sets
    )


class _Row(NamedTuple):
    """One line; labels: exactly one, or, where `several`, any number, sorted."""

    split: str
    path: str
    labels: tuple[str, ...]
    several: bool
    weight: float


class _Rows:
    """The rows split by split; the labels of a row are kept as their place among the combinations that occur."""

    def __init__(self) -> None:
        self.paths: dict[str, list[str]] = {}
        self.codes: dict[str, array[int]] = {}
        self.weights: dict[str, array[float]] = {}
        self.combinations: dict[tuple[str, ...], int] = {}
        self.first_place: dict[str, str] = {}
        self.several: bool | None = None
        self._columns: dict[str, dict[str, ColumnReader]] = {}

    def add(self, row: _Row, extra: dict[str, Any], *, place: str) -> None:
        """Takes the row at `place`, file:line, and what else it says.

        Raises:
            DataError: It has several labels and those before had one, or the other way round.
        """
        if self.several not in (None, row.several):
            raise DataError(f"{place}: one label here, several elsewhere; expected the same column in all rows")
        self.several = row.several
        for label in row.labels:
            self.first_place.setdefault(label, place)
        self.paths.setdefault(row.split, []).append(row.path)
        code = self.combinations.setdefault(row.labels, len(self.combinations))
        self.codes.setdefault(row.split, array("l")).append(code)
        self.weights.setdefault(row.split, array("d")).append(row.weight)
        columns = self._columns.setdefault(row.split, {})
        for name in dict.fromkeys((*columns, *extra)):
            if name not in columns and len(columns) < MAX_COLUMNS:
                columns[name] = ColumnReader(num_empty=len(self.paths[row.split]) - 1)
            if name in columns:
                columns[name].add(extra.get(name))

    def finish_columns(self, split: str) -> dict[str, Column]:
        """The columns of a split, in alphabetical order, that hold something to sort examples by."""
        finished = ((name, reader.finish()) for name, reader in sorted(self._columns[split].items()))
        return {name: column for name, column in finished if column is not None}


def _parse_row(row: dict[str, Any], params: ManifestParams, *, place: str) -> _Row:
    several = params.labels_column is not None and params.labels_column in row
    if several and params.label_column in row:
        raise DataError(
            f"{place}: both {params.label_column!r} and {params.labels_column!r}; expected one of them; set the other "
            "to null or to another name in data.params"
        )
    label_column = str(params.labels_column) if several else params.label_column
    for column in (params.path_column, label_column):
        if column not in row:
            known = [key for key in row if key is not None]
            raise DataError(
                f"{place}: no column {column!r}{did_you_mean(column, known)} (there are: {', '.join(known)}); "
                "name it in data.params.path_column, label_column or labels_column"
            )
    path, value = row[params.path_column], row[label_column]
    if not isinstance(path, str) or not path:
        raise DataError(f"{place}: {params.path_column} is {path!r}; expected the path of an image file")
    if several:
        labels = _parse_labels(value, params, place=place)
    elif isinstance(value, bool | float | list | dict) or value in (None, ""):
        raise DataError(f"{place}: {label_column} is {value!r}; expected one class name or whole number")
    else:
        labels = (str(value),)
    named = row.get(params.split_column or "", "train")
    split = SPLIT_FOLDERS.get(str(named).strip().lower())
    if split is None:
        raise DataError(f"{place}: {params.split_column} is {named!r}; expected train, validation or test")
    weight = _parse_weight(row.get(params.weight_column or "", 1.0), place=place)
    return _Row(split, path, labels, several, weight)


def _parse_labels(value: Any, params: ManifestParams, *, place: str) -> tuple[str, ...]:
    """Sorted labels from a list, or from text with separators."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(params.labels_separator)] if value.strip() else []
    if not isinstance(value, list) or any(isinstance(one, bool) or not isinstance(one, str | int) for one in value):
        raise DataError(
            f"{place}: {params.labels_column} is {value!r}; expected a list of class names or whole numbers"
        )
    if "" in value:
        raise DataError(f"{place}: {params.labels_column} has an empty label in {value!r}; take out the separator")
    return tuple(sorted({str(one) for one in value}))


def _parse_weight(value: Any, *, place: str) -> float:
    try:
        weight = float(value)
    except (TypeError, ValueError):
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise DataError(f"{place}: weight is {value!r}; expected a number of at least 0; correct the row")
    return weight


def _classes(rows: _Rows, class_names: tuple[str, ...] | None, table: Path) -> tuple[tuple[str, ...], dict[str, int]]:
    """Class names, and the number of each class that occurs."""
    labels = list(rows.first_place)
    numbers = all(label.isdecimal() for label in labels)
    if class_names is None:
        if numbers and labels:
            highest = max(labels, key=int)
            if int(highest) > _MAX_NUMBER:
                raise DataError(
                    f"{rows.first_place[highest]}: label {highest}; expected the number of a class, at most "
                    f"{_MAX_NUMBER}; list the labels in data.params.class_names"
                )
            class_names = tuple(str(k) for k in range(int(highest) + 1))
        else:
            class_names = tuple(sorted(labels))
    label_of = {name: number for number, name in enumerate(class_names)}
    if numbers and not set(labels) <= label_of.keys():
        label_of = {str(k): k for k in range(len(class_names))}
    unknown = [label for label in labels if label not in label_of]
    if unknown:
        listed = ", ".join(itertools.islice(map(repr, unknown), 5))
        raise DataError(
            f"{rows.first_place[unknown[0]]}: {len(unknown)} labels are not in the class list, such as {listed}"
            f"{did_you_mean(unknown[0], class_names)}; expected one of {list(class_names)[:10]}; "
            "correct the rows or data.params.class_names"
        )
    if len(class_names) < 2:
        raise DataError(f"{table}: {len(class_names)} classes {list(class_names)}; expected at least two")
    return class_names, label_of


def _label_sets(
    rows: _Rows, number_of: dict[str, int], num_classes: int, table: Path
) -> tuple[list[int], np.ndarray | None]:
    """The label of each combination that occurs; and, where there may be several, the classes each label stands for."""
    numbers = [tuple(sorted(number_of[name] for name in names)) for names in rows.combinations]
    if not rows.several:
        return [number for (number,) in numbers], None
    if len(numbers) * num_classes > _MAX_SETS_BYTES:
        raise DataError(
            f"{table}: {len(numbers)} combinations of {num_classes} classes; expected at most "
            f"{_MAX_SETS_BYTES // num_classes}; leave out rare classes"
        )
    ordered = sorted(numbers)
    rank = {combination: at for at, combination in enumerate(ordered)}
    return [rank[combination] for combination in numbers], make_label_sets(ordered, num_classes)
