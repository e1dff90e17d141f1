"""What every place that keeps models can do, and what it keeps: versions, which never change, and events."""

import dataclasses
import datetime
import getpass
import json
import os
import socket
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from mlvlab_jax.errors import RegistryError
from mlvlab_jax.plugins import did_you_mean


@dataclasses.dataclass(frozen=True)
class ModelVersion:
    """One version of a model, as it was registered.

    created: ISO 8601 in UTC. created_by: user@host. model_class: qualified name, for a model registered as a class.
    package_sha256: digest of the whole package, for one registered as a package. metadata: what the user gave, as
    JSON values. environment: versions of the packages, Python and git commit it was registered with.
    """

    name: str
    version: str
    created: str
    created_by: str
    model_class: str | None
    package_sha256: str | None
    metadata: Mapping[str, Any]
    environment: Mapping[str, Any]

    def to_tree(self) -> dict[str, Any]:
        """As JSON values."""
        return {"schema": 1, **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True)
class Event:
    """One change: what was done, when (ISO 8601 in UTC) and by whom (user@host).

    alias and previous: the alias that moved and the version it pointed to before, where one moved. details: of a
    promotion, its policy and what each gate said.
    """

    id: str
    time: str
    who: str
    action: Literal["register", "promote", "rollback"]
    version: str
    alias: str | None = None
    previous: str | None = None
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_tree(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)


class Store(Protocol):
    """Where versions and aliases are kept. Every change is whole or not there, whoever else is writing."""

    def names(self) -> list[str]:
        """Models with at least one version, sorted."""

    def versions(self, name: str) -> list[str]:
        """Versions of `name`, the lowest first; none for an unknown name."""

    def get(self, name: str, version: str) -> ModelVersion:
        """What was registered as that version.

        Raises:
            RegistryError: No such model or version.
        """

    def register(self, record: ModelVersion, *, package: Path | None) -> None:
        """Adds a version with a copy of its package; of several writers of one version exactly one succeeds.

        Raises:
            RegistryError: The version exists.
        """

    def open_package(self, record: ModelVersion) -> Path | None:
        """Folder with the package of a version, fetched if need be; None for a version without one."""

    def verify(self, record: ModelVersion) -> None:
        """Reads every byte of a version's package where it is kept; a version without one is good.

        Raises:
            PackageError: It is not whole, or not the one that was registered.
        """

    def aliases(self, name: str) -> dict[str, str]:
        """Alias -> version."""

    def set_alias(self, name: str, alias: str, event: Event) -> None:
        """Lets `alias` point to `event.version`, in one moment for all readers.

        Raises:
            RegistryError: The alias does not point to `event.previous`: someone moved it since.
        """

    def history(self, name: str) -> list[Event]:
        """Every change, the oldest first."""


def make_move(
    action: Literal["promote", "rollback"],
    *,
    alias: str,
    version: str,
    previous: str | None,
    details: Mapping[str, Any],
) -> Event:
    """A move of `alias` from `previous` to `version`, made now by this user."""
    return Event(uuid.uuid4().hex, now(), user(), action, version, alias, previous, details)


def registration(record: ModelVersion) -> Event:
    """The event that brought `record` about."""
    return Event(f"register {record.version}", record.created, record.created_by, "register", record.version)


def now() -> str:
    """This moment, ISO 8601 in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def user() -> str:
    """user@host; the number of a user who has no name, as in a container."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"


def parse_record(text: str, *, place: str) -> ModelVersion:
    """The version whose `to_tree` was written as JSON.

    Raises:
        RegistryError: It was not; names `place`.
    """
    return _parse(ModelVersion, text, place)


def parse_event(text: str, *, place: str) -> Event:
    """The event whose `to_tree` was written as JSON.

    Raises:
        RegistryError: It was not; names `place`.
    """
    return _parse(Event, text, place)


def _parse(kind: type[Any], text: str, place: str) -> Any:
    try:
        tree = json.loads(text)
        tree.pop("schema", None)
        return kind(**tree)
    except (ValueError, TypeError, AttributeError) as error:
        raise RegistryError(f"{place}: not written by a registry ({error}); bring it back from a backup") from None


def exists_error(name: str, version: str, *, place: str) -> RegistryError:
    """For a version that is there already."""
    return RegistryError(
        f"{name} {version}: exists in {place}, and a version never changes; expected a new one; raise the number"
    )


def moved_error(name: str, event: Event, current: str | None) -> RegistryError:
    """For an alias that someone else moved."""
    return RegistryError(
        f"{name}@{event.alias}: points to {current or 'nothing'}; expected {event.previous or 'nothing'}, as when this "
        "change began: someone moved it since; look at 'mlvlab registry show', and try again"
    )


def unknown_error(store: Store, name: str, version: str) -> RegistryError:
    """For a model or a version of it that is not there; names near ones."""
    versions = store.versions(name)
    if versions:
        return RegistryError(f"{name} has no version {version}{listed(versions)}")
    known = store.names()
    return RegistryError(f"no model {name!r} is registered{did_you_mean(name, known) or listed(known)}")


def listed(names: Sequence[str]) -> str:
    """'; there are a, b' with at most the last ten names."""
    more = "..., " if len(names) > 10 else ""
    return f"; there are {more}{', '.join(names[-10:])}" if names else "; there are none"
