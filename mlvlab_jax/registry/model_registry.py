"""The registry as a program sees it: versions of models go in, aliases say which of them is meant."""

import dataclasses
import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata as installed
from pathlib import Path
from typing import Any

from mlvlab_jax.data.versions import describe_git
from mlvlab_jax.errors import RegistryError
from mlvlab_jax.package.archive import open_folder
from mlvlab_jax.package.verify import verify_files
from mlvlab_jax.registry.file_store import DEFAULT_ROOT, FileStore
from mlvlab_jax.registry.gate import GateResult, RefusedError, check_digests, run_gates
from mlvlab_jax.registry.history import previous_versions
from mlvlab_jax.registry.names import check_alias, check_name
from mlvlab_jax.registry.policy import PromotionPolicy
from mlvlab_jax.registry.store import Event, ModelVersion, Store, listed, make_move, now, unknown_error, user
from mlvlab_jax.registry.versions import is_version, parse_version

_RECORDED = ("mlvlab_jax", "jax", "jaxlib", "flax", "numpy")


def open_store(place: str = str(DEFAULT_ROOT)) -> Store:
    """The store at `place`: a folder, or the address of an MLflow server or database (anything with '://').

    Raises:
        RegistryError: MLflow is asked for and not installed.
    """
    if "://" not in place:
        return FileStore(Path(place))
    from mlvlab_jax.registry.mlflow_store import MLflowStore

    return MLflowStore(place)


