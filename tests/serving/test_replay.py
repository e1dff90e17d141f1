import io
import json

import numpy as np
import pytest
from PIL import Image

from mlvlab_jax.config.monitoring import RecordingConfig
from mlvlab_jax.config.schema import PreprocessSpec
from mlvlab_jax.data.decode import inspect_image
from mlvlab_jax.errors import DataError
from mlvlab_jax.evaluation.intervals import compute_wilson
from mlvlab_jax.monitoring.recorder import RecordedRequest, Recorder, read_recorded
from mlvlab_jax.serving.predictor import Outputs
from mlvlab_jax.serving.replay import replay

CLASSES = ("cat", "dog", "emu")


class FakePredictor:
    """Reads the probabilities out of the first pixels, as shares of 100."""

    name, version = "pets", "2.0.0"

    def __init__(self, class_names=CLASSES):
        self.class_names = class_names
        self.batches = []

    def decode(self, data):
        return inspect_image(data, PreprocessSpec(channels=1))

    def predict(self, images):
        self.batches.append(len(images))
        rows = images[:, 0, : len(self.class_names), 0].astype(np.float32)
        with np.errstate(invalid="ignore"):
            probabilities = rows / rows.sum(1, keepdims=True)
        return Outputs(rows, probabilities, rows)


def encode(shares):
    file = io.BytesIO()
    Image.fromarray(np.array([[*shares, 0, 0]], np.uint8)).save(file, "PNG")
    return file.getvalue()


def ask(name, before, after, *, body=None, class_names=CLASSES, version="1.0.0"):
    return RecordedRequest(
        request_id=name,
        time_s=0.0,
        content_type="image/png",
        model="pets",
        version=version,
        class_names=class_names,
        probabilities=np.array(before, np.float32) / 100,
        body=encode(after) if body is None else body,
    )


def test_differences_are_counted_as_by_hand():
    requests = [
        ask("a", (90, 10, 0), (80, 20, 0)),  # same class
        ask("b", (60, 40, 0), (30, 70, 0)),  # cat -> dog
        ask("c", (60, 30, 10), (20, 70, 10), version="1.1.0"),  # cat -> dog
        ask("d", (10, 20, 70), (50, 0, 50)),  # emu -> cat
    ]
    replayed = replay(requests, FakePredictor())
    assert (replayed.model, replayed.version) == ("pets", "2.0.0")
    assert replayed.recorded == {"pets 1.0.0": 3, "pets 1.1.0": 1}
    low, high = compute_wilson(1, 4)
    assert replayed.agreement[:3] == (0.25, low, high)
    assert replayed.moves == [(("cat", "dog"), 2), (("emu", "cat"), 1)]
    assert [row.request_id for row in replayed.most_different] == ["c", "d", "b", "a"]
    np.testing.assert_allclose([row.distance for row in replayed.differences], [0.1, 0.3, 0.4, 0.4], atol=1e-6)
    np.testing.assert_allclose(replayed.mean("change"), (0.2 + 0.6 + 0.8 + 0.8) / 3 / 4, atol=1e-6)
    confidence = replayed.to_tree()["confidence"]
    np.testing.assert_allclose(confidence["before"], (0.9 + 0.6 + 0.6 + 0.7) / 4, atol=1e-6)
    np.testing.assert_allclose(confidence["change"], (0.8 + 0.7 + 0.7 + 0.5) / 4 - 0.7, atol=1e-6)


def test_the_same_answers_agree_in_all(tmp_path):
    replayed = replay((ask(f"{k}", (20, 70, 10), (20, 70, 10)) for k in range(70)), FakePredictor())
    assert replayed.agreement.value == 1
    assert replayed.moves == []
    assert replayed.mean("distance") < 1e-6


def test_classes_are_matched_by_name():
    predictor = FakePredictor(("yak", "dog", "cat"))
    replayed = replay([ask("a", (60, 30, 10), (0, 30, 70)), ask("b", (10, 20, 70), (100, 0, 0))], predictor)
    assert replayed.only_before == ("emu",)
    assert replayed.only_after == ("yak",)
    first, second = replayed.differences
    assert (first.before, first.after) == ("cat", "cat")
    np.testing.assert_allclose(first.distance, 0.1, atol=1e-6)  # cat +0.1, emu -0.1
    np.testing.assert_allclose(first.change, 0.2 / 4, atol=1e-6)
    assert (second.before, second.after, round(second.distance, 5)) == ("emu", "yak", 1.0)


def test_requests_without_an_answer_are_set_apart():
    requests = [
        ask("good", (90, 10, 0), (90, 10, 0)),
        ask("text", (90, 10, 0), (), body=b"not an image"),
        ask("zeros", (90, 10, 0), (0, 0, 0)),
    ]
    replayed = replay(requests, FakePredictor())
    assert replayed.unreadable.keys() == {"text"}
    assert replayed.unreadable["text"].startswith("format: ")
    assert replayed.nonfinite == ["zeros"]
    assert [row.request_id for row in replayed.differences] == ["good"]


def test_nothing_that_can_be_answered_is_an_error():
    with pytest.raises(DataError, match=r"pets 2\.0\.0 answers none of 2 recorded requests \(empty"):
        replay([ask(name, (90, 10, 0), (), body=b"") for name in "ab"], FakePredictor())


def test_requests_are_predicted_in_chunks():
    predictor = FakePredictor()
    replay((ask(f"{k}", (20, 70, 10), (20, 70, 10)) for k in range(70)), predictor)
    assert predictor.batches == [32, 32, 6]


def test_what_a_recorder_wrote_is_replayed_and_the_report_is_json(tmp_path):
    config = RecordingConfig(folder=str(tmp_path), share=1.0)
    recorder = Recorder(config, model="pets", version="1.0.0", class_names=CLASSES)
    for number in range(30):
        recorder.record(f"{number:02}", "image/png", encode((number, 30 - number, 1)), np.array([0.6, 0.4, 0], "f4"))
    recorder.close()
    replayed = replay(read_recorded(tmp_path, limit=20), FakePredictor())
    assert [row.request_id for row in replayed.differences] == [f"{number}" for number in range(10, 30)]
    tree = json.loads(json.dumps(replayed.to_tree(), allow_nan=False))
    assert tree["agreement"]["value"] == 15 / 20  # from 15 on cat leads, with 15 of each the first wins
    assert tree["moves"] == [{"before": "cat", "after": "dog", "num": 5}]
    assert tree["most_different"][0]["request_id"] == "29"
