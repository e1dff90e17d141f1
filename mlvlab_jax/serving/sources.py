"""Where the served package comes from: a folder, or a version or alias of a registry."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mlvlab_jax.errors import PackageError, RegistryError
from mlvlab_jax.package.archive import open_folder
from mlvlab_jax.package.manifest import read_manifest

if TYPE_CHECKING:
    from mlvlab_jax.registry.model_registry import ModelRegistry


class Found(NamedTuple):
    """The version that is to be served: what clients call it, and the digest of its package."""

    name: str
    version: str
    sha256: str


class Source(Protocol):
    """Says which version is to be served."""

    follows: bool
    """Whether it can change by itself, so that it is worth looking again and again."""

    def find(self) -> Found:
        """The version that is meant now.

        Raises:
            MlvlabError: It cannot be told now; what is served goes on.
        """

    def open(self, found: Found) -> Path:
        """Its package, a folder or a tar.

        Raises:
            MlvlabError: There is none.
        """


class FolderSource:
    """One package that is not in a registry; its version is the beginning of its digest."""

    follows = False  # who puts new files there says so when all of them are there

    def __init__(self, path: Path) -> None:
        self._path = path

    def find(self) -> Found:
        """As in `Source`."""
        with open_folder(self._path) as folder:
            manifest = read_manifest(folder)
        return Found(manifest.name, manifest.sha256[:12], manifest.sha256)

    def open(self, found: Found) -> Path:
        """As in `Source`."""
        return self._path


class RegistrySource:
    """A model of a registry, by version or alias."""

    def __init__(self, registry: "ModelRegistry", *, name: str, version: str | None, alias: str | None) -> None:
        which = version or alias
        if which is None:
            raise RegistryError(f"{name!r}: expected NAME@ALIAS or NAME:VERSION, for example {name}@champion")
        self.follows = version is None
        self._registry, self._name, self._which = registry, name, which

    def find(self) -> Found:
        """As in `Source`."""
        record = self._registry.get(self._name, self._which)
        return Found(record.name, record.version, record.package_sha256 or "")

    def open(self, found: Found) -> Path:
        """As in `Source`."""
        return self._registry.open_package(found.name, found.version)


def check_digest(found: Found, sha256: str) -> None:
    """Refuses a package that is whole, but another than was registered.

    Raises:
        PackageError: Its digest is not the one of `found`.
    """
    if sha256 != found.sha256:
        raise PackageError(
            f"{found.name} {found.version}: the package has digest {sha256}; expected {found.sha256}; "
            "bring it back from a backup"
        )


def stamp(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, lengths and times of the files at `path`; another one means that they were changed."""
    with contextlib.suppress(OSError):
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        return tuple((str(file), (status := file.stat()).st_size, status.st_mtime_ns) for file in files)
    return ()
