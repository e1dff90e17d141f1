"""In what a saved state is another than the one it is to be restored into: all of it at once, in words."""

import difflib
from collections.abc import Mapping
from typing import NamedTuple


class Kind(NamedTuple):
    """Shape and type of an array."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


def list_mismatches(expected: Mapping[str, Kind], found: Mapping[str, Kind]) -> list[str]:
    """Arrays that are missing, of another shape or type, or not asked for, a line each, in this order; [] where none.

    Args:
        expected: Those of the model as it is configured now, by name.
        found: Those that were saved.
    """
    missing = sorted({*expected} - {*found})
    extra = sorted({*found} - {*expected})
    both = sorted({*expected} & {*found})
    lines = [f"{name}: missing; expected {expected[name]}{_find_near(name, extra)}" for name in missing]
    lines += [f"{name}: {found[name]}, expected {expected[name]}" for name in both if found[name] != expected[name]]
    return lines + [f"{name}: {found[name]}, which this model does not have" for name in extra]


def _find_near(name: str, others: list[str]) -> str:
    near = difflib.get_close_matches(name, others, n=1)
    return f"; there is '{near[0]}'" if near else ""
