"""Which checkpoint a run goes on from: the newest that is what was saved. Damaged ones are put aside, never used."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlvlab_jax.engine.distributed import from_first
from mlvlab_jax.engine.integrity import find_damage, summarise
from mlvlab_jax.errors import CheckpointError


def recover(folder: Path, note: Callable[[str], None]) -> int | None:
    """The newest intact step in a folder of checkpoints that nobody else writes; damaged ones after it are moved away.

    They go to quarantine/ beside the folder. To be called by all processes of a run, before a store is opened.

    Args:
        folder: Where the checkpoints lie, if there are any.
        note: Is told of each that was moved.

    Returns:
        The step, or None where there is no checkpoint at all.

    Raises:
        CheckpointError: There are checkpoints, and none is intact; nothing is moved then.
    """
    found = from_first(lambda: _look_back(folder))
    damaged, step = dict(found["damaged"]), found["intact"]
    if step is None and damaged:
        listed = "\n".join(f"  step {bad}: {summarise(lines)}" for bad, lines in damaged.items())
        raise CheckpointError(
            f"{folder}: no checkpoint is intact:\n{listed}\n"
            "bring the files back from a copy, or train anew with another --workdir"
        )
    for bad, lines in damaged.items():
        place = from_first(lambda bad=bad: str(_put_aside(folder / str(bad))))  # type: ignore[misc]
        note(f"checkpoint {bad} is damaged: {summarise(lines)}; moved to {place}, going on from step {step}")
    return None if step is None else int(step)


def list_steps(folder: Path) -> list[int]:
    """Numbers of the checkpoints in `folder`, ascending; whether they are intact is another question."""
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted(int(entry.name) for entry in entries if entry.name.isdecimal() and entry.is_dir())


def _look_back(folder: Path) -> dict[str, Any]:
    damaged: list[tuple[int, list[str]]] = []
    for step in reversed(list_steps(folder)):
        lines = find_damage(folder / str(step))
        if not lines:
            return {"damaged": damaged, "intact": step}
        damaged.append((step, lines))
    return {"damaged": damaged, "intact": None}


def _put_aside(checkpoint: Path) -> Path:
    folder = checkpoint.parent.parent / "quarantine"
    folder.mkdir(exist_ok=True)
    number, target = 0, folder / checkpoint.name
    while target.exists():
        number += 1
        target = folder / f"{checkpoint.name}.{number}"
    shutil.move(checkpoint, target)
    return target
