"""Every route answers what it should."""

import re

import numpy as np
import pytest

from mlvlab_jax.monitoring.errors import UnknownLabelError, UnknownPredictionError
from tests.serving.fakes import (
    INFER,
    NAMES,
    PNG,
    VERSION,
    FakePredictor,
    check_refusal,
    make_body,
    make_serving,
    shade,
)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_classify_names_the_classes_of_an_image_file(serving, kind):
    response = serving.ask("POST", "/v1/classify", content=shade(100, kind), headers={"content-type": "image/x"})
    assert response.status_code == 200
    answer = response.json()
    assert (answer["model"], answer["version"]) == ("shades", VERSION)
    assert response.headers["x-model-version"] == VERSION
    assert response.headers["x-request-id"] == answer["request_id"]
    expected = FakePredictor().predict(np.full((1, 4, 4, 3), 100, np.uint8)).probabilities[0]
    order = np.argsort(-expected)
    assert [each["label"] for each in answer["predictions"]] == [NAMES[k] for k in order]
    assert [each["probability"] for each in answer["predictions"]] == pytest.approx(expected[order], abs=0.02)


def test_a_package_answers_over_http_as_it_does_from_python(package, predictor):
    serving = make_serving(predictor)
    file = shade(77, "JPEG", (40, 30))
    expected = package.predict_probabilities(package.preprocess_bytes(file)[None])[0]
    answer = serving.ask("POST", "/v1/classify?top_k=99", content=file, headers=PNG).json()
    assert [each["label"] for each in answer["predictions"]] == [package.class_names[k] for k in np.argsort(-expected)]
    found = [each["probability"] for each in answer["predictions"]]
    assert found == pytest.approx(sorted(expected, reverse=True), abs=1e-6)
    path = f"/v2/models/{answer['model']}/versions/{answer['version']}"
    wanted = {each["name"]: each["shape"] for each in serving.ask("GET", path).json()["outputs"]}
    images = np.random.default_rng(0).integers(0, 256, (9, *package.image)).astype(np.uint8)
    body, headers = make_body(images)
    outputs = {
        each["name"]: each
        for each in serving.ask("POST", f"{path}/infer", content=body, headers=headers).json()["outputs"]
    }
    logits, embedding = package.predict(images)
    for name, array in (("logits", logits), ("embedding", embedding)):
        assert outputs[name]["data"] == pytest.approx(array.ravel().tolist(), abs=1e-5)
        assert outputs[name]["shape"] == [9, *wanted[name][1:]]
    assert outputs["label"]["data"] == [package.class_names[k] for k in logits.argmax(axis=1)]


def test_top_k_is_that_of_the_query_or_of_the_configuration():
    serving = make_serving(top_k=3)
    for query, num in (("", 3), ("?top_k=1", 1), ("?top_k=400", 4)):
        response = serving.ask("POST", f"/v1/classify{query}", content=shade(10), headers=PNG)
        assert len(response.json()["predictions"]) == num
    for query in ("0", "-1", "x", "1.5", "", "9" * 5000, "%00", "٣"):
        response = serving.ask("POST", f"/v1/classify?top_k={query}", content=shade(10), headers=PNG)
        check_refusal(response, 400)


def test_a_request_keeps_its_own_id_only_if_it_is_plain(serving):
    for given in ("a", "A.b_c-9", "x" * 64):
        assert serving.ask("GET", "/v2", headers={"x-request-id": given}).headers["x-request-id"] == given
    made = set()
    for given in ("", "x" * 65, "a b", "a/b", "ä", "a\tb", "<a>"):
        made.add(serving.ask("GET", "/v2", headers={"x-request-id": given.encode()}).headers["x-request-id"])
    assert len(made) == 7
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in made)


def test_observers_are_told_of_each_image_after_the_answer(serving):
    file = shade(100, size=(9, 7))
    response = serving.ask("POST", "/v1/classify", content=file, headers=PNG | {"x-request-id": "mine"})
    (((seen,),),) = serving.told["observe"]
    assert (seen.request_id, seen.item, seen.size_px, seen.version) == ("mine", 0, (7, 9), VERSION)
    assert (seen.image == 100).all()
    assert seen.image.shape == (4, 4, 3)
    assert seen.probabilities.max() == pytest.approx(response.json()["predictions"][0]["probability"])
    assert seen.embedding.tolist() == pytest.approx([100, 100 / 255])
    assert 0 < seen.latency_s < 60
    ((request_id, content_type, body, probabilities),) = serving.told["record"]
    assert (request_id, content_type, body) == ("mine", "image/png", file)
    assert probabilities.tolist() == seen.probabilities.tolist()

    images = np.stack([np.full((4, 4, 3), value, np.uint8) for value in (0, 90, 250)])
    body, headers = make_body(images)
    serving.ask("POST", INFER, content=body, headers=headers)
    (observed,) = serving.told["observe"][1]
    assert [(each.item, each.size_px, each.image.mean()) for each in observed] == [
        (k, None, v) for k, v in enumerate((0, 90, 250))
    ]
    assert len(serving.told["record"]) == 1


def test_an_observer_that_fails_breaks_nothing():
    serving = make_serving(fail=True)
    for _ in range(2):
        assert serving.ask("POST", "/v1/classify", content=shade(10), headers=PNG).status_code == 200
    assert len(serving.told["observe"]) == len(serving.told["record"]) == 2


