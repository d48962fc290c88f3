"""Rules between manifests that schemas cannot check. Each rule yields its violations."""

from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from shared import __version__
from shared.config.settings import (
    ApiSettings,
    DatabaseSettings,
    ReportSettings,
    Settings,
    WorkerSettings,
)
from tests.support.cluster import (
    NAME_LABEL,
    NAMESPACE,
    REGISTRY,
    ROOT,
    Object,
    containers,
    environment,
    find_values,
    is_ours,
    matches,
    of_kind,
    pod_labels,
    pod_owners,
    pod_spec,
    references,
    selected,
    selectors,
    title,
    volumes,
    workloads,
)

Violations = Iterator[str]
Rule = Callable[[list[Object]], Violations]

KINDS = {
    "ConfigMap",
    "Deployment",
    "HorizontalPodAutoscaler",
    "Ingress",
    "Namespace",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "PriorityClass",
    "Secret",
    "Service",
    "ServiceAccount",
    "StatefulSet",
}
# They belong to no namespace.
CLUSTER_KINDS = {"PriorityClass"}
OFFICIAL_IMAGES = {"postgres", "redis"}
# Our images, with the file and the stage from which each is built.
OUR_IMAGES = {
    "api": ("Dockerfile.api", None),
    "worker": ("Dockerfile.worker", "worker"),
    "demo": ("Dockerfile.worker", "demo"),
}
# The variables that official images read.
OFFICIAL_VARIABLES = {
    "postgres": {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD", "PGDATA"},
    "redis": {"REDISCLI_AUTH"},
}
# The commands of our containers, with the settings that each reads.
SETTINGS_BY_COMMAND: dict[tuple[str, ...], type[DatabaseSettings]] = {
    (): ApiSettings,  # the API image's own command
    ("flask", "--app", "api", "db", "upgrade"): DatabaseSettings,
    ("python", "-m", "shared.db.schema", "database"): DatabaseSettings,
    ("python", "-m", "shared.db.schema", "migrations"): DatabaseSettings,
    ("python", "-m", "worker", "scheduler"): Settings,
    ("python", "-m", "worker", "control"): WorkerSettings,
    ("python", "-m", "worker", "sweep"): WorkerSettings,
    ("python", "-m", "worker", "dispatch"): WorkerSettings,
    ("python", "-m", "worker", "report"): ReportSettings,
}
GUNICORN = {"WEB_CONCURRENCY", "PROMETHEUS_MULTIPROC_DIR"}
VOLUMES = {
    "emptyDir",
    "persistentVolumeClaim",
    "configMap",
    "secret",
    "projected",
    "downwardAPI",
    "csi",
    "ephemeral",
}


def fields(kind: type[DatabaseSettings]) -> set[str]:
    return {name.upper() for name in kind.model_fields}


# Set by the image (the port of the container), or by the demonstration alone.
IMAGE_SETTINGS = {"API_BIND", "DEMO_MAIL_PAGE", "DEMO_PROVIDER_PAGE"}
ALL_SETTINGS = fields(ApiSettings) | fields(WorkerSettings) | GUNICORN


def objects_can_be_applied(documents: list[Object]) -> Violations:
    """One namespace comes first, and every object can be applied repeatedly."""
    if [each["kind"] for each in documents].index("Namespace") != 0:
        yield "the namespace does not come first"
    titles = [title(each) for each in documents]
    yield from (f"{each} is defined twice" for each in set(titles) if titles.count(each) > 1)
    for each in documents:
        if each["kind"] not in KINDS:
            yield f"{title(each)}: not a kind that every cluster has and that can be applied again"
        metadata = each["metadata"]
        if each["kind"] == "Namespace":
            if metadata["name"] != NAMESPACE:
                yield f"{title(each)}: not {NAMESPACE}"
            if metadata["labels"].get("pod-security.kubernetes.io/enforce") != "restricted":
                yield f"{title(each)}: does not enforce the restricted level"
        elif metadata.get("namespace") != (None if each["kind"] in CLUSTER_KINDS else NAMESPACE):
            yield f"{title(each)}: not in the namespace"
        if metadata.get("labels", {}).get("app.kubernetes.io/part-of") != "notifications":
            yield f"{title(each)}: no label app.kubernetes.io/part-of"


def selectors_match_their_pods(documents: list[Object]) -> Violations:
    for each in documents:
        for selector in selectors(each):
            if not selected(documents, selector):
                yield f"{title(each)}: {selector} selects no pod"
            for expression in selector.get("matchExpressions", []):
                for value in expression["values"]:
                    if not selected(documents, {"matchLabels": {expression["key"]: value}}):
                        yield f"{title(each)}: no pod is named {value}"
    for each in workloads(documents):
        taken = selected(documents, each["spec"]["selector"])
        if taken != [each]:
            yield f"{title(each)}: its selector selects {[title(other) for other in taken]}"
        if pod_labels(each).get(NAME_LABEL) != each["metadata"]["name"]:
            yield f"{title(each)}: its pods have another name"
    for each in of_kind(documents, "Service", "PodDisruptionBudget"):
        names = [title(other) for s in selectors(each) for other in selected(documents, s)]
        name = each["metadata"]["name"]
        if is_headless(each):
            name = name.removesuffix("-headless")
        if len(names) != 1 or names[0].split("/")[1] != name:
            yield f"{title(each)}: selects {names}"


def ports_exist(documents: list[Object]) -> Violations:
    for each in workloads(documents):
        for container in containers(each):
            named = {port["name"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                for how in ("httpGet", "tcpSocket"):
                    port = container.get(probe, {}).get(how, {}).get("port")
                    if port is not None and port not in named:
                        yield f"{title(each)}: {probe} uses port {port}"
    for each in of_kind(documents, "Service"):
        for port in each["spec"]["ports"]:
            for target in selected(documents, next(selectors(each))):
                if port["targetPort"] not in {n for c in containers(target) for n in _ports(c)}:
                    yield f"{title(each)}: {title(target)} has no port {port['targetPort']}"
    for each in of_kind(documents, "StatefulSet"):
        name = each["spec"]["serviceName"]
        services = {s["metadata"]["name"]: s for s in of_kind(documents, "Service")}
        if name not in services:
            yield f"{title(each)}: no Service {name}"
        elif not is_headless(services[name]):
            yield f"{title(each)}: Service {name} is not headless"
        # While a pod is not ready, DNS says that a headless Service's name does not exist, and
        # caches that; clients need a Service that always has an address.
        if is_headless(services.get(each["metadata"]["name"], {"spec": {"clusterIP": "None"}})):
            yield f"{title(each)}: no Service with an address of its own"
    for each in of_kind(documents, "NetworkPolicy"):
        for rule in each["spec"].get("ingress", []):
            for target in selected(documents, each["spec"]["podSelector"]):
                numbers = {n for c in containers(target) for n in _ports(c).values()}
                for port in rule["ports"]:
                    if port["port"] not in numbers:
                        yield f"{title(each)}: {title(target)} has no port {port['port']}"


def is_headless(service: Object) -> bool:
    return bool(service["spec"].get("clusterIP") == "None")


def _ports(container: Object) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container.get("ports", [])}


def _names(documents: list[Object], kind: str) -> set[str]:
    return {each["metadata"]["name"] for each in of_kind(documents, kind)}


def references_exist(documents: list[Object]) -> Violations:
    """ConfigMaps, Secrets, their keys and service accounts exist, and none is unused."""
    taken: set[tuple[str, str, str]] = set()
    for each in pod_owners(documents):
        account = pod_spec(each).get("serviceAccountName")
        if account not in _names(documents, "ServiceAccount"):
            yield f"{title(each)}: no ServiceAccount {account}"
        priority = pod_spec(each).get("priorityClassName")
        if priority and priority not in _names(documents, "PriorityClass"):
            yield f"{title(each)}: no PriorityClass {priority}"
        for container in containers(each):
            for variable, kind, name, key in references(container, volumes(each)):
                values = find_values(documents, kind, name)
                if values is None:
                    yield f"{title(each)}: no {kind} {name}"
                elif key is not None and key not in values:
                    yield f"{title(each)}: {variable} needs {key}, which {kind} {name} lacks"
                taken |= {(kind, name, k) for k in ([key] if key else values or {})}
    for each in of_kind(documents, "ServiceAccount"):
        for secret in each.get("imagePullSecrets", []):
            yield f"{title(each)}: no manifest creates the Secret {secret['name']}"
    for each in of_kind(documents, "ConfigMap", "Secret"):
        for key in find_values(documents, each["kind"], each["metadata"]["name"]) or {}:
            if (each["kind"], each["metadata"]["name"], key) not in taken:
                yield f"{title(each)}: {key} is unused"


def volumes_exist(documents: list[Object]) -> Violations:
    for each in pod_owners(documents):
        claims = [c["metadata"]["name"] for c in each["spec"].get("volumeClaimTemplates", [])]
        there = [volume["name"] for volume in pod_spec(each).get("volumes", [])] + claims
        mounts = [mount for c in containers(each) for mount in c.get("volumeMounts", [])]
        mounted = {mount["name"] for mount in mounts}
        yield from (f"{title(each)}: no volume {name}" for name in mounted - set(there))
        yield from (f"{title(each)}: volume {name} is not mounted" for name in set(there) - mounted)
        for volume in pod_spec(each).get("volumes", []):
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"{title(each)}: volume {volume['name']} can fill the node"
        if each["kind"] == "StatefulSet" and not claims:
            yield f"{title(each)}: has no persistent volume"


def images_are_built_here_or_official(documents: list[Object]) -> Violations:
    for each in pod_owners(documents):
        for container in containers(each):
            name, _, tag = container["image"].rpartition(":")
            room = name.removeprefix(f"{REGISTRY}/")
            if is_ours(container):
                file, stage = OUR_IMAGES.get(room, (None, None))
                if file is None or (stage and f" AS {stage}\n" not in (ROOT / file).read_text()):
                    yield f"{title(each)}: {name} is not built by this repository"
                if tag != __version__:
                    yield f"{title(each)}: image of {tag}, but the version is {__version__}"
            elif name not in OFFICIAL_IMAGES or tag == "latest":
                yield f"{title(each)}: {container['image']} is neither built here nor official"


def variables_are_known_settings(documents: list[Object]) -> Violations:
    given: set[str] = set()
    for each in workloads(documents):
        for container in containers(each):
            found = set(environment(documents, container, volumes(each)))
            if not is_ours(container):
                known = OFFICIAL_VARIABLES[container["image"].partition(":")[0]]
                yield from (f"{title(each)}: {name} is not read" for name in found ^ known)
                continue
            command = tuple(container.get("command", ()))
            if command not in SETTINGS_BY_COMMAND:
                yield f"{title(each)}: unknown command: {' '.join(command)}"
                continue
            given |= found
            yield from (f"{title(each)}: {name} is not read" for name in found - ALL_SETTINGS)
            reads = SETTINGS_BY_COMMAND[command]
            for name, field in reads.model_fields.items():
                if field.is_required() and name.upper() not in found:
                    yield f"{title(each)}: {container['name']} lacks {name.upper()}"
            # Only containers that read a secret get it.
            for variable, kind, _, _ in references(container, volumes(each)):
                if kind == "Secret" and variable not in fields(reads):
                    yield f"{title(each)}: {container['name']} does not read {variable}"
    yield from (f"{name} cannot be set" for name in ALL_SETTINGS - given - IMAGE_SETTINGS)


def example_secrets_are_consistent(documents: list[Object]) -> Violations:
    """They are marked as examples, and the addresses contain the same passwords."""
    for each in of_kind(documents, "Secret"):
        values = each["stringData"]
        for name, value in values.items():
            if value and "change-me-" not in value:
                yield f"{title(each)}: {name} looks like a real secret"
        for url, password in (
            ("DATABASE_URL", "POSTGRES_PASSWORD"),
            ("REDIS_URL", "REDIS_PASSWORD"),
        ):
            parts = urlsplit(values[url])
            if parts.password != values[password]:
                yield f"{title(each)}: {url} and {password} differ"
            service = str(parts.hostname).removesuffix(f".{NAMESPACE}.svc")
            ports = {
                port["port"]
                for other in of_kind(documents, "Service")
                if other["metadata"]["name"] == service and not is_headless(other)
                for port in other["spec"]["ports"]
            }
            if parts.port not in ports:
                yield f"{title(each)}: {url} names no Service"


def pods_are_restricted(documents: list[Object]) -> Violations:
    """The restricted level of the Pod Security Standards, and some additional limits."""
    for each in pod_owners(documents):
        spec = pod_spec(each)
        context = spec.get("securityContext", {})
        if context.get("runAsNonRoot") is not True:
            yield f"{title(each)}: can run as root"
        if not isinstance(context.get("runAsUser"), int) or context["runAsUser"] < 1:
            yield f"{title(each)}: its user is not a number above 0"
        if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{title(each)}: no seccomp profile"
        if {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(spec):
            yield f"{title(each)}: shares a namespace with its node"
        for volume in spec.get("volumes", []):
            if not set(volume) - {"name"} <= VOLUMES:
                yield f"{title(each)}: volume {volume['name']} has a kind that is not allowed"
        for wanted in ("automountServiceAccountToken", "enableServiceLinks"):
            if spec.get(wanted) is not False:
                yield f"{title(each)}: {wanted} is not off"
        for container in containers(each):
            where = f"{title(each)}: container {container['name']}"
            own = container.get("securityContext", {})
            if own.get("allowPrivilegeEscalation") is not False:
                yield f"{where} can escalate privileges"
            if own.get("capabilities") != {"drop": ["ALL"]}:
                yield f"{where} has capabilities"
            if own.get("readOnlyRootFilesystem") is not True:
                yield f"{where} can write to its root"
            more = {"allowPrivilegeEscalation", "capabilities", "readOnlyRootFilesystem"}
            if set(own) - more:
                yield f"{where}: {set(own) - more} overrides the pod's settings"
            for port in container.get("ports", []):
                if "hostPort" in port or port["containerPort"] < 1024:
                    yield f"{where} uses a port of its node, or a privileged one"
            resources = container.get("resources", {})
            if set(resources.get("requests", {})) != {"cpu", "memory", "ephemeral-storage"}:
                yield f"{where}: no requests of cpu, memory and ephemeral-storage"
            if set(resources.get("limits", {})) != {"cpu", "memory"}:
                yield f"{where}: no limits of cpu and memory"


def a_second_apply_changes_nothing(documents: list[Object]) -> Violations:
    """What the server would add to lists is there; apply compares lists as a whole."""
    for each in of_kind(documents, "Service", "NetworkPolicy"):
        spec = each["spec"]
        ports = [*spec.get("ports", [])]
        for rule in (*spec.get("ingress", []), *spec.get("egress", [])):
            ports += rule.get("ports", [])
        if any("protocol" not in port for port in ports):
            yield f"{title(each)}: a port without a protocol"
    for each in of_kind(documents, "Deployment"):
        if "type" not in each["spec"].get("strategy", {"type": "RollingUpdate"}):
            yield f"{title(each)}: a strategy without a type"
    for each in of_kind(documents, "PriorityClass"):
        if each.get("globalDefault") is False:
            yield f"{title(each)}: the server does not store globalDefault: false"
    for each in of_kind(documents, "StatefulSet"):
        for claim in each["spec"].get("volumeClaimTemplates", []):
            if not {"apiVersion", "kind", "status"} <= set(claim):
                yield f"{title(each)}: the claim {claim['metadata']['name']} lacks defaults"


def important_pods_come_first(documents: list[Object]) -> Violations:
    """PostgreSQL and Redis get a place before the service, and that before dispatch workers."""
    values = {
        each["metadata"]["name"]: each["value"] for each in of_kind(documents, "PriorityClass")
    }
    found = {
        each["metadata"]["name"]: values.get(pod_spec(each).get("priorityClassName"), 0)
        for each in workloads(documents)
    }
    for first, then in (("postgres", "api"), ("redis", "api"), ("control", "dispatch")):
        if found[first] <= found[then]:
            yield f"{first} does not come before {then}"


def deployments_scale_and_spread(documents: list[Object]) -> Violations:
    scaled = set()
    for each in of_kind(documents, "HorizontalPodAutoscaler"):
        target = each["spec"]["scaleTargetRef"]
        name = f"{target['kind']}/{target['name']}"
        found = [other for other in workloads(documents) if title(other) == name]
        if not found or found[0]["apiVersion"] != target["apiVersion"]:
            yield f"{title(each)}: no {name}"
            continue
        scaled.add(name)
        if "replicas" in found[0]["spec"]:
            yield f"{name}: every apply would undo the work of its autoscaler"
        if each["spec"]["minReplicas"] < 2:
            yield f"{title(each)}: a single pod is missing while it is replaced"
    for each in of_kind(documents, "Deployment"):
        if title(each) not in scaled and each["spec"].get("replicas", 1) < 2:
            yield f"{title(each)}: a single pod is missing while it is replaced"
        for wanted in ("kubernetes.io/hostname", "topology.kubernetes.io/zone"):
            spread = pod_spec(each).get("topologySpreadConstraints", [])
            if not any(
                s["topologyKey"] == wanted
                and matches(s["labelSelector"], pod_labels(each))
                and s["matchLabelKeys"] == ["pod-template-hash"]
                for s in spread
            ):
                yield f"{title(each)}: its pods are not spread over {wanted}"
        first_start = 600 + 120 + 60  # PostgreSQL, the pod's own start, and the migrations
        if each["spec"].get("progressDeadlineSeconds", 600) < first_start:
            yield f"{title(each)}: a slow first start would be called a failure"
        if each["metadata"]["name"] not in _names(documents, "PodDisruptionBudget"):
            yield f"{title(each)}: draining a node can stop all of its pods at once"
