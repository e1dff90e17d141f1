import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlvlab_jax.serving.metrics import ROUTES, ServingMetrics, find_route

NAMES = {
    "mlvlab_requests_total",
    "mlvlab_request_seconds",
    "mlvlab_predictions_total",
    "mlvlab_refused_total",
    "mlvlab_queue_images",
    "mlvlab_queue_capacity",
    "mlvlab_batch_images",
    "mlvlab_compute_seconds",
    "mlvlab_ready",
    "mlvlab_model_info",
    "mlvlab_reloads_total",
    "mlvlab_reload_failing",
    "mlvlab_nonfinite_total",
    "mlvlab_connections",
}


def families(metrics):
    return {family.name: family.samples for family in text_string_to_metric_families(metrics.render().decode())}


def test_render_gives_exactly_the_names_that_rules_and_dashboards_use():
    text = ServingMetrics().render().decode()
    assert set(re.findall(r"^# TYPE (\S+)", text, flags=re.MULTILINE)) == NAMES
    assert "_created" not in text


def test_every_reason_and_result_is_there_before_the_first_refusal():
    samples = families(ServingMetrics())
    assert {s.labels["reason"] for s in samples["mlvlab_refused"]} == {
        "queue_full", "deadline", "client_gone", "draining", "too_large", "too_slow", "unauthorized",
    }  # fmt: skip
    assert {s.labels["result"] for s in samples["mlvlab_reloads"]} == {"ok", "refused"}


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/", "/"),
        ("/v1/classify", "/v1/classify"),
        ("/v2/health/ready", "/v2/health/ready"),
        ("/v2/models/digits", "/v2/models/{model}"),
        ("/v2/models/digits/versions/1.0.0", "/v2/models/{model}"),
        ("/v2/models/digits/infer", "/v2/models/{model}/infer"),
        ("/v2/models/digits/versions/1.0.0/infer", "/v2/models/{model}/infer"),
        ("/v2/models/digits/versions/1.0.0/ready", "/v2/models/{model}/ready"),
        ("/v2/models/digits/x", "other"),
        ("/v2/models", "other"),
        ("/v1/classify/", "other"),
        ("/admin", "other"),
        ("", "other"),
    ],
)
def test_find_route_knows_the_routes_and_no_others(path, route):
    assert find_route(path) == route


def test_random_names_and_paths_make_no_series_of_their_own():
    metrics = ServingMetrics()
    for k in range(2000):
        for path in (f"/v2/models/m{k}/infer", f"/x{k}", f"/v2/models/m/versions/{k}", f"/v2/models/{k}/a/b"):
            metrics.add_request(path, code=404, seconds=0.1)
    samples = families(metrics)
    assert {s.labels["route"] for s in samples["mlvlab_requests"]} <= set(ROUTES)
    assert max(map(len, samples.values())) <= 200


def test_versions_that_were_left_long_ago_are_forgotten_and_one_that_came_back_is_not():
    metrics = ServingMetrics()
    metrics.set_model("digits", "first", package="a")
    for k in range(300):
        metrics.set_model("digits", str(k), package="b")
        metrics.predictions.labels("digits", str(k)).inc()
        metrics.set_model("digits", "first", package="a")
    samples = families(metrics)
    assert [s.labels for s in samples["mlvlab_model_info"]] == [{"model": "digits", "version": "first", "package": "a"}]
    versions = {s.labels["version"] for s in samples["mlvlab_predictions"]}
    assert len(versions) <= 60
    assert {"first", "299"} <= versions


def test_a_batch_a_refusal_and_the_queue_are_counted():
    metrics = ServingMetrics(queue_capacity=64)
    metrics.set_queue(3)
    metrics.add_batch(5, seconds=0.02)
    metrics.add_refusal("queue_full")
    metrics.add_nonfinite(2)
    metrics.set_model("digits", "1.0.0", package="a")
    metrics.add_predictions("digits", "1.0.0", 5)
    metrics.add_request("/v1/classify", code=200, seconds=0.03)
    value = metrics.registry.get_sample_value
    assert value("mlvlab_queue_images") == 3
    assert value("mlvlab_queue_capacity") == 64
    assert value("mlvlab_batch_images_bucket", {"le": "4.0"}) == 0
    assert value("mlvlab_batch_images_bucket", {"le": "8.0"}) == 1
    assert value("mlvlab_compute_seconds_sum") == 0.02
    assert value("mlvlab_refused_total", {"reason": "queue_full"}) == 1
    assert value("mlvlab_nonfinite_total") == 2
    assert value("mlvlab_predictions_total", {"model": "digits", "version": "1.0.0"}) == 5
    assert value("mlvlab_requests_total", {"route": "/v1/classify", "code": "200"}) == 1
    assert value("mlvlab_request_seconds_sum", {"route": "/v1/classify"}) == 0.03
