"""Rows of a table in a file: CSV or JSON lines, read line by line."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from mlvlab_jax.data.versions import pull_hint
from mlvlab_jax.errors import DataError


def read_rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, row) of a table.

    Raises:
        DataError: No such file, or not CSV or JSON lines in UTF-8; with file and line.
    """
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