def test_predictions_are_counted_by_image(serving):
    serving.ask("POST", "/v1/classify", content=shade(10), headers=PNG)
    body, headers = make_body(np.zeros((3, 4, 4, 3), np.uint8))
    serving.ask("POST", INFER, content=body, headers=headers)
    serving.ask("POST", "/v1/classify", content=b"no", headers=PNG)
    labels = {"model": "shades", "version": VERSION}
    assert serving.metrics.registry.get_sample_value("mlvlab_predictions_total", labels) == 4


def test_the_server_and_its_model_describe_themselves(serving):
    assert serving.ask("GET", "/v2").json()["extensions"] == ["binary_tensor_data"]
    assert serving.ask("GET", "/v2/health/live").json() == {"live": True}
    assert serving.ask("GET", "/v2/health/ready").json() == {"ready": True}
    for path in ("/v2/models/shades", f"/v2/models/shades/versions/{VERSION}"):
        response = serving.ask("GET", path)
        assert response.headers["x-model-version"] == VERSION
        assert response.json() == {
            "name": "shades",
            "versions": [VERSION],
            "platform": "mlvlab_jax",
            "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 4, 4, 3]}],
            "outputs": [
                {"name": "logits", "datatype": "FP32", "shape": [-1, 4]},
                {"name": "probabilities", "datatype": "FP32", "shape": [-1, 4]},
                {"name": "embedding", "datatype": "FP32", "shape": [-1, 2]},
                {"name": "label", "datatype": "BYTES", "shape": [-1]},
            ],
        }
        assert serving.ask("GET", f"{path}/ready").json() == {"name": "shades", "ready": True}
    assert b"mlvlab_predictions_total" in serving.ask("GET", "/metrics").content


def test_the_page_is_html_that_no_other_page_may_frame(serving):
    response = serving.ask("GET", "/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["content-security-policy"] == "frame-ancestors 'none'"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.text.startswith("<!doctype html>")


def test_nothing_is_answered_before_a_version_is_there(serving):
    serving.models.ready, serving.models._make = False, None
    assert check_refusal(serving.ask("GET", "/v2/health/ready"), 503)
    assert serving.ask("GET", "/v2/health/ready").json()["ready"] is False
    for path in ("/v2/models/shades", "/v2/models/shades/ready"):
        check_refusal(serving.ask("GET", path), 503)
    for path in ("/v1/classify", INFER):
        check_refusal(serving.ask("POST", path, content=shade(10), headers=PNG), 503)
    assert serving.ask("GET", "/v2/health/live").status_code == 200


def test_what_was_accepted_is_answered_while_the_server_stops(serving):
    serving.models.ready = False
    assert serving.ask("POST", "/v1/classify", content=shade(10), headers=PNG).status_code == 200


def test_labels_are_passed_on_or_refused(serving):
    response = serving.ask("POST", "/v1/labels", json={"request_id": "r", "item": 2, "label": "grey"})
    assert (response.status_code, response.json()) == (202, {"request_id": "r"})
    serving.ask("POST", "/v1/labels", json={"request_id": "s", "label": "dark"})
    assert serving.told["label"] == [("r", 2, "grey"), ("s", 0, "dark")]
    bad = [{}, [], 1, {"request_id": "r"}, {"request_id": 1, "label": "x"}, {"request_id": "r", "label": None}]
    bad += [{"request_id": "r", "label": "x", "item": item} for item in (-1, True, 1.5, "0", None)]
    for each in bad:
        check_refusal(serving.ask("POST", "/v1/labels", json=each), 400)
    text = {"content-type": "text/plain"}
    check_refusal(serving.ask("POST", "/v1/labels", content=b'{"request_id": "r", "label": "x"}', headers=text), 415)
    assert len(serving.told["label"]) == 2

    def refuse(request_id, item, label):
        raise {"grey": UnknownPredictionError, "pink": UnknownLabelError}[label]("0x7f0123456789")

    serving = make_serving(label=refuse)
    check_refusal(serving.ask("POST", "/v1/labels", json={"request_id": "r", "label": "grey"}), 404)
    check_refusal(serving.ask("POST", "/v1/labels", json={"request_id": "r", "label": "pink"}), 400)
    check_refusal(serving.ask("POST", "/v1/labels", json={"request_id": "r", "label": "else"}), 500)
    unwatched = make_serving(label=False)
    check_refusal(unwatched.ask("POST", "/v1/labels", json={"request_id": "r", "label": "grey"}), 404)


def test_without_room_for_the_answer_no_time_goes_into_decoding():
    class Decodes(FakePredictor):
        num_decoded = 0

        def decode(self, data):
            self.num_decoded += 1
            return super().decode(data)

    predictor = Decodes()
    serving = make_serving(predictor)
    batcher = serving.models.current().batcher
    assert serving.ask("POST", "/v1/classify", content=shade(10), headers=PNG).status_code == 200
    batcher._num_queued = serving.config.batching.queue_size
    response = serving.ask("POST", "/v1/classify", content=shade(10), headers=PNG)
    batcher._num_queued = 0
    assert check_refusal(response, 503)
    assert int(response.headers["retry-after"]) >= 1
    assert serving.refused("queue_full") == 1
    assert predictor.num_decoded == 1
