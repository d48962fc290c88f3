"""The optional manifests fit the others and have the same content as deploy/."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dev import monitoring
from tests.support import cluster_rules as rules
from tests.support.cluster import (
    NAMESPACE,
    ROOT,
    containers,
    files,
    find_values,
    matches,
    of_kind,
    read,
    title,
)

OPTIONAL = ROOT / "k8s/optional"
BASE = read(ROOT / "k8s")
MORE = read(OPTIONAL)
# Manifests of built-in kinds, which have a schema.
PLAIN = [
    "simulated-provider.yaml",
    "grafana-dashboard.yaml",
    "postgres-backup.yaml",
    "postgres-restore.yaml",
    "tracing.yaml",
]
ITS_OWN = {"HTTPRoute", "PrometheusRule", "ScaledObject", "ServiceMonitor"}


def one(kind: str) -> dict:  # type: ignore[type-arg]
    [found] = of_kind(MORE, kind)
    return found


def test_optional_manifests_of_built_in_kinds_are_valid() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "kubernetes_validate", "--strict"),
            *(str(OPTIONAL / name) for name in PLAIN),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARN" not in done.stdout + done.stderr
    known = {each["kind"] for name in PLAIN for each in yaml.safe_load_all(_text(name))}
    assert {each["kind"] for each in MORE} - known - {"NetworkPolicy"} == ITS_OWN


def _text(name: str) -> str:
    return (OPTIONAL / name).read_text()


@pytest.mark.parametrize(
    "rule",
    [
        rules.selectors_match_their_pods,
        rules.ports_exist,
        rules.references_exist,
        rules.volumes_exist,
        rules.images_are_built_here_or_official,
        rules.pods_are_restricted,
    ],
    ids=lambda rule: rule.__name__,
)
def test_optional_manifests_follow_rule_with_the_others(rule: rules.Rule) -> None:
    plain = [each for each in MORE if each["kind"] not in (*ITS_OWN, "ConfigMap")]
    assert list(rule(BASE + plain)) == []


def test_all_objects_are_in_the_namespace_with_unique_names() -> None:
    titles = [title(each) for each in BASE + MORE]
    assert len(set(titles)) == len(titles)
    for each in MORE:
        assert each["metadata"]["namespace"] == NAMESPACE
        assert each["metadata"]["labels"]["app.kubernetes.io/part-of"] == "notifications"


@pytest.mark.parametrize("path", monitoring.manifests(), ids=lambda path: path.name)
def test_generated_manifests_are_current(path: Path) -> None:
    assert path in files(OPTIONAL)
    assert path.read_text() == monitoring.manifests()[path], "run python -m dev.monitoring"


def test_generated_manifests_have_the_content_of_their_sources() -> None:
    rules = [yaml.safe_load((ROOT / file).read_text()) for file in monitoring.RULES]
    groups = [group for document in rules for group in document["groups"]]
    assert one("PrometheusRule")["spec"] == {"groups": groups}
    dashboard = json.loads((ROOT / "deploy/grafana/notifications.json").read_text())
    assert json.loads(one("ConfigMap")["data"]["notifications.json"]) == dashboard


def test_the_service_monitor_sets_the_job_name_that_alerts_use() -> None:
    monitor = one("ServiceMonitor")["spec"]
    [service] = [
        each
        for each in of_kind(BASE, "Service")
        if matches(monitor["selector"], each["metadata"]["labels"])
    ]
    [endpoint] = monitor["endpoints"]
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    token = endpoint["authorization"]["credentials"]
    assert token["key"] == "METRICS_TOKEN"
    assert token["key"] in (find_values(BASE, "Secret", token["name"]) or {})
    job = service["metadata"]["labels"][monitor["jobLabel"]]
    assert f'up{{job="{job}"}}' in (ROOT / "deploy/prometheus/alerts.yml").read_text()


def test_keda_takes_over_the_autoscaler_of_dispatch() -> None:
    scaled = one("ScaledObject")
    [autoscaler] = [
        each
        for each in of_kind(BASE, "HorizontalPodAutoscaler")
        if each["spec"]["scaleTargetRef"]["name"] == scaled["spec"]["scaleTargetRef"]["name"]
    ]
    own = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]
    assert own["name"] == autoscaler["metadata"]["name"]
    assert own["behavior"] == autoscaler["spec"]["behavior"]
    assert scaled["spec"]["maxReplicaCount"] == autoscaler["spec"]["maxReplicas"]
    annotations = scaled["metadata"]["annotations"]
    assert annotations["scaledobject.keda.sh/transfer-hpa-ownership"] == "true"
    [trigger] = scaled["spec"]["triggers"]
    [target] = [t for t in of_kind(BASE, "Deployment") if t["metadata"]["name"] == own["name"]]
    variables = [each["name"] for each in containers(target, init=False)[0]["env"]]
    assert trigger["metadata"]["connectionFromEnv"] in variables
