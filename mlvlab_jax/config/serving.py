"""How a model is served: batching, limits, who may ask, what is watched."""

from typing import Annotated

from pydantic import Field

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.config.monitoring import MonitoringConfig, RecordingConfig

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


@configclass
class BatchingConfig:
    """How requests are put together for the device."""

    max_size: Annotated[int, Field(ge=1, le=1024)] = 32
    """Largest batch. One program is compiled for each of 1, 2, 4, ... and this, before the server is ready."""
    max_wait_ms: Annotated[float, Field(ge=0)] = 2.0
    """Milliseconds a request waits at most for others while the device is idle."""
    queue_size: Positive = 256
    """Images that may wait for the device; a request beyond is refused with 503 at once."""
    deadline_ms: PositiveFloat = 2000.0
    """Milliseconds from arrival after which a request is refused with 504 and never computed."""
    num_decoders: Positive = 2
    """Threads that decode images; the decoders run outside Python's lock."""


@configclass
class LimitsConfig:
    """What a client may send, and how slowly."""

    max_body_mib: PositiveFloat = 20.0
    """MiB of a request's body; more is refused with 413 before it is read."""
    max_header_kib: PositiveFloat = 32.0
    """KiB of a request's line and headers."""
    header_timeout_s: PositiveFloat = 5.0
    """Seconds from connection, or from the answer before, to the end of the headers; then it is closed."""
    body_timeout_s: PositiveFloat = 8.0
    """Seconds a body may take to arrive."""
    max_connections: Positive = 2000
    """Open connections; a further one is closed at once."""


@configclass
class TlsConfig:
    """Encryption; both files or none."""

    cert_file: str | None = None
    """PEM file with the certificate and its chain; null: no TLS."""
    key_file: str | None = None
    """PEM file with the private key."""


@configclass
class ServingConfig:
    """One server."""

    host: str = "127.0.0.1"
    """Address to listen on. Any but a loopback address needs a token."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one and prints it."""
    token_file: str | None = None
    """File with the token that every request must carry as `Authorization: Bearer TOKEN`; null: that of the environment
    variable MLVLAB_SERVE_TOKEN, and none where it is not set."""
    top_k: Positive = 5
    """Classes named in an answer of /v1/classify."""
    batching: BatchingConfig = Field(default_factory=BatchingConfig)
    """How requests are put together."""
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    """What a client may send."""
    tls: TlsConfig = Field(default_factory=TlsConfig)
    """Encryption."""
    follow_s: PositiveFloat = 5.0
    """Seconds between two looks at where the alias points."""
    grace_s: PositiveFloat = 20.0
    """Seconds that accepted requests have to finish after SIGTERM."""
    compile_cache: bool = True
    """Keep compiled programs in a private folder, so that the next start is fast."""
    monitoring: MonitoringConfig = Field(default_factory=MonitoringConfig)
    """What is watched."""
    recording: RecordingConfig = Field(default_factory=RecordingConfig)
    """What is kept to be replayed."""
