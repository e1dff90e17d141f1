"""An MLflow store: a run found or made by its id, and records written so that writing them twice changes nothing."""

import contextlib
import importlib.util
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlvlab_jax.errors import ConfigError
from mlvlab_jax.files import locked

_log = logging.getLogger(__name__)

_ID = "mlvlab.id"
_DELIVERED = "mlvlab.delivered"
#: MLflow's limits: of metrics, and of params or tags, in one request; of the length of names and values.
_MAX_METRICS, _MAX_TEXTS, _MAX_NAME, _MAX_PARAM, _MAX_TAG = 1000, 90, 250, 6000, 8000


def check_installed() -> None:
    """Refuses to go on without the packages of the extra.

    Raises:
        ConfigError: One is missing; the message has the command that installs them.
    """
    missing = [name for name in ("mlflow", "sqlalchemy", "alembic") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"tracker 'mlflow' needs {', '.join(missing)}; expected the extra 'track'; "
            "install it: pip install 'mlvlab_jax[track]'",
            path="tracking.trackers",
        )


def import_mlflow() -> Any:
    """The package `mlflow`, with telemetry off and retries left to this package."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    import mlflow

    for name in ("mlflow.store.db.utils", "urllib3.connectionpool"):  # a trace at each attempt; here one line says it
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return mlflow


def resolve_uri(uri: str) -> str:
    """`uri`, with the path of an sqlite file made absolute, so that it holds in every working folder."""
    path = _sqlite_path(uri)
    return f"sqlite:///{path.absolute()}" if path else uri


class MLflowStore:
    """One run in one store.

    Args:
        run: "id", "uri", "experiment" and "name", as a journal holds them.
        folder: Where the files lie that records name.
    """

    def __init__(self, run: Mapping[str, str], *, folder: Path) -> None:
        self._run = run
        self._folder = folder
        self._database = _sqlite_path(run["uri"])
        self._connected_to: os.stat_result | None = None
        self._client: Any = None
        self._run_id = ""
        self._refused: set[str] = set()

    def connect(self) -> int:
        """Finds the run, or makes it, and gives the length of the journal that was delivered to it."""
        with _one_at_a_time(self._database):  # two migrations of one new database would break it
            uri = self._run["uri"]
            if self._database:
                self._database.touch()
                self._connected_to = self._database.stat()
                uri = _spell(self._database, self._connected_to.st_ino)
            self._client = import_mlflow().MlflowClient(uri)
            run = self._find_or_make_run()
        self._run_id = run.info.run_id
        return int(run.data.tags.get(_DELIVERED, 0))

    def lost(self) -> bool:
        """Whether the database was deleted or replaced since `connect`; writing to it would still seem to work."""
        if self._database is None or self._connected_to is None:
            return False
        try:
            return not os.path.samestat(self._database.stat(), self._connected_to)
        except FileNotFoundError:
            return True

    def deliver(self, records: Sequence[Mapping[str, Any]], *, end: int) -> None:
        """Writes records in their order, and that the journal is delivered up to `end`."""
        from mlflow.entities import Metric

        metrics: list[Any] = []
        texts: dict[str, dict[str, str]] = {"params": {}, "tags": {}}
        for record in records:
            for key, value in record.get("metrics", {}).items():
                metrics.append(Metric(_clean(key), value, record["time"], record["step"]))
            for kind, limit in (("params", _MAX_PARAM), ("tags", _MAX_TAG)):
                texts[kind] |= {_clean(key): str(value)[:limit] for key, value in record.get(kind, {}).items()}
        self._log(metrics, **texts)
        for record in records:
            self._log_files(record)
        self._client.set_tag(self._run_id, _DELIVERED, end)

    def _find_or_make_run(self) -> Any:
        name = self._run["experiment"]
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            # Beside the database: MLflow's own choice is the working folder of whoever comes first.
            place = (self._database.parent / "mlartifacts" / _clean(name)).as_uri() if self._database else None
            experiment_id = self._client.create_experiment(name, artifact_location=place)
        else:
            experiment_id = experiment.experiment_id
            found = self._client.search_runs([experiment_id], f"tags.`{_ID}` = '{self._run['id']}'")
            if found:
                return found[0]
        return self._client.create_run(experiment_id, run_name=self._run["name"], tags={_ID: self._run["id"]})

    def _log(self, metrics: Sequence[Any], *, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        requests = [
            *({"metrics": part} for part in _parts(metrics, _MAX_METRICS)),
            *({"params": part} for part in _parts([Param(*pair) for pair in params.items()], _MAX_TEXTS)),
            *({"tags": part} for part in _parts([RunTag(*pair) for pair in tags.items()], _MAX_TEXTS)),
        ]
        for request in requests:
            self._log_batch(request)

    def _log_batch(self, request: dict[str, Sequence[Any]]) -> None:
        """Sends a request; one that MLflow refuses for what it says is sent in halves, down to the entry at fault."""
        from mlflow.exceptions import MlflowException

        ((kind, entries),) = request.items()
        try:
            self._client.log_batch(self._run_id, **request)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            if len(entries) == 1:
                if entries[0].key not in self._refused:
                    _log.warning("mlflow refuses %s %r: %s", kind, entries[0].key, error)
                self._refused.add(entries[0].key)
                return
            for half in (entries[: len(entries) // 2], entries[len(entries) // 2 :]):
                self._log_batch({kind: half})

    def _log_files(self, record: Mapping[str, Any]) -> None:
        if "text" in record:
            self._client.log_text(self._run_id, record["text"], record["name"])
        if "file" in record:
            self._log_file(self._folder / record["file"], record["name"])
        if record.get("status") == "RUNNING":
            self._client.update_run(self._run_id, status="RUNNING")
        elif "status" in record:
            self._client.set_terminated(self._run_id, record["status"], record["time"])

    def _log_file(self, file: Path, name: str) -> None:
        folder = str(Path(name).parent)
        if file.is_dir():
            self._client.log_artifacts(self._run_id, str(file), name)
        elif file.exists():
            self._client.log_artifact(self._run_id, str(file), None if folder == "." else folder)
        else:
            _log.warning("mlflow lacks %s: %s is gone", name, file)


def _sqlite_path(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


#: Inodes that were found at the path of a database, in their order.
_INODES: dict[Path, list[int]] = {}


def _spell(database: Path, inode: int) -> str:
    """A URI of its own for each file there has been at a path.

    MLflow keeps its connections by URI, and would go on writing to a file that was deleted.
    """
    inodes = _INODES.setdefault(database, [])
    if inode not in inodes:
        inodes.append(inode)
    return f"sqlite:///{database.parent}/{'./' * inodes.index(inode)}{database.name}"


def _clean(name: str) -> str:
    """`name` with the characters that MLflow refuses in names replaced, and of the length it allows."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:_MAX_NAME]


def _parts(entries: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (entries[i : i + size] for i in range(0, len(entries), size))


@contextlib.contextmanager
def _one_at_a_time(database: Path | None) -> Iterator[None]:
    """Keeps other processes of this package away from a database that may have to be made."""
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with locked(database.with_name(f"{database.name}.lock")):
        yield
