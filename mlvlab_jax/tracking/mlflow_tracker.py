"""MLflow from a script of your own: `with tracker.start_run(): tracker.log_metrics(...)`."""

import contextlib
import logging
import numbers
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mlvlab_jax.config.load import flatten
from mlvlab_jax.errors import ConfigError, DataError
from mlvlab_jax.files import exclusive_writer
from mlvlab_jax.tracking.delivery import Delivery
from mlvlab_jax.tracking.journal import NAME, Journal
from mlvlab_jax.tracking.mlflow import MLflowParams, describe_rest
from mlvlab_jax.tracking.mlflow_store import MLflowStore, check_installed, import_mlflow, resolve_uri
from mlvlab_jax.types import Tree

_log = logging.getLogger(__name__)
_DEFAULTS = MLflowParams()


class MLflowTracker:
    """Logs runs to MLflow; a store that is slow or away neither stops nor slows the script.

    Args:
        uri: Store: an SQLite file, which all runs may share, or a server as http://HOST:PORT.
        experiment: Experiment that the runs belong to.
        folder: Where each run waits, in a folder of its own, until the store has all of it.
        finish_timeout_s: Seconds to wait at the end of a run for a store that cannot be reached.

    Raises:
        ConfigError: The extra 'track' is not installed.
    """

    def __init__(
        self,
        uri: str = _DEFAULTS.uri,
        *,
        experiment: str = _DEFAULTS.experiment,
        folder: Path = Path("experiments/mlflow-pending"),
        finish_timeout_s: float = _DEFAULTS.finish_timeout_s,
    ) -> None:
        check_installed()
        self._uri = resolve_uri(uri)
        self._experiment = experiment
        self._folder = folder
        self._finish_timeout_s = finish_timeout_s
        self._journal: Journal | None = None
        self._run_folder = folder

    @contextlib.contextmanager
    def start_run(self, name: str | None = None) -> Iterator["MLflowTracker"]:
        """The run that the calls of the block log to; it is marked failed when an exception leaves the block.

        Args:
            name: Name of the run; None takes the time.
        """
        import_mlflow()
        started = f"{time.strftime('%Y%m%d-%H%M%S')}-{time.monotonic_ns() % 10**6:06d}"
        self._run_folder = self._folder / started
        with exclusive_writer(self._run_folder):
            run = {"uri": self._uri, "experiment": self._experiment, "name": name or started}
            self._journal = journal = Journal(self._run_folder / NAME, **run)
            store = MLflowStore(journal.run, folder=self._run_folder)
            delivery = Delivery(journal.file, store, interval_s=_DEFAULTS.interval_s)
            status = "FAILED"
            try:
                yield self
                status = "FINISHED"
            finally:
                journal.append({"status": status})
                self._journal = None
                reason = delivery.finish(timeout_s=self._finish_timeout_s)
                journal.file.close()
                if reason is None:
                    shutil.rmtree(self._run_folder)
                else:
                    _log.warning("%s", describe_rest(self._run_folder, self._uri, reason))

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Parameters; a nested mapping is logged under dotted names.

        Raises:
            ConfigError: Outside of `start_run`.
        """
        self._running().append({"params": flatten(params)})

    def log_metrics(self, metrics: Mapping[str, Any], step: int = 0) -> None:
        """Numbers, after `step` steps.

        Raises:
            ConfigError: Outside of `start_run`, or a value is not a number.
        """
        flat = {name: _number(name, value) for name, value in metrics.items()}
        self._running().append({"step": step, "metrics": flat})

    def log_file(self, path: str | Path, name: str | None = None) -> None:
        """A file, or a folder, as it is now.

        Args:
            path: What to log.
            name: Its name in the run, which may have folders; None takes its own.

        Raises:
            ConfigError: Outside of `start_run`, or the name leads out of the run.
            DataError: There is nothing at `path`.
        """
        path = Path(path)
        if not path.exists():
            raise DataError(f"{path}: there is no such file; expected the file or folder to log as {name!r}")
        copy = self._stage(name or path.name)
        if path.is_dir():
            shutil.copytree(path, copy)
        else:
            shutil.copyfile(path, copy)
        self._log_staged(copy, name or path.name)

    def log_model(self, model: Tree | str | Path, name: str) -> None:
        """A model: the folder of a model package, or a pytree of arrays, which becomes NAME/model.safetensors.

        Raises:
            ConfigError: Outside of `start_run`, `model` is neither, or the name leads out of the run.
            DataError: There is no such folder.
        """
        if isinstance(model, str | Path):
            self.log_file(model, name)
            return
        copy = self._stage(name)
        copy.mkdir(parents=True)
        _save_arrays(model, copy / "model.safetensors")
        self._log_staged(copy, name)

    def _running(self) -> Journal:
        if self._journal is None:
            raise ConfigError("no run is open to log to; expected a block: with tracker.start_run(): ...")
        return self._journal

    def _stage(self, name: str) -> Path:
        """Where the copy goes that is delivered: the run has the state of this moment, whatever happens to it later."""
        self._running()
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or not inside.name:
            raise ConfigError(
                f"file name {name!r}: expected a name inside the run, such as 'config.yaml' or 'plots/a.png'"
            )
        copy = self._run_folder / "files" / str(time.monotonic_ns()) / Path(name).name
        copy.parent.mkdir(parents=True)
        return copy

    def _log_staged(self, copy: Path, name: str) -> None:
        file = copy.relative_to(self._run_folder).as_posix()
        self._running().append({"file": file, "name": PurePosixPath(name).as_posix()})


def _number(name: str, value: Any) -> float:
    if isinstance(value, numbers.Real) or getattr(value, "shape", None) == ():
        return float(value)
    raise ConfigError(f"metric {name!r} is {value!r}; expected a number")


def _save_arrays(tree: Tree, path: Path) -> None:
    from safetensors.numpy import save_file

    from mlvlab_jax.trees import named_leaves

    leaves = named_leaves(tree)
    odd = [name or "the model itself" for name, leaf in leaves if not hasattr(leaf, "dtype")]
    if odd or not leaves:
        raise ConfigError(
            f"log_model: {odd[0] if odd else 'the tree'} is no array; expected a pytree of arrays or a package's folder"
        )
    save_file({name: np.asarray(leaf, order="C") for name, leaf in leaves}, path)
