"""A registry on an MLflow server or database.

A version of ours is a version of MLflow's registered model of that name, with the tags `semver` and `mlvlab_record`;
its package is an artifact of a run. MLflow numbers versions itself: of two with the same `semver` the lower number
counts, so that of several writers one wins. Events are tags of the version they are about.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlvlab_jax.errors import DiskError, RegistryError
from mlvlab_jax.files import locked
from mlvlab_jax.registry.copies import verify_copy
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
from mlvlab_jax.tracking.mlflow_store import import_mlflow

_EXPERIMENT = "mlvlab-registry"
_MARK, _SEMVER, _RECORD, _EVENT = "mlvlab_registry", "semver", "mlvlab_record", "mlvlab_event."
_MAX_RECORD = 60_000  # characters; what a text column of every database holds
_PACKAGE = "package"


class MLflowStore:
    """Models on the MLflow server or in the database at `uri`.

    Raises:
        RegistryError: MLflow is not installed.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._database = Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        try:
            mlflow = import_mlflow()
        except ImportError as error:
            raise RegistryError(f"{uri}: needs MLflow ({error}); pip install 'mlvlab_jax[track]'") from None
        with self._errors():
            self._client: Any = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
            if self._database is not None:
                with locked(self._database.with_name(f"{self._database.name}.lock")):
                    self._client.search_registered_models(max_results=1)  # makes a new one, which two must not

    def __str__(self) -> str:
        return self._uri

    def names(self) -> list[str]:
        """As in `Store`."""
        with self._errors():
            found = _all_pages(self._client.search_model_versions, f"tags.{_MARK} = '1'")
        return sorted({version.name for version in found if _is_ours(version)})

    def versions(self, name: str) -> list[str]:
        """As in `Store`."""
        return sorted(self._numbered(name), key=parse_version)

    def get(self, name: str, version: str) -> ModelVersion:
        """As in `Store`."""
        return self._record(self._find(name, version))

    def register(self, record: ModelVersion, *, package: Path | None) -> None:
        """As in `Store`: the package goes up first, so that a version that can be seen is whole."""
        name, version = record.name, record.version
        text = json.dumps(record.to_tree())
        if len(text) > _MAX_RECORD:
            raise RegistryError(f"{name} {version}: {len(text)} characters of metadata; expected {_MAX_RECORD} at most")
        if version in self._numbered(name):
            raise exists_error(name, version, place=self._uri)
        with self._errors():
            run = self._client.create_run(self._experiment(), run_name=f"{name} {version}").info
            if package is not None:
                self._client.log_artifacts(run.run_id, str(package), _PACKAGE)
            self._client.set_terminated(run.run_id)
            self._make_model(name)
            tags = {_MARK: "1", _SEMVER: version, _RECORD: text}
            made = self._client.create_model_version(name, f"{run.artifact_uri}/{_PACKAGE}", run.run_id, tags=tags)
            if self._numbered(name)[version].version != made.version:
                self._client.delete_model_version(name, made.version)
                self._client.delete_run(run.run_id)
                raise exists_error(name, version, place=self._uri)

    def open_package(self, record: ModelVersion) -> Path | None:
        """As in `Store`: fetched once into $XDG_CACHE_HOME/mlvlab_jax/packages, by its digest."""
        if record.package_sha256 is None:
            return None
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        target = Path(base) / "mlvlab_jax" / "packages" / record.package_sha256
        if not target.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._fetched(record, target.parent) as fetched:
                verify_copy(fetched, record)
                try:
                    fetched.rename(target)
                except OSError as error:
                    if not target.is_dir():  # put there by another process in the meantime
                        raise DiskError(f"{target}: {error.strerror}; expected room for the package") from None
        return target

    def verify(self, record: ModelVersion) -> None:
        """As in `Store`."""
        if record.package_sha256 is not None:
            with self._fetched(record, None) as fetched:
                verify_copy(fetched, record)

    def aliases(self, name: str) -> dict[str, str]:
        """As in `Store`; aliases of versions that are not ours are left out."""
        versions = {str(found.version): version for version, found in self._numbered(name).items()}
        if not versions:
            return {}
        with self._errors():
            aliases = self._client.get_registered_model(name).aliases
        return {alias: versions[str(n)] for alias, n in sorted(aliases.items()) if str(n) in versions}

    def set_alias(self, name: str, alias: str, event: Event) -> None:
        """As in `Store`, but that MLflow offers no way to compare and move at once: the check comes just before."""
        found = self._find(name, event.version)
        current = self.aliases(name).get(alias)
        if current != event.previous:
            raise moved_error(name, event, current)
        with self._errors():
            key = f"{_EVENT}{event.time[:23]}.{event.id}"
            self._client.set_registered_model_alias(name, alias, found.version)
            self._client.set_model_version_tag(name, found.version, key, json.dumps(event.to_tree()))

    def history(self, name: str) -> list[Event]:
        """As in `Store`."""
        events = []
        for found in self._numbered(name).values():
            record = self._record(found)
            events.append((record.created[:23], registration(record)))
            for key, text in found.tags.items():
                if key.startswith(_EVENT):
                    events.append((key.removeprefix(_EVENT), parse_event(text, place=f"{self._uri}: {name}: {key}")))
        return [event for _, event in sorted(events, key=lambda pair: pair[0])]

    def _numbered(self, name: str) -> dict[str, Any]:
        """Our version -> MLflow's, the lowest number of each."""
        with self._errors():
            found = _all_pages(self._client.search_model_versions, f"name = '{name}'")
        ours = sorted((version for version in found if _is_ours(version)), key=lambda version: -int(version.version))
        return {version.tags[_SEMVER]: version for version in ours}

    def _find(self, name: str, version: str) -> Any:
        numbered = self._numbered(name)
        if version not in numbered:
            raise unknown_error(self, name, version)
        return numbered[version]

    def _record(self, found: Any) -> ModelVersion:
        return parse_record(found.tags[_RECORD], place=f"{self._uri}: {found.name} version {found.version}")

    def _experiment(self) -> str:
        """Id of the experiment whose runs hold the packages."""
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(_EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        # Beside the database: MLflow's own choice is the working folder of whoever comes first.
        beside = self._database.with_suffix(".artifacts").as_uri() if self._database else None
        try:
            return str(self._client.create_experiment(_EXPERIMENT, artifact_location=beside))
        except MlflowException:  # another writer made it in the meantime
            return str(self._client.get_experiment_by_name(_EXPERIMENT).experiment_id)

    def _make_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    @contextlib.contextmanager
    def _fetched(self, record: ModelVersion, beside: Path | None) -> Iterator[Path]:
        """The package of `record` in a folder that is gone afterwards."""
        run_id = self._find(record.name, record.version).run_id
        with tempfile.TemporaryDirectory(dir=beside, prefix=".fetch-") as folder:
            with self._errors():
                fetched = Path(self._client.download_artifacts(run_id, _PACKAGE, folder))
            yield fetched

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """What MLflow and what is below it raise, in one line."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
            text = " ".join(str(error).split())[:200]
            raise RegistryError(f"{self._uri}: MLflow says: {text}; is the server up and the address right?") from None


def _is_ours(found: Any) -> bool:
    return _RECORD in found.tags and is_version(found.tags.get(_SEMVER, ""))


def _all_pages(search: Any, query: str) -> list[Any]:
    found, token = [], None
    while True:
        page = search(query, max_results=200, page_token=token)
        found += page
        token = page.token
        if not token:
            return found
