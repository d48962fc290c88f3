"""What a cluster would do with the manifests: who reaches whom, and how pods come and go."""

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
    title,
    values_of,
    workloads,
)
from tests.support.cluster_rules import Complaints

# Somewhere outside, by what it stands for.
ADDRESSES = {
    "internet": "203.0.113.7",
    "another pod": "10.1.2.3",
    "cloud metadata": "169.254.169.254",
    "dns cache": "169.254.20.10",
    "kubespray's dns cache": "169.254.25.10",
}
CACHES = ("dns cache", "kubespray's dns cache")
MORE = ("cloud metadata", *CACHES)
OURS = ("api", "scheduler", "control", "dispatch")
# Who must reach whom, and at which port; everybody else must not.
OPEN = {
    *((pod, "postgres", 5432) for pod in ("api", "control", "dispatch")),
    *((pod, "redis", 6379) for pod in OURS),
    *((pod, place, 53) for pod in (*OURS, "postgres", "redis") for place in ("dns", *CACHES)),
    *((place, "api", 8000) for place in ("internet", "another pod", "dns", *MORE)),
    *((pod, "internet", 443) for pod in ("api", "control", "dispatch")),
    *((pod, "internet", port) for pod in ("api", "control") for port in (25, 465, 587)),
}
# Routes that stay inside the cluster.
INSIDE = {"/metrics", "/readyz"}
# Connections to PostgreSQL that one process may hold: a gunicorn thread each, a worker's few.
WORKER_CONNECTIONS = {"control": 6, "dispatch": 4}


def _peer_takes(peer: Object, place: str) -> bool:
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


def _lets(documents: list[Object], pod: str, direction: str, place: str, port: int) -> bool:
    """Whether the policies of a pod of ours let it talk to a place in one direction."""
    peers = "to" if direction == "egress" else "from"
    policies = [
        policy["spec"]
        for policy in of_kind(documents, "NetworkPolicy")
        if direction.capitalize() in policy["spec"]["policyTypes"]
        and matches(policy["spec"]["podSelector"], {NAME_LABEL: pod})
    ]
    return not policies or any(
        port in [each["port"] for each in rule["ports"]]
        and (peers not in rule or any(_peer_takes(peer, place) for peer in rule[peers]))
        for spec in policies
        for rule in spec.get(direction, [])
    )


def pods_reach_whom_they_must(documents: list[Object]) -> Complaints:
    pods = [each["metadata"]["name"] for each in workloads(documents)]
    places = [*pods, *ADDRESSES, "dns"]
    for source in places:
        for target in places:
            if source == target or not {source, target} & set(pods):
                continue
            for port in (25, 53, 80, 443, 465, 587, 5432, 6379, 8000):
                reached = all(
                    _lets(documents, pod, direction, place, port)
                    for pod, direction, place in (
                        (source, "egress", target),
                        (target, "ingress", source),
                    )
                    if pod in pods
                )
                if reached != ((source, target, port) in OPEN):
                    yield f"{source} {'reaches' if reached else 'cannot reach'} {target}:{port}"
    [settings] = of_kind(documents, "ConfigMap")
    provider = urlsplit(values_of(settings)["PROVIDER_URL"])
    port = provider.port or {"http": 80, "https": 443}[provider.scheme]
    for pod in ("control", "dispatch"):
        if not _lets(documents, pod, "egress", "internet", port):
            yield f"{pod} cannot reach the provider's port {port}"


def number_in(path: str, name: str) -> float:
    """A module's constant, read without running it."""
    found = re.search(rf"^{name} = ([\d.]+)$", (ROOT / path).read_text(), re.MULTILINE)
    assert found, f"{path} has no {name}"
    return float(found[1])


