"""The Kubernetes manifests are valid by their schemas and consistent with one another.

Each rule is also tested on manifests that are broken on purpose.
"""

import contextlib
import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from api import create_app
from shared import __version__
from shared.config.settings import ApiSettings, load_settings
from tests.support import cluster_behaviour as behaviour
from tests.support import cluster_rules as rules
from tests.support.cluster import (
    REGISTRY,
    ROOT,
    Object,
    containers,
    environment,
    files,
    is_ours,
    read,
    volumes,
    with_own_secrets,
    workloads,
)
from tests.support.cluster import title as title_of

MANIFESTS = ROOT / "k8s"
DOCUMENTS = read(MANIFESTS)
# The newest version with schemas in kubernetes-validate, and the oldest that has all kinds we use.
VERSIONS = ("1.37", "1.29")
API = "Deployment/api"
RULES: tuple[rules.Rule, ...] = (
    rules.objects_can_be_applied,
    rules.selectors_match_their_pods,
    rules.ports_exist,
    rules.references_exist,
    rules.volumes_exist,
    rules.images_are_built_here_or_official,
    rules.variables_are_known_settings,
    rules.example_secrets_are_consistent,
    rules.pods_are_restricted,
    rules.deployments_scale_and_spread,
    rules.a_second_apply_changes_nothing,
    rules.important_pods_come_first,
    behaviour.pods_reach_only_permitted_targets,
    behaviour.pods_have_time_to_stop,
    behaviour.pods_have_probes,
    behaviour.postgres_has_connections_for_all,
)


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_valid_by_their_schemas_without_a_warning(version: str) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "kubernetes_validate", "-k", version, "--strict"),
            *map(str, files(MANIFESTS)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    passed = [line for line in output.splitlines() if line.startswith("INFO")]
    assert len(passed) == len(output.splitlines()) == len(DOCUMENTS), output


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_manifests_follow_rule(rule: rules.Rule) -> None:
    assert list(rule(DOCUMENTS)) == []


def test_the_folder_contains_only_files_that_apply_reads() -> None:
    """`apply -f` reads files with these endings, sorted by name, and no sub-folder."""
    assert next(path.name for path in files(MANIFESTS)) == "00-namespace.yaml"
    assert {path.name for path in MANIFESTS.iterdir()} - {p.name for p in files(MANIFESTS)} == {
        "optional",
        "overlays",
        "Kustomization",
    }
    assert DOCUMENTS[0]["kind"] == "Namespace"


@pytest.fixture
def routes(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the routes of the API with the settings of the manifests."""
    [container] = [c for c in containers(workload("api")) if c["name"] == "api"]
    for name, value in with_own_secrets(environment(DOCUMENTS, container)).items():
        monkeypatch.setenv(name, value)
    return {str(rule) for rule in create_app().url_map.iter_rules()}


def test_metrics_of_the_api_have_a_file_system_of_their_own() -> None:
    api = workload("api")
    [container] = [c for c in containers(api) if c["name"] == "api"]
    folder = environment(DOCUMENTS, container)["PROMETHEUS_MULTIPROC_DIR"]
    [volume] = [m["name"] for m in container["volumeMounts"] if m["mountPath"] == folder]
    [kind] = [each["emptyDir"] for each in volumes(api) if each["name"] == volume]
    assert kind == {"medium": "Memory", "sizeLimit": "16Mi"}


def workload(name: str) -> Object:
    return next(each for each in workloads(DOCUMENTS) if each["metadata"]["name"] == name)


def test_the_ingress_opens_all_routes_except_internal_ones(routes: set[str]) -> None:
    assert {"/metrics", "/readyz", "/healthz", "/docs/"} <= routes
    assert list(behaviour.ingress_routes_are_complete(DOCUMENTS, routes)) == []
    for change, violation in (
        (lambda spec: spec["rules"][0]["http"]["paths"].pop(), "/healthz is closed"),
        (lambda spec: paths(spec)[4].update(path="/metrics"), "/metrics is open"),
        (lambda spec: paths(spec)[4].update(path="/", pathType="Prefix"), "/readyz is open"),
        (lambda spec: spec["rules"][0].update(host="other.example.com"), "no certificate"),
        (lambda spec: spec["tls"][0].update(hosts=["x"]), "PUBLIC_URL differs"),
        (lambda spec: paths(spec)[0]["backend"]["service"].update(name="x"), "no Service"),
    ):
        broken = copy.deepcopy(DOCUMENTS)
        change(find(broken, "Ingress/api")["spec"])
        assert any(violation in c for c in behaviour.ingress_routes_are_complete(broken, routes)), (
            violation
        )


def paths(ingress_spec: Object) -> list[Object]:
    found: list[Object] = ingress_spec["rules"][0]["http"]["paths"]
    return found


@pytest.mark.parametrize(
    ("name", "container"),
    [(title_of(w), c["name"]) for w in workloads(DOCUMENTS) for c in containers(w) if is_ours(c)],
)
def test_processes_start_with_the_environment_of_their_manifest(
    name: str, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = next(c for c in containers(find(DOCUMENTS, name)) if c["name"] == container)
    given = environment(DOCUMENTS, found, volumes(find(DOCUMENTS, name)))
    for setting in rules.ALL_SETTINGS:
        monkeypatch.delenv(setting, raising=False)
    for setting, value in with_own_secrets(given).items():
        monkeypatch.setenv(setting, value)
    kind = rules.SETTINGS_BY_COMMAND[tuple(found.get("command", ()))]
    settings = load_settings(kind)
    # gunicorn rejects an empty value.
    assert not isinstance(settings, ApiSettings) or int(given["WEB_CONCURRENCY"])
    if "PUBLIC_URL" in given:  # a real address, with which placeholders are refused
        for setting, value in given.items():
            monkeypatch.setenv(setting, value)
        with pytest.raises(SystemExit, match="placeholders of the manifests"):
            load_settings(kind)


# --- violations of each rule ---------------------------------------------------------------------


def find(documents: list[Object], title: str) -> Object:
    return next(each for each in documents if title_of(each) == title)


def at(title: str, way: str, value: Any) -> Callable[[list[Object]], None]:
    """Return a change that sets the value at a path like "spec template 0"; None deletes it."""

    def change(documents: list[Object]) -> None:
        where: Any = find(documents, title)
        *way_there, last = (int(step) if step.isdigit() else step for step in way.split(" "))
        for step in way_there:
            where = where[step]
        if value is None:
            del where[last]
        elif isinstance(where, list) and last == len(where):
            where.append(value)
        else:
            where[last] = value

    return change


POD = "spec template spec"
CONTAINER = f"{POD} containers 0"
BROKEN: list[tuple[str, Callable[[list[Object]], None]]] = [
    ("namespace does not come first", lambda d: d.append(d.pop(0))),
    ("defined twice", lambda d: d.append(d[3])),
    ("not in the namespace", at(API, "metadata namespace", "default")),
    ("does not enforce", at("Namespace/notifications", "metadata labels", {})),
    ("that every cluster has", at(API, "kind", "Job")),
    ("no label app.kubernetes.io/part-of", at("Service/redis", "metadata labels", {})),
    ("selects no pod", at("PodDisruptionBudget/control", "spec selector matchLabels app", "x")),
    (
        "Service/api: selects",
        at("Service/api", "spec selector", {"app.kubernetes.io/name": "redis"}),
    ),
    ("selects no pod", at("NetworkPolicy/redis", "spec podSelector matchLabels app", "x")),
    (
        "no pod is named",
        at("NetworkPolicy/to-mail", "spec podSelector matchExpressions 0 values 0", "web"),
    ),
    ("its selector selects []", at(API, "spec template metadata labels", {})),
    (
        "its selector selects",
        at(API, "spec selector matchLabels", {"app.kubernetes.io/part-of": "notifications"}),
    ),
    ("has no port", at("Service/api", "spec ports 0 targetPort", "web")),
    ("uses port", at(API, f"{CONTAINER} livenessProbe httpGet port", "web")),
    ("has no port 8001", at("NetworkPolicy/api", "spec ingress 0 ports 0 port", 8001)),
    ("no Service other", at("StatefulSet/redis", "spec serviceName", "other")),
    ("Service redis is not headless", at("StatefulSet/redis", "spec serviceName", "redis")),
    ("no Service with an address", at("Service/postgres", "spec clusterIP", "None")),
    ("REDIS_URL names no Service", at("Service/redis", "spec clusterIP", "None")),
    ("no ConfigMap other", at(API, f"{CONTAINER} envFrom 0 configMapRef name", "other")),
    ("which Secret", at("Secret/notifications-secrets", "stringData SECRET_KEY", None)),
    ("MORE is unused", at("Secret/notifications-secrets", "stringData MORE", "change-me-x")),
    ("no ServiceAccount", at(API, f"{POD} serviceAccountName", "default")),
    (
        "no manifest creates the Secret",
        at("ServiceAccount/notifications", "imagePullSecrets", [{"name": "other"}]),
    ),
    ("no volume x", at(API, f"{CONTAINER} volumeMounts 0 name", "x")),
    (
        "volume y is not mounted",
        at(API, f"{POD} volumes 1", {"name": "y", "emptyDir": {"sizeLimit": "1Mi"}}),
    ),
    ("can fill the node", at(API, f"{POD} volumes 0 emptyDir", {})),
    ("no volume data", at("StatefulSet/redis", "spec volumeClaimTemplates", None)),
    (
        "is not built by this repository",
        at(API, f"{CONTAINER} image", f"{REGISTRY}/web:{__version__}"),
    ),
    ("image of 0.0.1", at(API, f"{CONTAINER} image", f"{REGISTRY}/api:0.0.1")),
    ("nor official", at("StatefulSet/redis", f"{CONTAINER} image", "bitnami/redis:8")),
    ("nor official", at("StatefulSet/redis", f"{CONTAINER} image", "redis:latest")),
    ("PROVDER_URL is not read", at("ConfigMap/notifications-settings", "data PROVDER_URL", "x")),
    (
        "RETENTION_DAYS cannot be",
        at("ConfigMap/notifications-settings", "data RETENTION_DAYS", None),
    ),
    ("lacks PROVIDER_URL", at("Deployment/dispatch", f"{CONTAINER} envFrom", [])),
    ("unknown command", at("Deployment/dispatch", f"{CONTAINER} command 3", "dispatsch")),
    ("does not read SMTP_URL", at("Deployment/scheduler", f"{CONTAINER} env 1 name", "SMTP_URL")),
    ("PGDATA2 is not read", at("StatefulSet/postgres", f"{CONTAINER} env 3 name", "PGDATA2")),
    ("looks like a real", at("Secret/notifications-secrets", "stringData SECRET_KEY", "x" * 20)),
    ("differ", at("Secret/notifications-secrets", "stringData REDIS_PASSWORD", "change-me-x")),
    ("names no Service", at("Service/redis", "metadata name", "valkey")),
    ("can run as root", at(API, f"{POD} securityContext runAsNonRoot", None)),
    ("not a number above 0", at(API, f"{POD} securityContext runAsUser", 0)),
    ("no seccomp", at("StatefulSet/postgres", f"{POD} securityContext seccompProfile", None)),
    ("shares a namespace", at(API, f"{POD} hostNetwork", True)),
    (
        "kind that is not allowed",
        at(API, f"{POD} volumes 0", {"name": "tmp", "hostPath": {"path": "/"}}),
    ),
    ("automountServiceAccountToken", at(API, f"{POD} automountServiceAccountToken", True)),
    ("enableServiceLinks", at(API, f"{POD} enableServiceLinks", None)),
    (
        "can escalate privileges",
        at(API, f"{CONTAINER} securityContext allowPrivilegeEscalation", True),
    ),
    ("has capabilities", at(API, f"{POD} initContainers 0 securityContext capabilities", {})),
    ("write to its root", at("StatefulSet/redis", f"{CONTAINER} securityContext", {})),
    ("overrides the pod's settings", at(API, f"{CONTAINER} securityContext runAsUser", 0)),
    ("uses a port of its node", at(API, f"{CONTAINER} ports 0 hostPort", 8000)),
    ("no requests", at("Deployment/control", f"{CONTAINER} resources requests cpu", None)),
    ("no Deployment/web", at("HorizontalPodAutoscaler/api", "spec scaleTargetRef name", "web")),
    ("every apply would undo", at("Deployment/dispatch", "spec replicas", 3)),
    ("a single pod is missing", at("HorizontalPodAutoscaler/api", "spec minReplicas", 1)),
    ("a single pod is missing", at("Deployment/scheduler", "spec replicas", 1)),
    ("not spread over topology", at(API, f"{POD} topologySpreadConstraints 1", None)),
    ("no PriorityClass x", at(API, f"{POD} priorityClassName", "x")),
    ("postgres does not come before", at("PriorityClass/notifications-data", "value", 10)),
    ("a strategy without a type", at(API, "spec strategy type", None)),
    ("globalDefault", at("PriorityClass/notifications-data", "globalDefault", False)),
    ("a port without a protocol", at("Service/api", "spec ports 0 protocol", None)),
    ("a port without a protocol", at("NetworkPolicy/dns", "spec egress 0 ports 0 protocol", None)),
    (
        "the claim data lacks defaults",
        at("StatefulSet/redis", "spec volumeClaimTemplates 0 status", None),
    ),
    ("a slow first start", at(API, "spec progressDeadlineSeconds", 600)),
    ("not spread over", at(API, f"{POD} topologySpreadConstraints 0 matchLabelKeys", ["x"])),
    ("stop all of its pods", at("PodDisruptionBudget/control", "metadata name", "other")),
    ("another pod reaches redis", at("NetworkPolicy/redis", "spec ingress 0 from", None)),
    ("internet reaches control", at("NetworkPolicy/default-deny", "spec policyTypes 0", None)),
    ("cannot reach dns", at("NetworkPolicy/dns", "spec egress 0 to 0", None)),
    ("dispatch cannot reach postgres", at("NetworkPolicy/to-postgres", "spec egress", [])),
    (
        "reaches cloud metadata",
        at("NetworkPolicy/to-https", "spec egress 0 to 0 ipBlock except", []),
    ),
    (
        "provider's port 8443",
        at("ConfigMap/notifications-settings", "data PROVIDER_URL", "https://x:8443"),
    ),
    ("killed after 20 s", at(API, f"{POD} terminationGracePeriodSeconds", 20)),
    ("killed after 10 s", at("Deployment/dispatch", f"{POD} terminationGracePeriodSeconds", 10)),
    ("stops listening", at(API, f"{CONTAINER} lifecycle", None)),
    ("no readinessProbe", at("StatefulSet/redis", f"{CONTAINER} readinessProbe", None)),
    ("no livenessProbe", at("Deployment/dispatch", f"{CONTAINER} livenessProbe", None)),
    ("does not request", at(API, f"{CONTAINER} readinessProbe httpGet path", "/healthz")),
    ("wait for the schema", at("Deployment/dispatch", f"{POD} initContainers", None)),
    ("are needed", at("HorizontalPodAutoscaler/api", "spec maxReplicas", 60)),
]


@cache
def find_violations(number: int) -> list[tuple[str, str]]:
    """Return the violations in the documents broken in this way, with the names of the rules."""
    broken = copy.deepcopy(DOCUMENTS)
    BROKEN[number][1](broken)
    return [(rule.__name__, each) for rule in RULES for each in _violations(rule, broken)]


def _violations(rule: rules.Rule, broken: list[Object]) -> Iterator[str]:
    """Run a rule; stop silently where the broken document lacks what the rule reads."""
    with contextlib.suppress(KeyError, IndexError, StopIteration):
        yield from rule(broken)


@pytest.mark.parametrize("number", range(len(BROKEN)), ids=[violation for violation, _ in BROKEN])
def test_a_broken_manifest_is_reported(number: int) -> None:
    found = [violation for _, violation in find_violations(number)]
    assert any(BROKEN[number][0] in each for each in found), f"found instead: {found}"


def test_every_rule_reports_at_least_one_broken_manifest() -> None:
    caught = {
        rule
        for number, (expected, _) in enumerate(BROKEN)
        for rule, violation in find_violations(number)
        if expected in violation
    }
    assert caught == {rule.__name__ for rule in RULES}


def test_a_duplicate_key_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "twice.yaml").write_text("a: {b: 1, b: 2}\n")
    with pytest.raises(AssertionError, match="given twice"):
        read(tmp_path)
