"""Overlays adapt the manifests without editing them: images, host, database, secrets."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support import cluster_rules as rules
from tests.support.cluster import (
    ROOT,
    Object,
    containers,
    files,
    is_ours,
    of_kind,
    read,
    title,
    volumes,
    workloads,
)
from tests.support.overlays import PRODUCTION, build_overlay, copy_of_production

BASE = read(ROOT / "k8s")
SECRET = "Secret/notifications-secrets"


@pytest.fixture(scope="module")
def production() -> list[Object]:
    return build_overlay(PRODUCTION)


def test_the_base_lists_every_manifest_but_the_secrets() -> None:
    listed = yaml.safe_load((ROOT / "k8s/Kustomization").read_text())["resources"]
    assert listed == [p.name for p in files(ROOT / "k8s") if p.name != "02-secrets.yaml"]


def test_the_overlay_is_the_base_with_its_changes(production: list[Object]) -> None:
    assert {title(each) for each in production} == {title(each) for each in BASE} - {SECRET}
    [ingress] = of_kind(production, "Ingress")
    assert ingress["spec"]["ingressClassName"] == "nginx"
    [settings] = of_kind(production, "ConfigMap")
    assert settings["data"]["PUBLIC_URL"] == f"https://{ingress['spec']['rules'][0]['host']}"


def test_the_link_in_k8s_leads_to_the_same_overlay(production: list[Object]) -> None:
    assert build_overlay(ROOT / "k8s/overlays/production") == production


@pytest.mark.parametrize(
    "rule",
    [
        rules.objects_can_be_applied,
        rules.selectors_match_their_pods,
        rules.ports_exist,
        rules.volumes_exist,
        rules.pods_are_restricted,
        rules.deployments_scale_and_spread,
        rules.a_second_apply_changes_nothing,
        rules.important_pods_come_first,
    ],
    ids=lambda rule: rule.__name__,
)
def test_the_overlay_follows_rule(rule: rules.Rule, production: list[Object]) -> None:
    documents = sorted(production, key=lambda each: each["kind"] != "Namespace")
    assert list(rule(documents)) == []


def test_built_overlays_are_valid_by_their_schemas(
    production: list[Object], tmp_path: Path
) -> None:
    built = tmp_path / "built.yaml"
    built.write_text(yaml.safe_dump_all(production))
    done = subprocess.run(
        [sys.executable, "-m", "kubernetes_validate", "--strict", str(built)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARN" not in done.stdout + done.stderr


def test_cloudnativepg_replaces_the_single_postgresql(tmp_path: Path) -> None:
    documents = build_overlay(copy_of_production(tmp_path, "cloudnative-pg"))
    titles = {title(each) for each in documents}
    assert {title(each) for each in BASE} - titles == {
        SECRET,
        "StatefulSet/postgres",
        "Service/postgres",
        "Service/postgres-headless",
        "NetworkPolicy/postgres",
        "NetworkPolicy/to-postgres",
    }
    [cluster] = of_kind(documents, "Cluster")
    synchronous = cluster["spec"]["postgresql"]["synchronous"]
    assert synchronous == {"method": "any", "number": 1, "dataDurability": "required"}
    assert cluster["spec"]["instances"] == 3
    name = cluster["metadata"]["name"]
    ours = [c for each in workloads(documents) for c in containers(each) if is_ours(c)]
    found = [
        variable["valueFrom"]["secretKeyRef"]
        for container in ours
        for variable in container.get("env", [])
        if variable["name"] == "DATABASE_URL"
    ]
    assert len(found) == len(ours)
    assert all(each == {"name": f"{name}-app", "key": "uri"} for each in found)
    # The pods that connect to PostgreSQL in the base reach the cluster, and no other.
    [before] = [p for p in of_kind(BASE, "NetworkPolicy") if p["metadata"]["name"] == "postgres"]
    [after] = [p for p in of_kind(documents, "NetworkPolicy") if p["metadata"]["name"] == name]
    assert after["spec"]["ingress"][0]["from"] == before["spec"]["ingress"][0]["from"]
    [store] = of_kind(documents, "ObjectStore")
    [backup] = of_kind(documents, "ScheduledBackup")
    [plugin] = cluster["spec"]["plugins"]
    assert plugin["parameters"]["barmanObjectName"] == store["metadata"]["name"]
    assert plugin["name"] == backup["spec"]["pluginConfiguration"]["name"]
    assert backup["spec"]["cluster"]["name"] == name


def test_a_private_ca_is_in_every_container(tmp_path: Path) -> None:
    documents = build_overlay(copy_of_production(tmp_path, "private-ca"))
    for each in of_kind(documents, "Deployment"):
        assert {"name": "ca", "configMap": {"name": "notifications-ca"}} in volumes(each)
        for container in containers(each):
            assert {"name": "ca", "mountPath": "/etc/notifications", "readOnly": True} in container[
                "volumeMounts"
            ], title(each)


def test_external_secrets_create_the_secret_that_pods_read(tmp_path: Path) -> None:
    documents = build_overlay(copy_of_production(tmp_path, "external-secrets"))
    [external] = of_kind(documents, "ExternalSecret")
    assert f"Secret/{external['spec']['target']['name']}" == SECRET


def test_the_http_route_opens_the_paths_of_the_ingress() -> None:
    [route] = of_kind(read(ROOT / "k8s/optional"), "HTTPRoute")
    [ingress] = of_kind(BASE, "Ingress")
    [rule] = route["spec"]["rules"]
    kinds = {"Exact": "Exact", "PathPrefix": "Prefix"}
    opened = {(kinds[m["path"]["type"]], m["path"]["value"]) for m in rule["matches"]}
    paths = ingress["spec"]["rules"][0]["http"]["paths"]
    assert opened == {(path["pathType"], path["path"]) for path in paths}
    [backend] = rule["backendRefs"]
    [service] = [s for s in of_kind(BASE, "Service") if s["metadata"]["name"] == backend["name"]]
    assert backend["port"] in [port["port"] for port in service["spec"]["ports"]]
