"""Rules, dashboard and examples against the metrics that exist, and against the programs that read them."""

import json
import re
import subprocess

import numpy as np
import prometheus_client
import pytest
import yaml
from prometheus_client import CollectorRegistry

from mlvlab_jax.monitoring.detector import TestResult as Result
from mlvlab_jax.monitoring.metrics import MonitorMetrics
from mlvlab_jax.serving.metrics import ROUTES, ServingMetrics
from tests.monitoring.services import (
    CONFIGS,
    needs_alertmanager,
    needs_amtool,
    needs_prometheus,
    needs_promtool,
    query,
    read_rules,
    receive,
    run_alertmanager,
    run_prometheus,
    wait_for,
)

RULES = {rule["alert"]: rule for group in read_rules()["groups"] for rule in group["rules"]}
CASES = yaml.safe_load((CONFIGS / "prometheus" / "rules_test.yml").read_text())["tests"]
DASHBOARD = json.loads((CONFIGS / "grafana" / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = {f"{panel['title']} {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]}
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


class Exposed:
    """All metrics of a server that watches its model, on one page."""

    def __init__(self):
        self.serving = ServingMetrics(queue_capacity=256)
        self.registry: CollectorRegistry = self.serving.registry
        self.monitoring = MonitorMetrics(self.registry)

    def names(self):
        return {family.name + suffix for family in self.registry.collect() for suffix in _SUFFIXES[family.type]}

    def serve_some(self, *, alarm):
        """What a second of work tells."""
        self.serving.ready.set(1)
        self.serving.set_model("fashion", "8f3a11c09b2e", package="8f3a11c09b2e" * 5)
        self.serving.add_request("/v1/classify", code=200, seconds=0.01)
        self.serving.add_predictions("fashion", "8f3a11c09b2e", 1)
        self.serving.add_batch(1, seconds=0.01)
        self.monitoring.count_answers(np.array([[0.9, 0.1]], np.float32), ("cat", "dog"))
        self.monitoring.set_results([Result("mmd", "embedding", p_value=0.0, effect=0.3, floor=0.1, rejected=alarm)])
        self.monitoring.set("mlvlab_drift_alarm", alarm)
        for name, value in (("", 0.9), ("_low", 0.85), ("_high", 0.94)):
            self.monitoring.set(f"mlvlab_live_accuracy{name}", value)
        self.monitoring.set("mlvlab_drift_last_success_timestamp_seconds", 1.7e9)


def names_in(expression):
    return set(re.findall(r"\bmlvlab_\w+", re.sub(r"\{[^{}]*\}", "", expression)))


def test_rules_and_dashboard_ask_for_metrics_that_exist_and_leave_none_out():
    exposed = Exposed().names()
    asked = set().union(*(names_in(rule["expr"]) for rule in RULES.values()), *map(names_in, EXPRESSIONS.values()))
    assert asked - exposed == set()
    seen = {re.sub("_(bucket|sum|count)$", "", name) for name in asked}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in exposed} - seen == set()
    for case in CASES:
        assert {name for each in case["input_series"] for name in names_in(each["series"])} <= exposed


def test_predictions_are_found_by_their_routes():
    asked = [*(rule["expr"] for rule in RULES.values()), *EXPRESSIONS.values()]
    patterns = {pattern for expression in asked for pattern in re.findall(r'route=~"(.*?)"', expression)}
    (pattern,) = patterns
    assert {route for route in ROUTES if re.fullmatch(pattern, route)} == {"/v1/classify", "/v2/models/{model}/infer"}


def test_every_alert_says_what_it_is_and_what_to_do():
    assert len(RULES) == sum(len(group["rules"]) for group in read_rules()["groups"]) == 12
    for name, rule in RULES.items():
        assert name.startswith("Mlvlab")
        assert rule["labels"]["severity"] in ("warning", "critical")
        told = rule["annotations"]
        assert "{{ $labels.instance }}" in told["summary"]
        assert "Next: " in told["description"]
        assert len(told["runbook"]) > 100
    assert RULES["MlvlabAccuracyLow"]["expr"].endswith(f"< {RULES['MlvlabAccuracyLow']['annotations']['threshold']}")


@pytest.mark.parametrize("alert", RULES)
def test_every_alert_has_a_case_in_which_it_is_quiet_fires_once_and_ends(alert):
    cases = [case["promql_expr_test"] for case in CASES if case["name"].startswith(f"{alert}, ")]
    assert cases
    for asked in cases:
        found = [each.get("exp_samples", []) for each in asked]
        assert all('ALERTS{alertstate="firing"}' in each["expr"] for each in asked)
        assert found[0] == found[-1] == []
        assert {len(samples) for samples in found[1:-1]} == {1}
        assert all(
            f'alertname="{alert}"' in samples[0]["labels"] and samples[0]["value"] == 1 for samples in found[1:-1]
        )


@needs_promtool
def test_the_rules_hold_in_every_case():
    done = subprocess.run(
        ["promtool", "test", "rules", "rules_test.yml"], cwd=CONFIGS / "prometheus", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_the_cases_notice_alerts_that_never_fire(tmp_path):
    (tmp_path / "rules_test.yml").write_text((CONFIGS / "prometheus" / "rules_test.yml").read_text())
    tree = read_rules()
    for group in tree["groups"]:
        for rule in group["rules"]:
            rule["expr"] = "vector(1) > 1"
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(tree))
    done = subprocess.run(["promtool", "test", "rules", "rules_test.yml"], cwd=tmp_path, capture_output=True, text=True)
    missed = re.findall(r'exp: \{alertname="(\w+)"', done.stdout + done.stderr)
    assert set(missed) == set(RULES)


@needs_promtool
def test_the_example_for_prometheus_is_one_it_takes():
    done = subprocess.run(
        ["promtool", "check", "config", "prometheus.yml"], cwd=CONFIGS / "prometheus", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "12 rules found" in done.stdout


@needs_amtool
def test_the_example_for_alertmanager_is_one_it_takes():
    path = CONFIGS / "alertmanager" / "alertmanager.yml"
    done = subprocess.run(["amtool", "check-config", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tree = yaml.safe_load(path.read_text())
    named = {
        word
        for rule in tree["inhibit_rules"]
        for text in rule["target_matchers"]
        for word in re.findall(r"Mlvlab\w+", text)
    }
    assert named <= set(RULES)


def test_the_panels_lie_side_by_side():
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert all(panel["targets"] for panel in PANELS)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """Metrics, the address of a Prometheus that reads them, and the messages that its alerts became."""
    exposed = Exposed()
    server, thread = prometheus_client.start_http_server(0, addr="127.0.0.1", registry=exposed.registry)
    target = f"127.0.0.1:{server.server_port}"
    folders = [tmp_path_factory.mktemp(name) for name in ("alertmanager", "prometheus")]
    exposed.serve_some(alarm=False)
    try:
        with (
            receive() as (receiver, messages),
            run_alertmanager(folders[0], receiver=receiver) as alertmanager,
            run_prometheus(
                folders[1], target=target, alertmanager=alertmanager, at_once="MlvlabDriftAlarm"
            ) as prometheus,
        ):
            wait_for(lambda: query(prometheus, 'up{job="mlvlab"} == 1'))
            yield exposed, prometheus, messages
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@needs_prometheus
@needs_alertmanager
def test_a_drift_alarm_is_said_once_and_taken_back_once(watched):
    exposed, prometheus, messages = watched

    def firing():
        return [sample["metric"]["alertname"] for sample in query(prometheus, 'ALERTS{alertstate="firing"}')]

    wait_for(lambda: query(prometheus, "mlvlab_drift_alarm == 0"))
    assert firing() == messages == []
    exposed.serve_some(alarm=True)
    wait_for(lambda: messages)
    assert firing() == ["MlvlabDriftAlarm"]
    exposed.serve_some(alarm=False)
    wait_for(lambda: len(messages) > 1)
    wait_for(lambda: query(prometheus, "vector(time()) > on () max(timestamp(mlvlab_drift_alarm)) - 1"))
    assert [message["status"] for message in messages] == ["firing", "resolved"]
    said = messages[0]["alerts"][0]
    assert said["labels"]["alertname"] == "MlvlabDriftAlarm"
    assert said["annotations"]["summary"].endswith(" differ from what the model was trained on")
    assert "mlvlab monitor report --folder DIR" in said["annotations"]["description"]


@needs_prometheus
@needs_alertmanager
def test_every_expression_of_the_dashboard_is_answered(watched):
    exposed, prometheus, _ = watched
    for _ in range(3):
        exposed.serve_some(alarm=False)
        before = float(query(prometheus, "max(timestamp(mlvlab_ready))")[0]["value"][1])
        wait_for(lambda before=before: float(query(prometheus, "max(timestamp(mlvlab_ready))")[0]["value"][1]) > before)
    for title, expression in EXPRESSIONS.items():
        asked = expression.replace("$__rate_interval", "30s").replace("$instance", ".+")
        assert query(prometheus, asked), f"{title}: {asked}"
