"""What a table says of its examples beside path and label: columns of text or numbers, in a few bytes a row."""

import dataclasses
import math
from array import array
from typing import Any

import numpy as np

#: Columns kept of a table; the first.
MAX_COLUMNS = 100
#: Different values, and characters of one, beyond which a column of text is taken for free text, and forgotten.
_MAX_VALUES, _MAX_CHARACTERS = 1000, 200


@dataclasses.dataclass(frozen=True, eq=False)
class Column:
    """One column of a split, by index in the source.

    codes: int32 (n), the place of each row's value among `values`; None where there are too many different ones.
    numbers: float64 (n), NaN where empty; None where some value is no number. Not both are None.
    """

    codes: np.ndarray | None
    values: tuple[str, ...]
    numbers: np.ndarray | None


class ColumnReader:
    """Takes the values of a column row by row, and keeps at most 12 bytes a row and `_MAX_VALUES` different texts.

    Args:
        num_empty: Rows before the first that has this column.
    """

    def __init__(self, *, num_empty: int) -> None:
        self._code_of: dict[str, int] = {"": 0} if num_empty else {}
        self._codes: array[int] | None = array("i", [0]) * num_empty
        self._numbers: array[float] | None = array("d", [math.nan]) * num_empty

    def add(self, value: Any) -> None:
        """Takes the value of the next row; None and blank text are an empty value."""
        text = "" if value is None else str(value).strip()
        if self._codes is not None:
            self._codes.append(self._code_of.setdefault(text, len(self._code_of)))
            if len(self._code_of) > _MAX_VALUES or len(text) > _MAX_CHARACTERS:
                self._codes = None
        if self._numbers is not None:
            number = _parse_number(text)
            if number is None:
                self._numbers = None
            else:
                self._numbers.append(number)

    def finish(self) -> Column | None:
        """The column; None where it holds nothing to sort examples by."""
        if self._codes is None and self._numbers is None:
            return None
        return Column(
            None if self._codes is None else np.asarray(self._codes, np.int32),
            () if self._codes is None else tuple(self._code_of),
            None if self._numbers is None else np.asarray(self._numbers, np.float64),
        )


def _parse_number(text: str) -> float | None:
    if not text:
        return math.nan
    try:
        return float(text)
    except ValueError:
        return None
