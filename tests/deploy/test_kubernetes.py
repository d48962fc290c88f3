"""The Kubernetes manifests: valid by their schemas, and right between one another.

Each rule is tried on broken manifests too: one that finds nothing wrong with them is none.
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
    workloads,
)
from tests.support.cluster import title as title_of

MANIFESTS = ROOT / "k8s"
DOCUMENTS = read(MANIFESTS)
# The newest that there are schemas of here, and the oldest that knows everything we use.
VERSIONS = ("1.37", "1.29")
API = "Deployment/api"
RULES: tuple[rules.Rule, ...] = (
    rules.objects_are_ours_to_apply,
    rules.selectors_take_their_pods,
    rules.ports_exist,
    rules.references_exist,
    rules.volumes_exist,
    rules.images_are_built_here_or_official,
    rules.variables_are_known_settings,
    rules.secrets_are_examples_that_fit,
    rules.pods_are_restricted,
    rules.autoscalers_have_the_say,
    behaviour.pods_reach_whom_they_must,
    behaviour.pods_have_time_to_stop,
    behaviour.pods_are_watched,
    behaviour.postgres_has_connections_for_all,
)


@pytest.mark.parametrize("version", VERSIONS)
def test_schemas_take_every_manifest_without_a_warning(version: str) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "kubernetes_validate", "-k", version, "--strict"),
            *map(str, files(MANIFESTS)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    passed = [line for line in said.splitlines() if line.startswith("INFO")]
    assert len(passed) == len(said.splitlines()) == len(DOCUMENTS), said


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_manifests_keep(rule: rules.Rule) -> None:
    assert list(rule(DOCUMENTS)) == []


def test_the_folder_holds_what_apply_can_take() -> None:
    """`apply -f` reads every file of these endings, by name, and no folder below."""
    assert next(path.name for path in files(MANIFESTS)) == "00-namespace.yaml"
    assert {path.name for path in MANIFESTS.iterdir()} - {p.name for p in files(MANIFESTS)} == {
        "optional"
    }
    assert DOCUMENTS[0]["kind"] == "Namespace"


@pytest.fixture
def routes(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What the API answers, with the manifests' own settings."""
    [container] = [c for c in containers(workload("api")) if c["name"] == "api"]
    for name, value in environment(DOCUMENTS, container).items():
        monkeypatch.setenv(name, value)
    return {str(rule) for rule in create_app().url_map.iter_rules()}


def workload(name: str) -> Object:
    return next(each for each in workloads(DOCUMENTS) if each["metadata"]["name"] == name)


def test_from_outside_all_is_open_but_the_metrics(routes: set[str]) -> None:
    assert {"/metrics", "/readyz", "/healthz", "/docs/"} <= routes
    assert list(behaviour.ingress_opens(DOCUMENTS, routes)) == []
    for change, complaint in (
        (lambda spec: spec["rules"][0]["http"]["paths"].pop(), "/healthz is closed"),
        (lambda spec: paths(spec)[4].update(path="/metrics"), "/metrics is open"),
        (lambda spec: paths(spec)[4].update(path="/", pathType="Prefix"), "/readyz is open"),
        (lambda spec: spec["rules"][0].update(host="other.example.com"), "no certificate"),
        (lambda spec: spec["tls"][0].update(hosts=["x"]), "PUBLIC_URL is another address"),
        (lambda spec: paths(spec)[0]["backend"]["service"].update(name="x"), "no Service"),
    ):
        broken = copy.deepcopy(DOCUMENTS)
        change(find(broken, "Ingress/api")["spec"])
        assert any(complaint in c for c in behaviour.ingress_opens(broken, routes)), complaint


def paths(ingress_spec: Object) -> list[Object]:
    found: list[Object] = ingress_spec["rules"][0]["http"]["paths"]
    return found


