"""MLflow: a run's parameters, curves, tags and files, in a local database or on a server.

The training loop only adds lines to the journal in the run folder; a thread carries them to the store.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.config.load import flatten
from mlvlab_jax.plugins import TRACKERS
from mlvlab_jax.tracking.delivery import Delivery
from mlvlab_jax.tracking.journal import NAME, Journal
from mlvlab_jax.tracking.mlflow_store import MLflowStore, check_installed, import_mlflow, resolve_uri
from mlvlab_jax.types import RunInfo

_log = logging.getLogger(__name__)

_STATUS = {"finished": "FINISHED", "stopped early": "FINISHED", "interrupted": "KILLED"}


@configclass
class MLflowParams:
    """Where the run is kept."""

    uri: str = "sqlite:///experiments/mlflow.db"
    """Store: an SQLite file, which all runs may share, or a server as http://HOST:PORT."""
    experiment: str = "mlvlab"
    """Experiment that the run belongs to; made where there is none of the name."""
    run_name: str | None = None
    """Name of the run; null takes that of the run folder."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Tags of your own, beside those of data, code, packages, seed, devices and flags."""
    interval_s: Annotated[float, Field(gt=0)] = 5.0
    """Seconds between deliveries; what comes in between goes as one."""
    finish_timeout_s: Annotated[float, Field(ge=0)] = 30.0
    """Seconds to wait at the end for a store that cannot be reached; the rest then stays in the run folder."""


@TRACKERS.register("mlflow", MLflowParams, example={"uri": "http://127.0.0.1:9", "finish_timeout_s": 0.0})
def make_mlflow(params: MLflowParams, *, workdir: Path) -> "MLflowRun":
    """Writes `mlflow.jsonl` in the run folder, and carries it to the store."""
    check_installed()
    return MLflowRun(params, workdir)


class MLflowRun:
    """The tracker; resumed in the same folder, it goes on with the same MLflow run."""

    def __init__(self, params: MLflowParams, workdir: Path) -> None:
        self._params = params
        self._workdir = workdir
        self._journal: Journal | None = None
        self._delivery: Delivery | None = None
        self._status = "FAILED"

    def start(self, info: RunInfo) -> None:
        """Notes configuration and circumstances, and begins delivering."""
        import_mlflow()  # here, because two threads that import at the same time can trip over each other
        name = self._params.run_name or self._workdir.resolve().name
        uri = resolve_uri(self._params.uri)
        self._journal = Journal(self._workdir / NAME, uri=uri, experiment=self._params.experiment, name=name)
        if not self._journal.has_params:  # MLflow refuses to change a parameter
            self._journal.append({"params": {**info.hparams, "num_params": info.num_params}})
        tags = {**info.tags, "run_folder": str(self._workdir.resolve()), **self._params.tags}
        if "git.commit" in tags:
            tags["mlflow.source.git.commit"] = tags["git.commit"]  # MLflow's own pages show this one
        self._journal.append({"tags": tags, "status": "RUNNING"})
        for title, suffix in (("config", "yaml"), ("parameters", "txt")):
            self._journal.append({"text": info.texts[title], "name": f"{title}.{suffix}"})
        store = MLflowStore(self._journal.run, folder=self._workdir)
        self._delivery = Delivery(self._journal.file, store, interval_s=self._params.interval_s)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Points on curves."""
        if self._journal is not None:
            self._journal.append_curve(step, values)

    def images(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Not kept here."""

    def histograms(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Not kept here."""

    def progress(self, step: int, loss: float | None) -> None:
        """Not kept here."""

    def note(self, text: str) -> None:
        """Not kept here."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Numbers as metrics at the last step: best/..., last/..., seconds/... and goodput; words as tags."""
        self._status = _STATUS[values["ended"]]
        if self._journal is None:
            return
        flat = {name.replace(".", "/", 1): value for name, value in flatten(values).items()}
        numbers = {name: value for name, value in flat.items() if not isinstance(value, str | bool)}
        self._journal.append_curve(values["steps"], numbers)
        self._journal.append({"tags": {name: value for name, value in flat.items() if name not in numbers}})

    def finish(self) -> None:
        """Waits a while for the store, then leaves the rest in the run folder and says how to deliver it."""
        if self._journal is None or self._delivery is None:
            return
        self._journal.append({"status": self._status})
        reason = self._delivery.finish(timeout_s=self._params.finish_timeout_s)
        if reason is not None:
            _log.warning("%s", describe_rest(self._workdir, self._params.uri, reason))
        journal, self._journal = self._journal, None
        journal.file.close()


def describe_rest(folder: Path, uri: str, reason: Exception | str) -> str:
    """What to tell a person when a journal was not delivered to its end."""
    return (
        f"mlflow: {uri} has not taken everything ({str(reason).splitlines()[0]}); nothing is lost, the rest is in "
        f"{folder / NAME}; deliver it with: python -m mlvlab_jax.tracking.replay {folder}"
    )
