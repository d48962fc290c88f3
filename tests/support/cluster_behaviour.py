"""How a cluster treats the manifests: permitted connections, probes, shutdown, the Ingress."""

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from shared.config.settings import ApiSettings
from tests.support.cluster import (
    NAME_LABEL,
    ROOT,
    Object,
    containers,
    environment,
    is_ours,
    matches,
    of_kind,
    pod_spec,
    stored_values,
    title,
    workloads,
)
from tests.support.cluster_rules import Violations

# Example addresses outside of the namespace.
ADDRESSES = {
    "internet": "203.0.113.7",
    "another pod": "10.1.2.3",
    "cloud metadata": "169.254.169.254",
    "dns cache": "169.254.20.10",
    "kubespray's dns cache": "169.254.25.10",
}
CACHES = ("dns cache", "kubespray's dns cache")
MORE = ("cloud metadata", *CACHES)
OUR_PODS = ("api", "scheduler", "control", "sweep", "dispatch", "report")
# The permitted connections: source, target and port. All others must be denied.
PERMITTED = {
    *((pod, "postgres", 5432) for pod in ("api", "control", "sweep", "dispatch", "report")),
    *((pod, "redis", 6379) for pod in ("api", "scheduler", "control", "sweep", "dispatch")),
    *((pod, place, 53) for pod in (*OUR_PODS, "postgres", "redis") for place in ("dns", *CACHES)),
    *((place, "api", 8000) for place in ("internet", "another pod", "dns", *MORE)),
    *((pod, "internet", 443) for pod in ("api", "control", "dispatch")),
    *((pod, "internet", port) for pod in ("api", "report") for port in (25, 465, 587)),
}
# Routes that the Ingress must not open.
INTERNAL_ROUTES = {"/metrics", "/readyz"}
# Connections to PostgreSQL per worker process. (An API process has one per gunicorn thread.)
WORKER_CONNECTIONS = {"control": 6, "sweep": 1, "dispatch": 4, "report": 2}


def _peer_matches(peer: Object, place: str) -> bool:
    if "ipBlock" in peer:
        address = ipaddress.ip_address(ADDRESSES.get(place, "10.9.9.9"))
        block = peer["ipBlock"]
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(hole) for hole in block.get("except", [])
        )
    if "namespaceSelector" in peer:
        there = "kube-system" if place == "dns" else "elsewhere"
        labels = {"kubernetes.io/metadata.name": there}
        return place in ("dns", "another pod") and matches(peer["namespaceSelector"], labels)
    return matches(peer["podSelector"], {NAME_LABEL: place})


def _policies_allow(
    documents: list[Object], pod: str, direction: str, place: str, port: int
) -> bool:
    """Return whether the policies of one of our pods allow a connection in one direction."""
    peers = "to" if direction == "egress" else "from"
    policies = [
        policy["spec"]
        for policy in of_kind(documents, "NetworkPolicy")
        if direction.capitalize() in policy["spec"]["policyTypes"]
        and matches(policy["spec"]["podSelector"], {NAME_LABEL: pod})
    ]
    return not policies or any(
        port in [each["port"] for each in rule["ports"]]
        and (peers not in rule or any(_peer_matches(peer, place) for peer in rule[peers]))
        for spec in policies
        for rule in spec.get(direction, [])
    )


def pods_reach_only_permitted_targets(documents: list[Object]) -> Violations:
    pods = [each["metadata"]["name"] for each in workloads(documents)]
    places = [*pods, *ADDRESSES, "dns"]
    for source in places:
        for target in places:
            if source == target or not {source, target} & set(pods):
                continue
            for port in (25, 53, 80, 443, 465, 587, 5432, 6379, 8000):
                reached = all(
                    _policies_allow(documents, pod, direction, place, port)
                    for pod, direction, place in (
                        (source, "egress", target),
                        (target, "ingress", source),
                    )
                    if pod in pods
                )
                if reached != ((source, target, port) in PERMITTED):
                    yield f"{source} {'reaches' if reached else 'cannot reach'} {target}:{port}"
    [settings] = of_kind(documents, "ConfigMap")
    provider = urlsplit(stored_values(settings)["PROVIDER_URL"])
    port = provider.port or {"http": 80, "https": 443}[provider.scheme]
    for pod in ("control", "dispatch"):
        if not _policies_allow(documents, pod, "egress", "internet", port):
            yield f"{pod} cannot reach the provider's port {port}"


def read_constant(path: str, name: str) -> float:
    """Read a constant of a module without importing it."""
    found = re.search(rf"^{name} = ([\d.]+)$", (ROOT / path).read_text(), re.MULTILINE)
    assert found, f"{path} has no {name}"
    return float(found[1])