@pytest.mark.parametrize(
    ("name", "container"),
    [(title_of(w), c["name"]) for w in workloads(DOCUMENTS) for c in containers(w) if is_ours(c)],
)
def test_processes_start_with_what_they_are_given(
    name: str, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = next(c for c in containers(find(DOCUMENTS, name)) if c["name"] == container)
    for setting in rules.ALL_SETTINGS:
        monkeypatch.delenv(setting, raising=False)
    for setting, value in environment(DOCUMENTS, found).items():
        monkeypatch.setenv(setting, value)
    kind = rules.READS[tuple(found.get("command", ()))]
    settings = load_settings(kind)
    # gunicorn takes an empty one for a malformed number.
    assert not isinstance(settings, ApiSettings) or int(
        environment(DOCUMENTS, found)["WEB_CONCURRENCY"]
    )


# --- each rule, broken -------------------------------------------------------------------------


def find(documents: list[Object], title: str) -> Object:
    return next(each for each in documents if title_of(each) == title)


def at(title: str, way: str, value: Any) -> Callable[[list[Object]], None]:
    """Puts `value` at the end of a way such as spec.template.0.x; None takes away what is there."""

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
    ("there twice", lambda d: d.append(d[3])),
    ("not in the namespace", at(API, "metadata namespace", "default")),
    ("does not enforce", at("Namespace/notifications", "metadata labels", {})),
    ("that any cluster knows", at(API, "kind", "Job")),
    ("no label that says", at("Service/redis", "metadata labels", {})),
    ("takes no pod", at("PodDisruptionBudget/control", "spec selector matchLabels app", "x")),
    ("Service/api: takes", at("Service/api", "spec selector", {"app.kubernetes.io/name": "redis"})),
    ("takes no pod", at("NetworkPolicy/redis", "spec podSelector matchLabels app", "x")),
    (
        "no pod is called",
        at("NetworkPolicy/to-mail", "spec podSelector matchExpressions 0 values 0", "web"),
    ),
    ("its selector takes []", at(API, "spec template metadata labels", {})),
    (
        "its selector takes",
        at(API, "spec selector matchLabels", {"app.kubernetes.io/part-of": "notifications"}),
    ),
    ("has no port", at("Service/api", "spec ports 0 targetPort", "web")),
    ("asks at port", at(API, f"{CONTAINER} livenessProbe httpGet port", "web")),
    ("has no port 8001", at("NetworkPolicy/api", "spec ingress 0 ports 0 port", 8001)),
    ("no Service other", at("StatefulSet/redis", "spec serviceName", "other")),
    ("no ConfigMap other", at(API, f"{CONTAINER} envFrom 0 configMapRef name", "other")),
    ("which Secret", at("Secret/notifications-secrets", "stringData SECRET_KEY", None)),
    ("nobody takes", at("Secret/notifications-secrets", "stringData MORE", "change-me-x")),
    ("no ServiceAccount", at(API, f"{POD} serviceAccountName", "default")),
    (
        "nobody makes the Secret",
        at("ServiceAccount/notifications", "imagePullSecrets 0 name", "other"),
    ),
    ("no volume x", at(API, f"{CONTAINER} volumeMounts 0 name", "x")),
    ("nobody mounts", at(API, f"{POD} volumes 1", {"name": "y", "emptyDir": {"sizeLimit": "1Mi"}})),
    ("may fill the node", at(API, f"{POD} volumes 0 emptyDir", {})),
    ("no volume data", at("StatefulSet/redis", "spec volumeClaimTemplates", None)),
    ("nobody builds", at(API, f"{CONTAINER} image", f"{REGISTRY}/web:{__version__}")),
    ("image of 0.0.1", at(API, f"{CONTAINER} image", f"{REGISTRY}/api:0.0.1")),
    ("nor official", at("StatefulSet/redis", f"{CONTAINER} image", "bitnami/redis:8")),
    ("nor official", at("StatefulSet/redis", f"{CONTAINER} image", "redis:latest")),
    ("nobody reads PROVDER", at("ConfigMap/notifications-settings", "data PROVDER_URL", "x")),
    (
        "RETENTION_DAYS cannot be",
        at("ConfigMap/notifications-settings", "data RETENTION_DAYS", None),
    ),
    ("lacks PROVIDER_URL", at("Deployment/dispatch", f"{CONTAINER} envFrom", [])),
    ("what does", at("Deployment/dispatch", f"{CONTAINER} command 3", "dispatsch")),
    ("does not read SMTP_URL", at("Deployment/scheduler", f"{CONTAINER} env 1 name", "SMTP_URL")),
    ("nobody reads PGDATA2", at("StatefulSet/postgres", f"{CONTAINER} env 3 name", "PGDATA2")),
    ("looks like a real", at("Secret/notifications-secrets", "stringData SECRET_KEY", "x" * 20)),
    ("differ", at("Secret/notifications-secrets", "stringData REDIS_PASSWORD", "change-me-x")),
    ("leads to no Service", at("Service/redis", "metadata name", "valkey")),
    ("may run as root", at(API, f"{POD} securityContext runAsNonRoot", None)),
    ("no number above 0", at(API, f"{POD} securityContext runAsUser", 0)),
    ("no seccomp", at("StatefulSet/postgres", f"{POD} securityContext seccompProfile", None)),
    ("shares something", at(API, f"{POD} hostNetwork", True)),
    ("kind not allowed", at(API, f"{POD} volumes 0", {"name": "tmp", "hostPath": {"path": "/"}})),
    ("automountServiceAccountToken", at(API, f"{POD} automountServiceAccountToken", True)),
    ("enableServiceLinks", at(API, f"{POD} enableServiceLinks", None)),
    ("may escalate", at(API, f"{CONTAINER} securityContext allowPrivilegeEscalation", True)),
    ("has capabilities", at(API, f"{POD} initContainers 0 securityContext capabilities", {})),
    ("write to its root", at("StatefulSet/redis", f"{CONTAINER} securityContext", {})),
    ("overrides what the pod", at(API, f"{CONTAINER} securityContext runAsUser", 0)),
    ("takes a port of its node", at(API, f"{CONTAINER} ports 0 hostPort", 8000)),
    ("no requests", at("Deployment/control", f"{CONTAINER} resources requests cpu", None)),
    ("no Deployment/web", at("HorizontalPodAutoscaler/api", "spec scaleTargetRef name", "web")),
    ("every apply would undo", at("Deployment/dispatch", "spec replicas", 3)),
    ("one is none", at("HorizontalPodAutoscaler/api", "spec minReplicas", 1)),
    ("one is none", at("Deployment/scheduler", "spec replicas", 1)),
    ("not spread over topology", at(API, f"{POD} topologySpreadConstraints 1", None)),
    ("may take all of it", at("PodDisruptionBudget/control", "metadata name", "other")),
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
    ("does not ask", at(API, f"{CONTAINER} readinessProbe httpGet path", "/healthz")),
    ("wait for the schema", at("Deployment/dispatch", f"{POD} initContainers", None)),
    ("may be wanted", at("HorizontalPodAutoscaler/api", "spec maxReplicas", 60)),
]


