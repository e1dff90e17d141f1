"""How a served model is watched: windows, drift, alerts, recorded requests."""

from typing import Annotated

from pydantic import Field

from mlvlab_jax.config.fields import PluginField, configclass, default_spec
from mlvlab_jax.plugins import DRIFT_TESTS, Spec

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
_TESTS = ("kolmogorov_smirnov", "chi_square", "psi", "mmd", "domain_classifier")


@configclass
class DriftConfig:
    """When a window of requests is called different from the reference in the package."""

    window: Annotated[int, Field(ge=500)] = 500
    """Requests in a window. At 100, PSI over 0.1 is a false alarm in two windows of five; below 500 none is trusted."""
    false_alarm_rate: Annotated[float, Field(gt=0, le=0.1)] = 0.01
    """Share of windows without any drift in which an alarm may be raised, over all tests together."""
    persistence: Positive = 2
    """Windows in a row that must differ before an alarm is raised, and agree before it is resolved."""
    tests: Annotated[tuple[Annotated[Spec, PluginField(DRIFT_TESTS)], ...], Field(min_length=1)] = Field(
        default_factory=lambda: tuple(default_spec(DRIFT_TESTS, name)() for name in _TESTS)
    )
    """What a window is put through; each further test makes all of them a little stricter."""


@configclass
class WebhookConfig:
    """Where alarms are posted."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s/]")] | None = None
    """Address, http or https, that takes a JSON POST in the form of Alertmanager's webhook; null: alerts are logged."""
    timeout_s: PositiveFloat = 5.0
    """Seconds an attempt may take to connect, to send and to be answered, each."""
    max_pending: Positive = 100
    """Messages kept while the address does not answer; beyond, the oldest is dropped and counted."""


@configclass
class MonitoringConfig:
    """Watching of a served model, off the request path."""

    folder: str | None = None
    """Where windows, their worst images and posted labels are kept; null: nothing is watched."""
    drift: DriftConfig = Field(default_factory=DriftConfig)
    """When a window is called different."""
    num_worst_images: Annotated[int, Field(ge=0, le=100)] = 12
    """Images kept of each window that differs, those least like the reference."""
    keep_windows: Positive = 1000
    """Windows kept in the folder; older ones are removed."""
    webhook: WebhookConfig = Field(default_factory=WebhookConfig)
    """Where alarms are posted."""
    max_pending: Positive = 2000
    """Observations that may wait for the worker, of 64 MiB of pixels at most; beyond, new ones are dropped and counted,
    never waited for. The worker takes a tenth of a core; of more traffic it judges a sample."""
    max_unlabelled: Positive = 100_000
    """Predictions remembered for labels that come later."""


@configclass
class RecordingConfig:
    """Requests kept to be replayed through another version."""

    folder: str | None = None
    """Where to; null records nothing. Recorded images are the users' own: think of who may read them."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Share of requests that are kept, chosen by request id."""
    max_mib: Positive = 512
    """MiB the folder may take; the oldest go first."""
    keep_days: Positive = 7
    """Days after which a recorded request is removed."""