def pods_have_time_to_stop(documents: list[Object]) -> Violations:
    """The grace period covers the longest stop according to the code, plus five seconds."""
    stop = read_constant("worker/dispatch/dispatcher.py", "STOP_SECONDS")
    test = sum(
        read_constant("worker/dispatch/test_send.py", name)
        for name in ("MAX_WAIT_SECONDS", "MAX_EXCHANGE_SECONDS", "RECORD_SECONDS")
    )
    needed = {
        "api": read_constant("api/gunicorn_conf.py", "graceful_timeout"),
        "scheduler": 1.0,
        "control": test,
        "sweep": 30.0,  # a statement
        "report": read_constant("worker/maintenance/daily_report.py", "EXIT_WAIT_SECONDS"),
        "dispatch": stop + read_constant("worker/dispatch/dispatcher.py", "LAST_FLUSH_SECONDS"),
        "postgres": 30.0,
        "redis": 10.0,
    }
    for each in workloads(documents):
        name = each["metadata"]["name"]
        grace = pod_spec(each)["terminationGracePeriodSeconds"]
        sleeps = max(map(_pre_stop_seconds, containers(each, init=False)))
        if grace < sleeps + needed[name] + 5:
            yield f"{title(each)}: killed after {grace} s, but needs {sleeps + needed[name]}"
        if name == "api" and not sleeps:
            yield f"{title(each)}: stops listening while requests still arrive"


def _pre_stop_seconds(container: Object) -> float:
    command = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
    return float(command[1]) if command[:1] == ["sleep"] else 0.0


def pods_have_probes(documents: list[Object]) -> Violations:
    """Every process has a startup and a liveness probe; servers have a readiness probe too."""
    kubectl_calls = {
        "startupProbe": "/healthz",
        "readinessProbe": "/readyz",
        "livenessProbe": "/healthz",
    }
    for each in workloads(documents):
        for container in containers(each, init=False):
            name = container["name"]
            serves = not is_ours(container) or name == "api"
            for probe, path in kubectl_calls.items():
                if probe not in container:
                    if probe != "readinessProbe" or serves:
                        yield f"{title(each)}: no {probe}"
                elif name == "api" and container[probe].get("httpGet", {}).get("path") != path:
                    yield f"{title(each)}: {probe} does not request {path}"
        waits = [tuple(c["command"][-2:]) for c in pod_spec(each).get("initContainers", [])]
        workers = ("control", "sweep", "dispatch", "report")
        first = {"api": ("db", "upgrade"), **dict.fromkeys(workers, SCHEMA)}
        wanted = first.get(each["metadata"]["name"])
        if wanted and wanted not in waits:
            yield f"{title(each)}: does not wait for the schema"


SCHEMA = ("shared.db.schema", "migrations")


def ingress_routes_are_complete(documents: list[Object], routes: Iterable[str]) -> Violations:
    """The Ingress opens every route of the API except internal ones, with TLS, at PUBLIC_URL."""
    [ingress] = of_kind(documents, "Ingress")
    [settings] = of_kind(documents, "ConfigMap")
    spec = ingress["spec"]
    services = {each["metadata"]["name"]: each for each in of_kind(documents, "Service")}
    hosts = {host for tls in spec["tls"] for host in tls["hosts"]}
    if stored_values(settings)["PUBLIC_URL"] not in {f"https://{host}" for host in hosts}:
        yield "PUBLIC_URL differs from the address of the Ingress"
    for rule in spec["rules"]:
        if rule["host"] not in hosts:
            yield f"{rule['host']} has no certificate"
        for path in rule["http"]["paths"]:
            backend = path["backend"]["service"]
            ports = services.get(backend["name"], {}).get("spec", {}).get("ports", [])
            if backend["port"]["name"] not in [port["name"] for port in ports]:
                yield f"{path['path']} names no Service"
        for route in routes:
            opened = any(_path_matches(path, route) for path in rule["http"]["paths"])
            if opened == (route in INTERNAL_ROUTES):
                yield f"{route} is {'open' if opened else 'closed'}"
    limit = ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-body-size"]
    if int(limit.removesuffix("m")) * 2**20 < ApiSettings.model_fields["import_max_bytes"].default:
        yield "the Ingress rejects imports that the API accepts"


def _path_matches(path: Object, route: str) -> bool:
    if path["pathType"] == "Exact":
        return bool(path["path"] == route)
    prefix = path["path"].rstrip("/")
    return route == prefix or route.startswith(f"{prefix}/")


def postgres_has_connections_for_all(documents: list[Object]) -> Violations:
    most = {
        each["metadata"]["name"]: each["spec"]["maxReplicas"]
        for each in of_kind(documents, "HorizontalPodAutoscaler")
    }
    threads = int(read_constant("api/gunicorn_conf.py", "threads"))
    wanted = 0
    for each in of_kind(documents, "Deployment"):
        name = each["metadata"]["name"]
        pods = 1 + most.get(name, each["spec"].get("replicas", 1))  # one more while it is replaced
        if name == "api":
            found = environment(documents, containers(each, init=False)[0])
            wanted += pods * int(found["WEB_CONCURRENCY"]) * threads
        else:
            wanted += pods * WORKER_CONNECTIONS.get(name, 0)
    for each in of_kind(documents, "StatefulSet"):
        for container in containers(each):
            for argument in container.get("args", []):
                if argument.startswith("max_connections=") and int(argument[16:]) < wanted + 20:
                    yield f"{title(each)}: {argument}, but up to {wanted} are needed"
