"""The rehearsal runs through the whole application, and leaves no trace in the server's numbers."""

import asyncio

from mlvlab_jax.config.serving import ServingConfig
from mlvlab_jax.serving.metrics import ServingMetrics
from mlvlab_jax.serving.rehearsal import rehearse
from tests.serving.fakes import FakeModels, FakePredictor, close_all


class Counted(FakePredictor):
    def __init__(self):
        self.num_images = 0

    def predict(self, images):
        self.num_images += len(images)
        return super().predict(images)


def test_one_picture_is_answered_and_told_to_nobody():
    predictor, metrics = Counted(), ServingMetrics()
    assert asyncio.run(rehearse(FakeModels(predictor, ServingConfig(), metrics), ServingConfig())) == 200
    close_all()
    assert predictor.num_images == 1
    assert b"mlvlab_requests_total{" not in metrics.render()
    assert b"mlvlab_predictions_total{" not in metrics.render()