@cache
def found_in(number: int) -> list[tuple[str, str]]:
    """What the rules find wrong with the documents so broken: each rule's name and complaint."""
    broken = copy.deepcopy(DOCUMENTS)
    BROKEN[number][1](broken)
    return [(rule.__name__, each) for rule in RULES for each in _complaints(rule, broken)]


def _complaints(rule: rules.Rule, broken: list[Object]) -> Iterator[str]:
    """A rule need not go on where another has found something wrong already."""
    with contextlib.suppress(KeyError, IndexError, StopIteration):
        yield from rule(broken)


@pytest.mark.parametrize("number", range(len(BROKEN)), ids=[complaint for complaint, _ in BROKEN])
def test_what_is_broken_is_found(number: int) -> None:
    found = [complaint for _, complaint in found_in(number)]
    assert any(BROKEN[number][0] in each for each in found), f"found instead: {found}"


def test_every_rule_was_seen_to_find_something() -> None:
    caught = {
        rule
        for number, (expected, _) in enumerate(BROKEN)
        for rule, complaint in found_in(number)
        if expected in complaint
    }
    assert caught == {rule.__name__ for rule in RULES}


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "twice.yaml").write_text("a: {b: 1, b: 2}\n")
    with pytest.raises(AssertionError, match="given twice"):
        read(tmp_path)