class ModelRegistry:
    """Models by name and version.

    Args:
        store: Where they are kept; the folder experiments/registry if None. `open_store` opens others.
    """

    def __init__(self, store: Store | None = None) -> None:
        self._store: Store = store or FileStore()

    def register(
        self,
        *,
        name: str,
        version: str,
        model_class: type | None = None,
        package: Path | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> ModelVersion:
        """Adds a version, which never changes afterwards.

        Args:
            name: Of the model: letters, digits, '.', '_' and '-'.
            version: Semantic version that the model does not have yet.
            model_class: Class to take down by its qualified name; its code is neither stored nor ever imported.
            package: Model package, a folder or a tar, which is copied. Either this or `model_class`.
            metadata: Anything JSON can say.

        Raises:
            RegistryError: The version exists, or an argument is not as above.
            PackageError: The package is not whole.
        """
        check_name(name)
        parse_version(version)
        if (model_class is None) == (package is None) or not isinstance(model_class, type | None):
            raise RegistryError(f"{name} {version}: expected a class as model_class, or a folder as package")
        record = ModelVersion(
            name=name,
            version=version,
            created=now(),
            created_by=user(),
            model_class=f"{model_class.__module__}.{model_class.__qualname__}" if model_class else None,
            package_sha256=None,
            metadata=_as_json(metadata or {}, place=f"{name} {version}"),
            environment=_describe_environment(),
        )
        if package is None:
            self._store.register(record, package=None)
            return record
        with open_folder(package) as folder:
            record = dataclasses.replace(record, package_sha256=verify_files(folder).sha256)
            self._store.register(record, package=folder)
        return record

    def get(self, name: str, which: str) -> ModelVersion:
        """The version `which`, or the one that the alias `which` points to.

        Raises:
            RegistryError: There is no such model, version or alias.
        """
        check_name(name)
        if is_version(which):
            return self._store.get(name, which)
        check_alias(which)
        aliases = self._store.aliases(name)
        if which not in aliases:
            self._versions(name)
            raise RegistryError(f"{name} has no alias {which!r}{listed(sorted(aliases))}")
        return self._store.get(name, aliases[which])

    def aliases(self, name: str) -> dict[str, str]:
        """Alias -> version.

        Raises:
            RegistryError: There is no such model.
        """
        self._versions(name)
        return self._store.aliases(name)

    def history(self, name: str) -> Sequence[Event]:
        """Every change of a model, the oldest first.

        Raises:
            RegistryError: There is no such model.
        """
        self._versions(name)
        return self._store.history(name)

    def open_package(self, name: str, which: str) -> Path:
        """Folder with the package of a version or alias; its files are not verified here.

        Raises:
            RegistryError: There is no such version, or it was registered as a class.
        """
        record = self.get(name, which)
        folder = self._store.open_package(record)
        if folder is None:
            raise RegistryError(f"{name} {record.version}: registered as a class; expected a package; register one")
        return folder

    def promote(
        self, name: str, version: str, *, alias: str = "champion", policy: PromotionPolicy | None = None
    ) -> tuple[GateResult, ...]:
        """Lets `alias` point to `version` if every gate agrees; what it points to now is the champion.

        Returns:
            What each gate said.

        Raises:
            RefusedError: A gate does not agree; it has the results of all.
            RegistryError: There is no such version, or someone else moved the alias in the meantime.
        """
        check_alias(alias)
        parse_version(version)
        policy = policy or PromotionPolicy()
        record = self.get(name, version)
        previous = self._store.aliases(name).get(alias)
        if previous == version:
            return (GateResult("champion", True, f"{alias} is {version} already; nothing to do"),)
        results = self._ask_gates(record, previous, policy)
        if not all(result.passed for result in results):
            raise RefusedError(f"{name} {version} as {alias}", results)
        details = {"policy": dataclasses.asdict(policy), "gates": [result._asdict() for result in results]}
        move = make_move("promote", alias=alias, version=version, previous=previous, details=details)
        self._store.set_alias(name, alias, move)
        return results

    def rollback(self, name: str, alias: str = "champion") -> ModelVersion:
        """Lets `alias` point to what it pointed to before its last promotion; asks no gate but that of the digests.

        Returns:
            The version it points to now.

        Raises:
            RegistryError: There is no such alias, or nothing before.
            PackageError: The version to go back to is not whole any more.
        """
        current = self.get(name, alias).version
        stack = previous_versions(self._store.history(name), alias)
        earlier = stack[:-1] if stack[-1:] == [current] else stack  # a store's own tools may have moved it
        if not earlier:
            raise RegistryError(f"{name}@{alias}: is {current} and was nothing before; promote another version instead")
        record = self.verify(name, earlier[-1])
        move = make_move("rollback", alias=alias, version=record.version, previous=current, details={})
        self._store.set_alias(name, alias, move)
        return record

    def verify(self, name: str, which: str) -> ModelVersion:
        """Checks every byte of a version's package.

        Raises:
            RegistryError: There is no such version, or its package is another than was registered.
            PackageError: The package is not whole.
        """
        record = self.get(name, which)
        self._store.verify(record)
        return record

    def list(self, name: str | None = None) -> tuple[ModelVersion, ...]:
        """Versions of a model, the lowest first; of all models, one after the other, if `name` is None.

        Raises:
            RegistryError: There is no such model.
        """
        names = self._store.names() if name is None else [name]
        return tuple(self._store.get(each, version) for each in names for version in self._versions(each))

    def _versions(self, name: str) -> Sequence[str]:
        """Versions of a model that must be there."""
        check_name(name)
        versions = self._store.versions(name)
        if not versions:
            raise unknown_error(self._store, name, "")
        return versions

    def _ask_gates(self, record: ModelVersion, previous: str | None, policy: PromotionPolicy) -> tuple[GateResult, ...]:
        candidate = check_digests(record, self._store.open_package(record))
        if isinstance(candidate, GateResult):
            return (candidate,)
        champion = None
        if previous is not None and policy.tolerance_points is not None:
            other = self._store.get(record.name, previous)
            champion = check_digests(other, self._store.open_package(other))
        return run_gates(candidate, champion, policy)


def _as_json(metadata: Mapping[str, Any], *, place: str) -> dict[str, Any]:
    try:
        tree: dict[str, Any] = json.loads(json.dumps(dict(metadata), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise RegistryError(
            f"{place}: metadata cannot be JSON ({error}); expected text, numbers, lists and mappings"
        ) from None
    return tree


def _describe_environment() -> dict[str, Any]:
    git = describe_git(Path.cwd())
    return {
        "versions": {name: _installed_version(name) for name in _RECORDED},
        "python": platform.python_version(),
        "git": git._asdict() if git else None,
    }


def _installed_version(name: str) -> str | None:
    try:
        return installed.version(name)
    except installed.PackageNotFoundError:
        return None
