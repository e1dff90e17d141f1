"""A table of images: one line an image in CSV or JSON lines, with its path, label and split, and columns of its own."""

import csv
import itertools
import json
import math
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from pydantic import Field

from mlvlab_jax.config.fields import OPERATIONAL, configclass
from mlvlab_jax.data.columns import MAX_COLUMNS, Column, ColumnReader
from mlvlab_jax.data.records import FileRecords
from mlvlab_jax.data.source import OpenedData, compute_index_digest
from mlvlab_jax.data.sources.image_folder import SPLIT_FOLDERS
from mlvlab_jax.data.versions import pull_hint
from mlvlab_jax.errors import DataError
from mlvlab_jax.plugins import SOURCES, did_you_mean

#: Largest class number without a class list; a larger one is an article number or the like.
_MAX_NUMBER = 100_000


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
    own = {params.path_column, params.label_column, params.split_column, params.weight_column, None}
    for line, row in _read_rows(table):
        extra = {name: value for name, value in row.items() if name not in own}
        rows.add(*_parse_row(row, params, place=f"{table}:{line}"), extra, line=line)
    if not rows.paths:
        raise DataError(
            f"{table}: no rows; expected a line of column names and a line an image, or a JSON object a line"
        )
    class_names, label_of = _classes(rows, params.class_names, table)
    if "train" not in rows.paths:
        raise DataError(f"{table}: no rows for training; expected 'train' in column {params.split_column!r}")
    splits = {
        split: FileRecords(
            root, paths, np.asarray([label_of[rows.labels[code]] for code in rows.codes[split]], np.int64)
        )
        for split, paths in rows.paths.items()
    }
    listed = (
        f"{split}\t{path}\t{label}\t{weight}"
        for split, records in splits.items()
        for path, label, weight in zip(records.paths, records.labels, rows.weights[split], strict=True)
    )
    identity = {"origin": table.name, "index": compute_index_digest(listed)}
    weights = {split: np.asarray(values) for split, values in rows.weights.items() if set(values) != {1.0}}
    columns = {split: rows.finish_columns(split) for split in splits}
    return OpenedData(splits, class_names, identity, None, (table, root), weights, columns=columns)


class _Rows:
    """The rows split by split; a label is kept as its place among the labels that occur."""

    def __init__(self) -> None:
        self.paths: dict[str, list[str]] = {}
        self.codes: dict[str, array[int]] = {}
        self.weights: dict[str, array[float]] = {}
        self.labels: list[str] = []
        self.first_lines: list[int] = []
        self._code_of: dict[str, int] = {}
        self._columns: dict[str, dict[str, ColumnReader]] = {}

    def add(self, split: str, path: str, label: str, weight: float, extra: dict[str, Any], *, line: int) -> None:
        """Takes the row in `line` of the table."""
        if label not in self._code_of:
            self._code_of[label] = len(self.labels)
            self.labels.append(label)
            self.first_lines.append(line)
        self.paths.setdefault(split, []).append(path)
        self.codes.setdefault(split, array("l")).append(self._code_of[label])
        self.weights.setdefault(split, array("d")).append(weight)
        columns = self._columns.setdefault(split, {})
        for name in dict.fromkeys((*columns, *extra)):
            if name not in columns and len(columns) < MAX_COLUMNS:
                columns[name] = ColumnReader(num_empty=len(self.paths[split]) - 1)
            if name in columns:
                columns[name].add(extra.get(name))

    def finish_columns(self, split: str) -> dict[str, Column]:
        """The columns of a split, in alphabetical order, that hold something to sort examples by."""
        finished = ((name, reader.finish()) for name, reader in sorted(self._columns[split].items()))
        return {name: column for name, column in finished if column is not None}


def _read_rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, row) of a table, read line by line."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            if table.suffix.lower() == ".csv":
                yield from _read_csv(file, table)
            elif table.suffix.lower() in (".jsonl", ".ndjson"):
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield number, _parse_object(line, place=f"{table}:{number}")
            else:
                raise DataError(f"{table}: expected a file ending in .csv or .jsonl; set data.params.path")
    except OSError as error:
        raise DataError(
            f"{table}: {error.strerror}; set data.params.path to a .csv or .jsonl file{pull_hint(table)}"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{table}: not UTF-8 text at byte {error.start}; save the file as UTF-8") from None


def _read_csv(file: TextIO, table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(file, strict=True)
    try:
        yield from ((reader.line_num, row) for row in reader)
    except csv.Error as error:
        place = f"{table}:{reader.reader.line_num}"
        raise DataError(f"{place}: not CSV: {error}; quote values that hold commas or quotes") from None


def _parse_object(line: str, *, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not JSON: {error.msg}; expected one object a line") from None
    if not isinstance(row, dict):
        raise DataError(f"{place}: {row!r}; expected an object such as {{'path': 'a.jpg', 'label': 'cat'}}")
    return row


def _parse_row(row: dict[str, Any], params: ManifestParams, *, place: str) -> tuple[str, str, str, float]:
    """(split, path, label, weight) of a row."""
    for column in (params.path_column, params.label_column):
        if column not in row:
            known = [key for key in row if key is not None]
            raise DataError(
                f"{place}: no column {column!r}{did_you_mean(column, known)} (there are: {', '.join(known)}); "
                "name it in data.params.path_column or label_column"
            )
    path, label = row[params.path_column], row[params.label_column]
    if not isinstance(path, str) or not path:
        raise DataError(f"{place}: {params.path_column} is {path!r}; expected the path of an image file")
    if isinstance(label, bool | float | list | dict) or label in (None, ""):
        raise DataError(f"{place}: {params.label_column} is {label!r}; expected one class name or whole number")
    named = row.get(params.split_column or "", "train")
    split = SPLIT_FOLDERS.get(str(named).strip().lower())
    if split is None:
        raise DataError(f"{place}: {params.split_column} is {named!r}; expected train, validation or test")
    return split, path, str(label), _parse_weight(row.get(params.weight_column or "", 1.0), place=place)


def _parse_weight(value: Any, *, place: str) -> float:
    try:
        weight = float(value)
    except (TypeError, ValueError):
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise DataError(f"{place}: weight is {value!r}; expected a number of at least 0; correct the row")
    return weight


def _classes(rows: _Rows, class_names: tuple[str, ...] | None, table: Path) -> tuple[tuple[str, ...], dict[str, int]]:
    """Class names, and the number of each label that occurs."""
    labels = rows.labels
    numbers = all(label.isdecimal() for label in labels)
    if class_names is None:
        if numbers and labels:
            highest = max(labels, key=int)
            if int(highest) > _MAX_NUMBER:
                raise DataError(
                    f"{table}:{rows.first_lines[labels.index(highest)]}: label {highest}; expected the number of "
                    "a class, "
                    f"at most {_MAX_NUMBER}; list the labels in data.params.class_names"
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
            f"{table}:{rows.first_lines[labels.index(unknown[0])]}: {len(unknown)} labels are not in the class list, "
            f"such as {listed}"
            f"{did_you_mean(unknown[0], class_names)}; expected one of {list(class_names)[:10]}; "
            "correct the rows or data.params.class_names"
        )
    if len(class_names) < 2:
        raise DataError(f"{table}: {len(class_names)} classes {list(class_names)}; expected at least two")
    return class_names, label_of
