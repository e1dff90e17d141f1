"""The HTTP application: every route, nothing of sockets, tokens or limits."""

from collections.abc import Callable, Sequence

import numpy as np
from fastapi import FastAPI

import mlvlab_jax
from mlvlab_jax.config.serving import ServingConfig
from mlvlab_jax.monitoring.observation import Observation
from mlvlab_jax.serving.about import add_health, add_metadata, add_metrics, add_openapi
from mlvlab_jax.serving.after import Audience
from mlvlab_jax.serving.classify import add_classify
from mlvlab_jax.serving.decoders import Decoders
from mlvlab_jax.serving.infer import add_infer
from mlvlab_jax.serving.labels import add_labels
from mlvlab_jax.serving.metrics import ServingMetrics
from mlvlab_jax.serving.models import Models
from mlvlab_jax.serving.page import add_page
from mlvlab_jax.serving.parts import Parts
from mlvlab_jax.serving.replies import add_path_replies
from mlvlab_jax.serving.route import PlainRoute


def make_app(
    models: Models,
    config: ServingConfig,
    *,
    metrics: ServingMetrics,
    observe: Callable[[Sequence[Observation]], None] | None,
    record: Callable[[str, str, bytes, np.ndarray], None] | None,
    label: Callable[[str, int, str], None] | None,
) -> FastAPI:
    """The application that answers for `models`.

    Args:
        models: Which version answers.
        config: Of the server.
        metrics: Of the server.
        observe: Told of each answered image, all of a request at once, after the answer is out.
        record: Likewise of each image file: request id, content type, body, probabilities (k).
        label: Takes request id, place in the request and the true class's name of an image that was answered before.
    """
    app = FastAPI(
        title="mlvlab_jax", version=mlvlab_jax.__version__, docs_url=None, openapi_url=None, redirect_slashes=False
    )
    app.router.route_class = PlainRoute
    add_path_replies(app)
    parts = Parts(models, config, Decoders(config.batching, metrics=metrics), metrics, Audience(observe, record))
    add_classify(app, parts)
    add_infer(app, parts)
    add_health(app, models)
    add_metadata(app, models)
    add_labels(app, label)
    add_metrics(app, metrics)
    add_page(app)
    add_openapi(app)
    return app
