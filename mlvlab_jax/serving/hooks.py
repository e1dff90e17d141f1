"""Who is told of answers: the watcher and the recorder that the configuration asks for."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mlvlab_jax.monitoring.observation import Observation

if TYPE_CHECKING:
    from mlvlab_jax.config.serving import ServingConfig
    from mlvlab_jax.monitoring.recorder import Recorder
    from mlvlab_jax.monitoring.watcher import Watcher
    from mlvlab_jax.serving.metrics import ServingMetrics
    from mlvlab_jax.serving.models import Served
    from mlvlab_jax.serving.predictor import Predictor


class Hooks:
    """Watcher and recorder, where there is one; both are made for the first version that answers.

    Args:
        config: Of the server.
        metrics: Of the server; the watcher counts in its registry.
    """

    def __init__(self, config: "ServingConfig", *, metrics: "ServingMetrics") -> None:
        self._config, self._registry = config, metrics.registry
        self._watcher: Watcher | None = None
        self._recorder: Recorder | None = None

    @property
    def observe(self) -> Callable[[Sequence[Observation]], None] | None:
        """Takes answered images; None where nobody watches."""
        return self._observe if self._config.monitoring.folder else None

    @property
    def label(self) -> Callable[[str, int, str], None] | None:
        """Takes true classes; None where nobody watches."""
        return self._label if self._config.monitoring.folder else None

    @property
    def record(self) -> Callable[[str, str, bytes, np.ndarray], None] | None:
        """Takes requests; None where nobody records."""
        return self._record if self._config.recording.folder else None

    def follow(self, served: "Served") -> None:
        """Another version answers from now on; windows begin anew, against its own reference.

        Raises:
            MlvlabError: A folder cannot be used; only for the first version.
        """
        self._follow_watcher(served.predictor)
        self._follow_recorder(served.predictor)

    def close(self) -> None:
        """Ends both, once what waits for the disk is there."""
        for hook in (self._watcher, self._recorder):
            if hook is not None:
                hook.close()

    def _follow_watcher(self, predictor: "Predictor") -> None:
        package = predictor.package
        if not self._config.monitoring.folder:
            return
        if self._watcher is not None:
            self._watcher.follow(
                package.reference,
                class_names=predictor.class_names,
                version=predictor.version,
                package_sha256=package.manifest.sha256,
            )
            return
        from mlvlab_jax.monitoring.metrics import MonitorMetrics
        from mlvlab_jax.monitoring.watcher import Watcher

        self._watcher = Watcher(
            package.reference,
            self._config.monitoring,
            metrics=MonitorMetrics(registry=self._registry),
            class_names=predictor.class_names,
            model=predictor.name,
            version=predictor.version,
            package_sha256=package.manifest.sha256,
        )

    def _follow_recorder(self, predictor: "Predictor") -> None:
        if not self._config.recording.folder:
            return
        if self._recorder is not None:
            self._recorder.switch(version=predictor.version, class_names=predictor.class_names)
            return
        from mlvlab_jax.monitoring.recorder import Recorder

        self._recorder = Recorder(
            self._config.recording,
            model=predictor.name,
            version=predictor.version,
            class_names=predictor.class_names,
        )

    def _observe(self, observations: Sequence[Observation]) -> None:
        if self._watcher is not None:
            self._watcher.offer(observations)

    def _label(self, request_id: str, item: int, label: str) -> None:
        if self._watcher is not None:
            self._watcher.label(request_id, item, label)

    def _record(self, request_id: str, content_type: str, body: bytes, probabilities: np.ndarray) -> None:
        if self._recorder is not None:
            self._recorder.record(request_id, content_type, body, probabilities)
