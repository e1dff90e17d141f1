"""Which checkpoint a run goes on from: the newest that is what was saved. Damaged ones are put aside, never used."""

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

from mlvlab_jax.engine.distributed import from_first, is_first
from mlvlab_jax.engine.goodput import find_saved, read_ledger
from mlvlab_jax.engine.integrity import find_damage, find_newer, is_cut_off, summarise
from mlvlab_jax.errors import CheckpointError, DiskError

_LEFTOVER = ".orbax-checkpoint-tmp"
_WAYS_OUT = "bring the files back from a copy, or train anew with another --workdir"


class Found(NamedTuple):
    """What lies in a folder of checkpoints, from the newest step down to the first that is intact.

    intact: that step. damaged: what is wrong with those after it. newer: of them, those of a format that is not known.
    foreign: names of what is no checkpoint. saved: the newest step that the run's ledger knows to have been saved.
    """

    intact: int | None
    damaged: list[tuple[int, list[str]]]
    newer: list[tuple[int, str]]
    foreign: list[str]
    saved: int | None


def begin_looking(folder: Path) -> "Future[Found] | None":
    """Begins to compare the newest checkpoints with their digests, in a thread of the first process of a run.

    Digests of a large state take a good part of the time of its restore; while a run gets ready, they take none.
    """
    if not is_first():
        return None
    looking: Future[Found] = Future()

    def look() -> None:
        try:
            looking.set_result(_look_back(folder))
        except Exception as error:  # noqa: BLE001 - raised again where it is asked for
            looking.set_exception(error)

    # A daemon: a run that ends by an error of its configuration does not wait for it.
    threading.Thread(target=look, name="look-back", daemon=True).start()
    return looking


def recover(folder: Path, note: Callable[[str], None], *, looking: "Future[Found] | None" = None) -> int | None:
    """The newest intact step in a folder of checkpoints that nobody else writes; damaged ones after it are moved away.

    They go to quarantine/ beside the folder. To be called by all processes of a run, before a store is opened.

    Args:
        folder: Where the checkpoints lie, if there are any.
        note: Is told of each that was moved, and of what lies there and is none.
        looking: Of `begin_looking`, in the first process; None: it is looked now.

    Returns:
        The step, or None where none was ever saved.

    Raises:
        CheckpointError: One was saved, and none is intact, or one is of a newer format; nothing is moved then.
        DiskError: A damaged one cannot be moved away.
    """
    found = Found(*from_first(lambda: _look_back(folder) if looking is None else looking.result()))
    _refuse(folder, found)
    if found.foreign:
        note(f"{folder}: left alone, as they are no checkpoints: {summarise(found.foreign)}")
    going_on = "nothing was saved before it" if found.intact is None else f"going on from step {found.intact}"
    for bad, lines in found.damaged:
        place = from_first(lambda bad=bad: str(_put_aside(folder / str(bad))))  # type: ignore[misc]
        note(f"checkpoint {bad} is damaged: {summarise(lines)}; moved to {place}, {going_on}")
    return found.intact


def list_steps(folder: Path) -> list[int]:
    """Numbers of the checkpoints in `folder`, ascending; whether they are intact is another question.

    Raises:
        CheckpointError: The folder cannot be read.
    """
    return sorted(int(name) for name, is_step in _list_entries(folder) if is_step)


def _list_entries(folder: Path) -> list[tuple[str, bool]]:
    """Names, and which of them are those of checkpoints."""
    try:
        entries = list(folder.iterdir()) if folder.is_dir() else []
        return [(e.name, e.name.isdecimal() and e.name == str(int(e.name)) and e.is_dir()) for e in entries]
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be read: {error.strerror}; expected a folder of checkpoints; give yourself the "
            "right to read it, or give another --workdir"
        ) from error


def _look_back(folder: Path) -> Found:
    names = _list_entries(folder)
    foreign = sorted(name for name, is_step in names if not is_step and not name.endswith(_LEFTOVER))
    found = Found(None, [], [], foreign, find_saved(read_ledger(folder.parent / "goodput.jsonl")))
    for step in sorted((int(name) for name, is_step in names if is_step), reverse=True):
        lines = find_damage(folder / str(step))
        if not lines:
            return found._replace(intact=step)
        found.damaged.append((step, lines))
        if newer := find_newer(folder / str(step)):
            found.newer.append((step, newer))
    return found


def _refuse(folder: Path, found: Found) -> None:
    """Raises where going on, or starting anew, would leave behind what was saved."""
    for step, newer in found.newer:
        raise CheckpointError(f"{folder / str(step)}: {newer}, or train anew with another --workdir")
    if found.intact is not None:
        return
    if found.damaged and (found.saved is not None or not all(is_cut_off(lines) for _, lines in found.damaged)):
        listed = "\n".join(f"  step {step}: {summarise(lines)}" for step, lines in found.damaged)
        raise CheckpointError(f"{folder}: no checkpoint is intact:\n{listed}\n{_WAYS_OUT}")
    if found.saved is not None and not found.damaged:
        others = f"; what lies there: {summarise(found.foreign)}" if found.foreign else ""
        raise CheckpointError(
            f"{folder}: no checkpoint is there, though goodput.jsonl says that step {found.saved} was saved{others}; "
            f"{_WAYS_OUT}"
        )


def _put_aside(checkpoint: Path) -> Path:
    folder = checkpoint.parent.parent / "quarantine"
    number, target = 0, folder / checkpoint.name
    while target.exists():
        number += 1
        target = folder / f"{checkpoint.name}.{number}"
    try:
        folder.mkdir(exist_ok=True)
        shutil.move(checkpoint, target)
    except OSError as error:
        raise DiskError(
            f"{checkpoint}: is damaged, and cannot be moved to {target}: {error.strerror or error}; free some space, "
            "or make the run folder writable"
        ) from error
    return target
