"""What the server counts, in Prometheus' words. No name a client sends becomes a label."""

from collections import deque

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

#: Routes as they are counted; any other path is "other".
ROUTES = (
    "/",
    "/metrics",
    "/openapi.json",
    "/v1/classify",
    "/v1/labels",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/{model}",
    "/v2/models/{model}/ready",
    "/v2/models/{model}/infer",
    "other",
)
#: Why a request was not computed.
REASONS = (
    "queue_full",
    "deadline",
    "client_gone",
    "draining",
    "too_large",
    "too_slow",
    "unauthorized",
)
_SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: Versions whose predictions are still told after newer ones took over.
_MAX_VERSIONS = 50


class ServingMetrics:
    """Counters of one server, in a registry of their own.

    What watches the model adds its own to `registry`, so that one page shows all.

    Args:
        queue_capacity: Images that may wait for the device.
    """

    def __init__(self, *, queue_capacity: int = 0) -> None:
        prometheus_client.disable_created_metrics()  # else each counter brings a series with the time it was made
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("mlvlab_requests", "Requests answered.", ["route", "code"], registry=registry)
        self.request_seconds = Histogram(
            "mlvlab_request_seconds",
            "Seconds from the headers to the end of the answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.predictions = Counter(
            "mlvlab_predictions", "Images answered with a prediction.", ["model", "version"], registry=registry
        )
        self.refused = Counter("mlvlab_refused", "Requests refused, by reason.", ["reason"], registry=registry)
        self.queue_images = Gauge("mlvlab_queue_images", "Images that wait for the device.", registry=registry)
        self.queue_capacity = Gauge("mlvlab_queue_capacity", "Images that may wait.", registry=registry)
        self.queue_capacity.set(queue_capacity)
        self.batch_images = Histogram(
            "mlvlab_batch_images",
            "Images in a batch, without padding.",
            buckets=[2**k for k in range(11)],
            registry=registry,
        )
        self.compute_seconds = Histogram(
            "mlvlab_compute_seconds", "Seconds the device took for a batch.", buckets=_SECONDS, registry=registry
        )
        self.ready = Gauge("mlvlab_ready", "1 while requests are taken.", registry=registry)
        self.model_info = Gauge(
            "mlvlab_model_info", "1 for the version that answers.", ["model", "version", "package"], registry=registry
        )
        self.reloads = Counter("mlvlab_reloads", "New versions, taken or refused.", ["result"], registry=registry)
        self.reload_failing = Gauge(
            "mlvlab_reload_failing", "1 while the alias points to a version that cannot be served.", registry=registry
        )
        self.nonfinite = Counter("mlvlab_nonfinite", "Answers that were NaN or infinite.", registry=registry)
        self.connections = Gauge("mlvlab_connections", "Open connections.", registry=registry)
        self._versions: deque[tuple[str, str]] = deque()
        for reason in REASONS:
            self.refused.labels(reason)
        for result in ("ok", "refused"):
            self.reloads.labels(result)

    def set_model(self, name: str, version: str, *, package: str) -> None:
        """Says which version answers from now on; `package` is the digest of its manifest."""
        self.model_info.clear()
        self.model_info.labels(name, version, package).set(1)
        self.predictions.labels(name, version)
        if (name, version) in self._versions:
            self._versions.remove((name, version))
        self._versions.append((name, version))
        if len(self._versions) > _MAX_VERSIONS:
            self.predictions.remove(*self._versions.popleft())

    def add_request(self, path: str, *, code: int, seconds: float) -> None:
        """A request for `path` was answered with `code`."""
        route = find_route(path)
        self.requests.labels(route, str(code)).inc()
        self.request_seconds.labels(route).observe(seconds)

    def add_predictions(self, name: str, version: str, num_images: int) -> None:
        """A version that `set_model` named answered so many images."""
        self.predictions.labels(name, version).inc(num_images)

    def add_refusal(self, reason: str) -> None:
        """A request was not computed, for one of `REASONS`."""
        self.refused.labels(reason).inc()

    def set_queue(self, num_images: int) -> None:
        """So many images wait for the device now."""
        self.queue_images.set(num_images)

    def add_batch(self, num_images: int, *, seconds: float) -> None:
        """The device took `seconds` for a batch, padding not counted."""
        self.batch_images.observe(num_images)
        self.compute_seconds.observe(seconds)

    def add_nonfinite(self, num_images: int) -> None:
        """The logits of so many images are not finite."""
        self.nonfinite.inc(num_images)

    def render(self) -> bytes:
        """All of `registry` as text, of the type `prometheus_client.CONTENT_TYPE_PLAIN_0_0_4`."""
        return prometheus_client.generate_latest(self.registry)


def find_route(path: str) -> str:
    """The entry of `ROUTES` that counts requests for `path`."""
    if path in ROUTES:
        return path
    parts = path.split("/")
    if parts[:3] != ["", "v2", "models"] or len(parts) < 4:
        return "other"
    rest = parts[4:]
    if rest[:1] == ["versions"]:
        rest = rest[2:]
    route = "/".join(("/v2/models/{model}", *rest))
    return route if route in ROUTES else "other"