def pods_have_time_to_stop(documents: list[Object]) -> Complaints:
    """What a graceful stop may take, as the code has it, with five seconds to spare."""
    stop = number_in("worker/dispatch/dispatcher.py", "STOP_SECONDS")
    test = sum(
        number_in("worker/dispatch/test_send.py", name)
        for name in ("MAX_WAIT_SECONDS", "MAX_EXCHANGE_SECONDS", "RECORD_SECONDS")
    )
    needed = {
        "api": number_in("api/gunicorn_conf.py", "graceful_timeout"),
        "scheduler": 1.0,
        "control": max(test, number_in("worker/maintenance/daily_report.py", "EXIT_WAIT_SECONDS")),
        "dispatch": stop + number_in("worker/dispatch/dispatcher.py", "LAST_FLUSH_SECONDS"),
        "postgres": 30.0,
        "redis": 10.0,
    }
    for each in workloads(documents):
        name = each["metadata"]["name"]
        grace = pod_spec(each)["terminationGracePeriodSeconds"]
        sleeps = max(map(_sleep, containers(each, init=False)))
        if grace < sleeps + needed[name] + 5:
            yield f"{title(each)}: killed after {grace} s, and needs {sleeps + needed[name]}"
        if name == "api" and not sleeps:
            yield f"{title(each)}: stops listening while requests still come"


def _sleep(container: Object) -> float:
    command = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
    return float(command[1]) if command[:1] == ["sleep"] else 0.0


def pods_are_watched(documents: list[Object]) -> Complaints:
    """Every process has a probe for its start and one for its life; the API for its readiness."""
    asked = {"startupProbe": "/healthz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
    for each in workloads(documents):
        for container in containers(each, init=False):
            name = container["name"]
            serves = not is_ours(container) or name == "api"
            for probe, path in asked.items():
                if probe not in container:
                    if probe != "readinessProbe" or serves:
                        yield f"{title(each)}: no {probe}"
                elif name == "api" and container[probe].get("httpGet", {}).get("path") != path:
                    yield f"{title(each)}: {probe} does not ask {path}"
        waits = [tuple(c["command"][-2:]) for c in pod_spec(each).get("initContainers", [])]
        first = {"api": ("db", "upgrade"), **dict.fromkeys(("control", "dispatch"), SCHEMA)}
        wanted = first.get(each["metadata"]["name"])
        if wanted and wanted not in waits:
            yield f"{title(each)}: does not wait for the schema"


SCHEMA = ("shared.db.schema", "migrations")


def ingress_opens(documents: list[Object], routes: Iterable[str]) -> Complaints:
    """Every route of the API but those that stay inside, by TLS, where people look for it."""
    [ingress] = of_kind(documents, "Ingress")
    [settings] = of_kind(documents, "ConfigMap")
    spec = ingress["spec"]
    services = {each["metadata"]["name"]: each for each in of_kind(documents, "Service")}
    hosts = {host for tls in spec["tls"] for host in tls["hosts"]}
    if values_of(settings)["PUBLIC_URL"] not in {f"https://{host}" for host in hosts}:
        yield "PUBLIC_URL is another address than the Ingress'"
    for rule in spec["rules"]:
        if rule["host"] not in hosts:
            yield f"{rule['host']} has no certificate"
        for path in rule["http"]["paths"]:
            backend = path["backend"]["service"]
            ports = services.get(backend["name"], {}).get("spec", {}).get("ports", [])
            if backend["port"]["name"] not in [port["name"] for port in ports]:
                yield f"{path['path']} leads to no Service"
        for route in routes:
            opened = any(_covers(path, route) for path in rule["http"]["paths"])
            if opened == (route in INSIDE):
                yield f"{route} is {'open' if opened else 'closed'}"
    limit = ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-body-size"]
    if int(limit.removesuffix("m")) * 2**20 < ApiSettings.model_fields["import_max_bytes"].default:
        yield "an import that the API would take is refused on its way"


def _covers(path: Object, route: str) -> bool:
    if path["pathType"] == "Exact":
        return bool(path["path"] == route)
    prefix = path["path"].rstrip("/")
    return route == prefix or route.startswith(f"{prefix}/")


def postgres_has_connections_for_all(documents: list[Object]) -> Complaints:
    most = {
        each["metadata"]["name"]: each["spec"]["maxReplicas"]
        for each in of_kind(documents, "HorizontalPodAutoscaler")
    }
    threads = int(number_in("api/gunicorn_conf.py", "threads"))
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
                    yield f"{title(each)}: {argument}, and {wanted} may be wanted"
