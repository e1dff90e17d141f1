import json

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mlvlab_jax.data.open import open_data
from mlvlab_jax.engine.folder import read_config
from mlvlab_jax.report.records import read_records


def test_the_mistakes_are_kept_as_images(trained):
    mistakes = json.loads((trained / "evaluation" / "test" / "evaluation.json").read_text())["mistakes"]
    config = read_config(trained)
    source = open_data(config.data, config.pipeline, seed=config.seed).splits["test"].source
    images = {int(path.stem): np.asarray(Image.open(path)) for path in trained.glob("evaluation/test/mistakes/*")}
    assert sorted(images) == sorted(each["index"] for each in mistakes) != []
    for index, image in images.items():
        np.testing.assert_array_equal(image, source.fetch(np.array([index])).image[0, ..., 0])


def test_tensorboard_has_the_curves_of_the_page_the_confusion_matrix_and_the_hyperparameters(trained):
    events = EventAccumulator(str(trained), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    curves = read_records(trained / "metrics.jsonl")
    assert set(events.Tags()["scalars"]) == set(curves)
    for name, series in curves.items():
        points = events.Scalars(name)
        assert [point.step for point in points] == series.steps.tolist()
        np.testing.assert_allclose([point.value for point in points], series.values, rtol=1e-6)
    assert {"validation/confusion_matrix", "test/confusion_matrix"} <= set(events.Tags()["images"])
    assert "_hparams_/session_start_info" in events.summary_metadata
