"""Examples that could not be read: written down with their reason, counted, and limited."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlvlab_jax.data.source import Stored
from mlvlab_jax.errors import DataError
from mlvlab_jax.files import write_atomic


class BadExample(NamedTuple):
    """One unreadable example: its split, its index in the source, its name and why."""

    split: str
    example_id: int
    name: str
    reason: str


def refuse_bad(found: Sequence[BadExample]) -> None:
    """Stops at the first unreadable example.

    Raises:
        DataError: `found` is not empty.
    """
    if found:
        raise DataError(f"{found[0].name}: {found[0].reason}; replace or remove the file")


def write_quarantine(path: Path, examples: Sequence[BadExample]) -> None:
    """Writes the list of examples to leave out, one JSON line each."""
    write_atomic(path, "".join(json.dumps(example._asdict()) + "\n" for example in examples).encode())


def read_left_out(path: Path, splits: Mapping[str, Stored]) -> dict[str, np.ndarray]:
    """The examples that the list at `path` names: their indices, int64 (n), in each split of the source.

    An example is found by its name; its index only tells apart those of one name. A split that the source lacks is the
    part of its training split that a run held out.

    Raises:
        DataError: The list cannot be read, or names an example that is not there.
    """
    left_out: dict[str, set[int]] = {name: set() for name in splits}
    indices: dict[str, dict[str, int]] = {}
    for place, example in _read_list(path):
        split = example.split if example.split in splits else "train"
        records, index = splits[split], example.example_id
        if not (0 <= index < len(records) and records.name(index) == example.name):
            if split not in indices:
                indices[split] = {records.name(i): i for i in range(len(records))}
            if example.name not in indices[split]:
                raise DataError(
                    f"{place}: {example.name!r} is not in split {split!r} of the data; expected an example of it; "
                    "remove the line, or write the list anew with mlvlab validate"
                )
            index = indices[split][example.name]
        left_out[split].add(index)
    return {split: np.array(sorted(ids), np.int64) for split, ids in left_out.items()}


def _read_list(path: Path) -> list[tuple[str, BadExample]]:
    """('file:line', example) of each line."""
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}; set pipeline.quarantine to a quarantine.jsonl, or to null"
        ) from None
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            example: BadExample | None = BadExample(**json.loads(line))
        except (json.JSONDecodeError, TypeError):
            example = None
        if example is None or [type(value) for value in example] != [str, int, str, str]:
            raise DataError(
                f"{path}:{number}: {line[:80]!r}; expected an object with {BadExample._fields}; remove the line"
            )
        found.append((f"{path}:{number}", example))
    return found


class Quarantine:
    """The record of a run's unreadable examples, one JSON line each in `path`.

    Args:
        path: JSON lines file; what is in it already is not written again. None writes nothing.
        sizes: Examples in each split.
        max_bad_fraction: Share of a split beyond which the run stops.
        writes: Whether what is new is written, as by one of several processes that know the same.
    """

    def __init__(
        self, path: Path | None, *, sizes: dict[str, int], max_bad_fraction: float, writes: bool = True
    ) -> None:
        self._path = path if writes else None
        self._sizes = sizes
        self._max_bad_fraction = max_bad_fraction
        self._known: dict[tuple[str, int], BadExample] = {}
        if path is not None and path.exists():
            for line in path.read_text().splitlines():
                example = BadExample(**json.loads(line))
                self._known[example.split, example.example_id] = example

    @property
    def num_bad(self) -> int:
        """Unreadable examples met so far."""
        return len(self._known)

    def add(self, found: Sequence[BadExample]) -> None:
        """Writes what is new of `found`.

        Raises:
            DataError: More than the allowed share of a split is unreadable; the message names the first files.
        """
        by_place = {(example.split, example.example_id): example for example in found}
        new = [example for place, example in by_place.items() if place not in self._known]
        if not new:
            return
        self._known |= by_place
        if self._path is not None:
            with self._path.open("a") as file:
                file.writelines(json.dumps(example._asdict()) + "\n" for example in new)
        for split in {example.split for example in new}:
            self._check(split)

    def _check(self, split: str) -> None:
        bad = [example for example in self._known.values() if example.split == split]
        if len(bad) > self._max_bad_fraction * self._sizes[split] or len(bad) == self._sizes[split]:
            listed = "\n".join(f"  {example.name}: {example.reason}" for example in bad[:10])
            raise DataError(
                f"{len(bad)} of {self._sizes[split]} examples of split {split!r} are unreadable, more than the share "
                f"of {self._max_bad_fraction:g} in pipeline.max_bad_fraction; the first are\n{listed}\n"
                f"{f'all are in {self._path}; ' if self._path else ''}repair or remove the files"
            )
