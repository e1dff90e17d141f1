"""A registry in a folder. Readers take no lock: what they see was put there by one rename.

NAME/versions/1.0.0/version.json   what was registered, with package/ beside it; never changes
NAME/aliases.json                  alias -> version, and the last change
NAME/history.jsonl                 every change
NAME/staging/                      versions being copied
"""

import contextlib
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from mlvlab_jax.errors import DiskError, RegistryError
from mlvlab_jax.files import locked, write_json
from mlvlab_jax.package.manifest import is_name
from mlvlab_jax.registry.copies import copy_package, sync, verify_copy
from mlvlab_jax.registry.history import append_event, ends_with, read_events
from mlvlab_jax.registry.store import (
    Event,
    ModelVersion,
    exists_error,
    moved_error,
    parse_event,
    parse_record,
    registration,
    unknown_error,
)
from mlvlab_jax.registry.versions import is_version, parse_version

DEFAULT_ROOT = Path("experiments/registry")


class FileStore:
    """Models in the folder `root`, which need not exist yet."""

    def __init__(self, root: Path = DEFAULT_ROOT) -> None:
        self._root = root

    def __str__(self) -> str:
        return str(self._root)

    def names(self) -> list[str]:
        """As in `Store`."""
        return [name for name in _list(self._root) if is_name(name) and self.versions(name)]

    def versions(self, name: str) -> list[str]:
        """As in `Store`."""
        found = _list(self._root / name / "versions")
        return sorted((version for version in found if is_version(version)), key=parse_version)

    def get(self, name: str, version: str) -> ModelVersion:
        """As in `Store`."""
        path = self._folder(name, version) / "version.json"
        try:
            return parse_record(path.read_text(encoding="utf-8"), place=str(path))
        except FileNotFoundError:
            raise unknown_error(self, name, version) from None
        except (OSError, UnicodeDecodeError) as error:
            raise RegistryError(f"{path}: cannot be read ({error}); bring it back from a backup") from None

    def register(self, record: ModelVersion, *, package: Path | None) -> None:
        """As in `Store`: the version is put together aside, then renamed into place; the rename has one winner."""
        target = self._folder(record.name, record.version)
        if record.version in self.versions(record.name):
            raise exists_error(record.name, record.version, place=str(self))
        with _disk_errors(self._root), self._staging(record.name) as staging:
            if package is not None:
                copy_package(package, staging / "package", record)
            write_json(staging / "version.json", record.to_tree())
            with self._locked(record.name) as folder:
                target.parent.mkdir(exist_ok=True)
                try:
                    staging.rename(target)
                except OSError:
                    if not target.exists():
                        raise
                    raise exists_error(record.name, record.version, place=str(self)) from None
                with contextlib.suppress(OSError):  # `history` knows it all the same
                    append_event(folder / "history.jsonl", registration(record))
                for changed in (target.parent, folder, self._root):
                    sync(changed)

    def open_package(self, record: ModelVersion) -> Path | None:
        """As in `Store`."""
        return self._folder(record.name, record.version) / "package" if record.package_sha256 else None

    def verify(self, record: ModelVersion) -> None:
        """As in `Store`."""
        if (folder := self.open_package(record)) is not None:
            verify_copy(folder, record)

    def aliases(self, name: str) -> dict[str, str]:
        """As in `Store`."""
        return self._read_aliases(name)[0]

    def set_alias(self, name: str, alias: str, event: Event) -> None:
        """As in `Store`."""
        if event.version not in self.versions(name):
            raise unknown_error(self, name, event.version)
        with _disk_errors(self._root), self._locked(name) as folder:
            aliases, last = self._read_aliases(name)
            if aliases.get(alias) != event.previous:
                raise moved_error(name, event, aliases.get(alias))
            if last is not None and not ends_with(folder / "history.jsonl", last):
                append_event(folder / "history.jsonl", last)  # its writer died before it could
            changed = dict(sorted({**aliases, alias: event.version}.items()))
            write_json(folder / "aliases.json", {"schema": 1, "aliases": changed, "last": event.to_tree()})
            with contextlib.suppress(OSError):  # the alias has moved; the next move adds the line
                append_event(folder / "history.jsonl", event)

    def history(self, name: str) -> list[Event]:
        """As in `Store`."""
        events = read_events(self._root / name / "history.jsonl")
        # A writer that dies between a change and its line leaves no line; the change itself says as much.
        noted = {event.id for event in events}
        registrations = (registration(self.get(name, version)) for version in self.versions(name))
        _, last = self._read_aliases(name)
        lost = [event for event in registrations if event.id not in noted]
        return [*lost, *events, *([last] if last is not None and last.id not in noted else [])]

    def _folder(self, name: str, version: str) -> Path:
        return self._root / name / "versions" / version

    def _read_aliases(self, name: str) -> tuple[dict[str, str], Event | None]:
        """Alias -> version, and the last change of one."""
        path = self._root / name / "aliases.json"
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            return tree["aliases"], parse_event(json.dumps(tree["last"]), place=str(path))
        except FileNotFoundError:
            return {}, None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RegistryError(f"{path}: cannot be read ({error!r}); bring it back from a backup") from None

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[Path]:
        """Holds the writer's lock of `name`."""
        folder = self._root / name
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock"):
            yield folder

    @contextlib.contextmanager
    def _staging(self, name: str) -> Iterator[Path]:
        """A new folder for one version, gone afterwards unless it was renamed; those of dead writers are removed."""
        with contextlib.ExitStack() as stack:
            with self._locked(name) as folder:
                (folder / "staging").mkdir(exist_ok=True)
                for left in (folder / "staging").iterdir():
                    _remove_unless_held(left)
                made = folder / "staging" / uuid.uuid4().hex
                made.mkdir()
                descriptor = os.open(made, os.O_RDONLY)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            stack.callback(shutil.rmtree, made, ignore_errors=True)
            yield made


def _remove_unless_held(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError, BlockingIOError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        finally:
            os.close(descriptor)


def _list(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted; none if it is not there."""
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RegistryError(f"{folder}: {error.strerror}; expected a registry's folder; check --registry") from None


@contextlib.contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"{root}: {error.strerror or error}; nothing was registered or moved; expected room and the right to write"
        ) from None
