"""What the routes that predict have in common."""

from typing import NamedTuple

from mlvlab_jax.config.serving import ServingConfig
from mlvlab_jax.serving.after import Audience
from mlvlab_jax.serving.decoders import Decoders
from mlvlab_jax.serving.metrics import ServingMetrics
from mlvlab_jax.serving.models import Models


class Parts(NamedTuple):
    """Parts of one server: which version answers, how, who decodes, who counts, and who is told."""

    models: Models
    config: ServingConfig
    decoders: Decoders
    metrics: ServingMetrics
    audience: Audience
