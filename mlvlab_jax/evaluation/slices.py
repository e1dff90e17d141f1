"""Accuracy on parts of a split: by a column of its table, and by how bright and how large the images are."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from mlvlab_jax.data.columns import Column
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.evaluation.intervals import compute_wilson
from mlvlab_jax.plugins import did_you_mean

#: Different values up to which a column is sliced by without being asked for.
MAX_VALUES = 20
_NUM_BINS = 5
#: What is measured of the images themselves: mean pixel, 0 to 255, and the side of a square as large as the file's.
MEASURED = ("brightness", "size_px")


@dataclasses.dataclass(frozen=True)
class Slice:
    """Accuracy of the examples of one value, with Wilson's 95 % interval."""

    value: str
    count: int
    accuracy: float
    low: float
    high: float


def choose_columns(columns: Mapping[str, Column], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Names of the columns to slice by: those `wanted`, or, of None, all with at most `MAX_VALUES` values.

    Raises:
        ConfigError: One is not there.
    """
    if wanted is None:
        return tuple(name for name, column in columns.items() if 1 < len(column.values) <= MAX_VALUES)
    known = [*columns, *MEASURED]
    for name in wanted:
        if name not in known:
            raise ConfigError(
                f"--slice {name!r}: no such column of the split{did_you_mean(name, known)}; expected one of {known}"
            )
    return tuple(name for name in wanted if name not in MEASURED)


def slice_accuracy(
    correct: np.ndarray, columns: Mapping[str, Column], *, measured: Mapping[str, np.ndarray]
) -> dict[str, list[Slice]]:
    """Accuracy by each column, and by what was measured of the images.

    Args:
        correct: Whether each example is right, bool (n).
        columns: Of the same n examples. One of at most 20 values, or of text, gives a slice a value; one of more
            numbers gives five of equally many examples.
        measured: Of `MEASURED`, float (n); each gives five slices of equally many examples.
    """
    tables = {}
    for name, column in columns.items():
        if column.codes is not None and (column.numbers is None or len(np.unique(column.codes)) <= MAX_VALUES):
            found = _slice(correct, column.codes, [value or "(empty)" for value in column.values])
            tables[name] = sorted(found, key=_place)
        elif column.numbers is not None:
            tables[name] = _slice(correct, *bin_quantiles(column.numbers))
    return tables | {name: _slice(correct, *bin_quantiles(numbers)) for name, numbers in measured.items()}


def take_rows(column: Column, index: np.ndarray) -> Column:
    """The column of the examples at `index`, int (n)."""
    codes = None if column.codes is None else column.codes[index]
    return Column(codes, column.values, None if column.numbers is None else column.numbers[index])


def bin_quantiles(numbers: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Five bins that hold equally many of the numbers, as far as equal ones allow.

    Returns:
        Bin of each, int64 (n), and the bins' names, "1.5 to 20"; NaN has a last bin of its own.
    """
    known = ~np.isnan(numbers)
    bins = np.zeros(len(numbers), np.int64)
    names: list[str] = []
    if known.any():
        inner = np.unique(np.quantile(numbers[known], np.arange(1, _NUM_BINS) / _NUM_BINS, method="higher"))
        bins[known] = np.searchsorted(inner, numbers[known], side="right")
        present, bins[known] = np.unique(bins[known], return_inverse=True)
        for number in range(len(present)):
            inside = numbers[known][bins[known] == number]
            names.append(f"{inside.min():.4g} to {inside.max():.4g}")
    bins[~known] = len(names)
    return bins, [*names, "(empty)"]


def _place(row: Slice) -> tuple[float, str]:
    """Sort key: numbers by size, then texts by letter."""
    try:
        return float(row.value), ""
    except ValueError:
        return math.inf, row.value


def _slice(correct: np.ndarray, codes: np.ndarray, names: Sequence[str]) -> list[Slice]:
    """One slice for each of `names` that occurs."""
    count = np.bincount(codes, minlength=len(names))
    right = np.bincount(codes, correct, len(names))
    low, high = compute_wilson(right, count)
    rows = zip(names, count.tolist(), (right / np.maximum(count, 1)).tolist(), low.tolist(), high.tolist(), strict=True)
    return [Slice(*row) for row in rows if row[1]]
