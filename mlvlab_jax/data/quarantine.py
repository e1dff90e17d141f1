"""Examples that could not be read: written down with their reason, counted, and limited."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mlvlab_jax.errors import DataError


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


class Quarantine:
    """The record of a run's unreadable examples, one JSON line each in `path`.

    Args:
        path: JSON lines file; what is in it already is not written again. None writes nothing.
        sizes: Examples in each split.
        max_bad_fraction: Share of a split beyond which the run stops.
    """

    def __init__(self, path: Path | None, *, sizes: dict[str, int], max_bad_fraction: float) -> None:
        self._path = path
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
                f"{len(bad)} of {self._sizes[split]} examples of split {split!r} are unreadable, more than the share of "
                f"{self._max_bad_fraction:g} in pipeline.max_bad_fraction; the first are\n{listed}\n"
                f"{f'all are in {self._path}; ' if self._path else ''}repair or remove the files"
            )
