"""The history of a model: a file of one JSON object a line that only grows, and what follows from the events in it."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from mlvlab_jax.errors import RegistryError
from mlvlab_jax.registry.store import Event, parse_event

_TAIL_BYTES = 2**16


def append_event(path: Path, event: Event) -> None:
    """Adds a line; the part of one that a crash left at the end is taken away first. Needs the writer's lock."""
    with path.open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        tail = _read_tail(file.fileno(), size)
        if not tail.endswith(b"\n"):
            file.truncate(size - len(tail) + tail.rfind(b"\n") + 1)
        file.write(json.dumps(event.to_tree()).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def ends_with(path: Path, event: Event) -> bool:
    """Whether `event` is among the last lines."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        return event.id.encode() in _read_tail(file.fileno(), file.seek(0, os.SEEK_END))


def read_events(path: Path) -> list[Event]:
    """All events, the oldest first; a last line without its end, which a crash left, does not count.

    Raises:
        RegistryError: The file cannot be read, or was not written by `append_event`.
    """
    try:
        *lines, _ = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise RegistryError(f"{path}: cannot be read ({error}); bring it back from a backup") from None
    return [parse_event(line, place=f"{path}:{number}") for number, line in enumerate(lines, 1)]


def previous_versions(events: Iterable[Event], alias: str) -> list[str]:
    """Versions that `alias` pointed to, as a stack: a promotion puts one on top, a rollback takes the top away."""
    stack: list[str] = []
    for event in events:
        if event.alias != alias:
            continue
        if event.action == "rollback":
            del stack[-1:]
        if stack[-1:] != [event.version]:
            stack.append(event.version)
    return stack


def _read_tail(descriptor: int, size: int) -> bytes:
    return os.pread(descriptor, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
