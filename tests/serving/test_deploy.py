"""The files that deploy the server: they are well formed, safe, and agree with the server's own names and numbers."""

import re
import shutil
import subprocess

import pytest
import yaml

from mlvlab_jax.config.serving import ServingConfig
from mlvlab_jax.serving import probe
from mlvlab_jax.serving.metrics import ROUTES, ServingMetrics
from tests.conftest import ROOT

FOLDER = ROOT / "scripts" / "deploy"
KUBERNETES = FOLDER / "kubernetes"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
USER = 10001


def load(path):
    (document,) = yaml.safe_load_all(path.read_text())
    return document


def pods():
    deployment = load(KUBERNETES / "deployment.yaml")["spec"]["template"]["spec"]
    predictor = load(FOLDER / "kserve" / "inferenceservice.yaml")["spec"]["predictor"]
    return [pytest.param(deployment, id="deployment"), pytest.param(predictor, id="kserve")]


def instructions(name):
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.split(maxsplit=1)[1] for line in joined.splitlines() if line.startswith(name + " ")]


@pytest.mark.parametrize("pod", pods())
def test_pods_run_without_privileges_on_a_file_system_they_cannot_write(pod):
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == USER
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    rights = container["securityContext"]
    assert rights["allowPrivilegeEscalation"] is False
    assert rights["readOnlyRootFilesystem"] is True
    assert rights["capabilities"] == {"drop": ["ALL"]}
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/cache", "/tmp"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("pod", pods())
def test_pods_agree_with_the_server(pod):
    (container,) = pod["containers"]
    config = ServingConfig()
    assert [port["containerPort"] for port in container["ports"]] == [config.port]
    pause_s = int(container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [0])[-1])
    assert pod["terminationGracePeriodSeconds"] > config.grace_s + pause_s
    assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"] == "2Gi"
    assert re.fullmatch(r"mlvlab_jax:\d+\.\d+\.\d+", container["image"])
    tokens = [entry for entry in container["env"] if entry["name"] == "MLVLAB_SERVE_TOKEN"]
    assert [entry["valueFrom"]["secretKeyRef"] for entry in tokens] == [{"name": "mlvlab-token", "key": "token"}]


@pytest.mark.parametrize("pod", pods())
@pytest.mark.parametrize(("name", "which"), [("startup", "ready"), ("readiness", "ready"), ("liveness", "live")])
def test_probes_ask_the_servers_own_routes(pod, name, which):
    (container,) = pod["containers"]
    check = container[f"{name}Probe"]
    assert check["exec"]["command"] == ["python", "-m", probe.__spec__.name, which]
    assert check["timeoutSeconds"] > 2  # the probe's own limit
    assert probe.ROUTES[which] in ROUTES


def test_a_deployment_never_has_fewer_servers_than_asked_for():
    deployment = load(KUBERNETES / "deployment.yaml")["spec"]
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    labels = deployment["template"]["metadata"]["labels"]
    for name, found in (
        ("service", lambda spec: spec["selector"]),
        ("disruption_budget", lambda spec: spec["selector"]["matchLabels"]),
        ("service_monitor", lambda spec: spec["selector"]["matchLabels"]),
    ):
        assert found(load(KUBERNETES / f"{name}.yaml")["spec"]) == labels
    assert deployment["selector"]["matchLabels"] == labels
    assert "replicas" not in deployment  # else every apply would undo the autoscaler
    assert load(KUBERNETES / "autoscaler.yaml")["spec"]["minReplicas"] > 1


def test_the_service_leads_to_the_servers_port():
    (container,) = load(KUBERNETES / "deployment.yaml")["spec"]["template"]["spec"]["containers"]
    (port,) = load(KUBERNETES / "service.yaml")["spec"]["ports"]
    assert port["targetPort"] == container["ports"][0]["name"]
    (endpoint,) = load(KUBERNETES / "service_monitor.yaml")["spec"]["endpoints"]
    assert endpoint["port"] == port["name"]
    assert endpoint["path"] in ROUTES


def test_the_autoscaler_uses_a_metric_that_the_server_has():
    (metric,) = load(KUBERNETES / "autoscaler.yaml")["spec"]["metrics"]
    (rule,) = load(KUBERNETES / "prometheus_adapter.yaml")["rules"]["custom"]
    name = metric["pods"]["metric"]["name"]
    assert rule["name"]["as"] == name
    assert rule["seriesQuery"].startswith(name + "{")
    exported = {family.name for family in ServingMetrics(queue_capacity=1).registry.collect()}
    assert name in exported
    batching = ServingConfig().batching
    assert 0 < int(metric["pods"]["target"]["averageValue"]) <= batching.max_size < batching.queue_size
    target = load(KUBERNETES / "autoscaler.yaml")["spec"]["scaleTargetRef"]
    assert target["name"] == load(KUBERNETES / "deployment.yaml")["metadata"]["name"]


def test_kustomize_builds_every_manifest():
    listed = load(KUBERNETES / "kustomization.yaml")["resources"]
    other = {"kustomization.yaml", "prometheus_adapter.yaml"}
    assert {*listed} == {path.name for path in KUBERNETES.glob("*.yaml")} - other
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed: apt-get install kubernetes-client")
    done = subprocess.run(["kubectl", "kustomize", KUBERNETES], capture_output=True, text=True, check=True)
    kinds = {document["kind"] for document in yaml.safe_load_all(done.stdout)}
    assert kinds == {"Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler", "ServiceMonitor"}


def test_the_image_has_no_privileges_a_health_check_and_fixed_versions():
    assert instructions("USER") == [f"{USER}:{USER}"]
    (check,) = instructions("HEALTHCHECK")
    assert f'CMD ["python", "-m", "{probe.__spec__.name}", "ready"]' in check
    assert re.fullmatch(r"PYTHON=3\.\d+-slim-\w+", instructions("ARG")[0])
    assert {line.split(" AS ")[0] for line in instructions("FROM")} == {"python:${PYTHON}"}
    assert "--require-hashes" in instructions("RUN")[0]
    assert "--no-index" in instructions("RUN")[1]
    assert instructions("EXPOSE") == [str(ServingConfig().port)]
    assert instructions("STOPSIGNAL") == ["SIGTERM"]


def test_the_image_takes_only_files_that_exist_and_are_let_in():
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()
    copied = {name for line in instructions("COPY") if not line.startswith("--from") for name in line.split()[:-1]}
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)
