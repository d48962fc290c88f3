"""What must hold between manifests, where their schemas are blind. Each rule yields complaints."""

from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from shared import __version__
from shared.config.settings import ApiSettings, DatabaseSettings, Settings, WorkerSettings
from tests.support.cluster import (
    NAME_LABEL,
    NAMESPACE,
    REGISTRY,
    ROOT,
    Object,
    containers,
    environment,
    holder,
    is_ours,
    matches,
    of_kind,
    pod_labels,
    pod_spec,
    references,
    selected,
    selectors,
    title,
    workloads,
)

Complaints = Iterator[str]
Rule = Callable[[list[Object]], Complaints]

KINDS = {
    "ConfigMap",
    "Deployment",
    "HorizontalPodAutoscaler",
    "Ingress",
    "Namespace",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "Secret",
    "Service",
    "ServiceAccount",
    "StatefulSet",
}
# Made by whoever owns the cluster: the certificate, and the registry's credentials.
FROM_OUTSIDE = {"notifications-tls", "gitlab-registry"}
OFFICIAL = {"postgres", "redis"}
# Our images: the file each is built from, and the stage.
BUILT = {
    "api": ("Dockerfile.api", None),
    "worker": ("Dockerfile.worker", "worker"),
    "demo": ("Dockerfile.worker", "demo"),
}
# What official images read.
THEIRS = {
    "postgres": {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD", "PGDATA"},
    "redis": {"REDISCLI_AUTH"},
}
# What our containers run, and which settings that reads.
READS: dict[tuple[str, ...], type[DatabaseSettings]] = {
    (): ApiSettings,  # the API image's own command
    ("flask", "--app", "api", "db", "upgrade"): DatabaseSettings,
    ("python", "-m", "shared.db.schema", "database"): DatabaseSettings,
    ("python", "-m", "shared.db.schema", "migrations"): DatabaseSettings,
    ("python", "-m", "worker", "scheduler"): Settings,
    ("python", "-m", "worker", "control"): WorkerSettings,
    ("python", "-m", "worker", "dispatch"): WorkerSettings,
}
GUNICORN = {"WEB_CONCURRENCY"}
VOLUMES = {"emptyDir", "configMap", "secret", "projected", "downwardAPI", "csi", "ephemeral"}


def fields(kind: type[DatabaseSettings]) -> set[str]:
    return {name.upper() for name in kind.model_fields}


ALL_SETTINGS = fields(ApiSettings) | fields(WorkerSettings) | GUNICORN


def objects_are_ours_to_apply(documents: list[Object]) -> Complaints:
    """One namespace, first; no kind that cannot be applied over itself."""
    if [each["kind"] for each in documents].index("Namespace") != 0:
        yield "the namespace does not come first"
    titles = [title(each) for each in documents]
    yield from (f"{each} is there twice" for each in set(titles) if titles.count(each) > 1)
    for each in documents:
        if each["kind"] not in KINDS:
            yield f"{title(each)}: not a kind that any cluster knows and apply can repeat"
        metadata = each["metadata"]
        if each["kind"] == "Namespace":
            if metadata["name"] != NAMESPACE:
                yield f"{title(each)}: not {NAMESPACE}"
            if metadata["labels"].get("pod-security.kubernetes.io/enforce") != "restricted":
                yield f"{title(each)}: does not enforce the restricted level"
        elif metadata.get("namespace") != NAMESPACE:
            yield f"{title(each)}: not in the namespace"
        if metadata.get("labels", {}).get("app.kubernetes.io/part-of") != "notifications":
            yield f"{title(each)}: no label that says what it is part of"


def selectors_take_their_pods(documents: list[Object]) -> Complaints:
    for each in documents:
        for selector in selectors(each):
            if not selected(documents, selector):
                yield f"{title(each)}: {selector} takes no pod"
            for expression in selector.get("matchExpressions", []):
                for value in expression["values"]:
                    if not selected(documents, {"matchLabels": {expression["key"]: value}}):
                        yield f"{title(each)}: no pod is called {value}"
    for each in workloads(documents):
        taken = selected(documents, each["spec"]["selector"])
        if taken != [each]:
            yield f"{title(each)}: its selector takes {[title(other) for other in taken]}"
        if pod_labels(each).get(NAME_LABEL) != each["metadata"]["name"]:
            yield f"{title(each)}: its pods are called otherwise"
    for each in of_kind(documents, "Service", "PodDisruptionBudget"):
        names = [title(other) for s in selectors(each) for other in selected(documents, s)]
        if len(names) != 1 or names[0].split("/")[1] != each["metadata"]["name"]:
            yield f"{title(each)}: takes {names}"


def ports_exist(documents: list[Object]) -> Complaints:
    for each in workloads(documents):
        for container in containers(each):
            named = {port["name"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                for how in ("httpGet", "tcpSocket"):
                    port = container.get(probe, {}).get(how, {}).get("port")
                    if port is not None and port not in named:
                        yield f"{title(each)}: {probe} asks at port {port}"
    for each in of_kind(documents, "Service"):
        for port in each["spec"]["ports"]:
            for target in selected(documents, next(selectors(each))):
                if port["targetPort"] not in {n for c in containers(target) for n in _ports(c)}:
                    yield f"{title(each)}: {title(target)} has no port {port['targetPort']}"
    for each in of_kind(documents, "StatefulSet"):
        if each["spec"]["serviceName"] not in _names(documents, "Service"):
            yield f"{title(each)}: no Service {each['spec']['serviceName']}"
    for each in of_kind(documents, "NetworkPolicy"):
        for rule in each["spec"].get("ingress", []):
            for target in selected(documents, each["spec"]["podSelector"]):
                numbers = {n for c in containers(target) for n in _ports(c).values()}
                for port in rule["ports"]:
                    if port["port"] not in numbers:
                        yield f"{title(each)}: {title(target)} has no port {port['port']}"


def _ports(container: Object) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container.get("ports", [])}


def _names(documents: list[Object], kind: str) -> set[str]:
    return {each["metadata"]["name"] for each in of_kind(documents, kind)}


def references_exist(documents: list[Object]) -> Complaints:
    """ConfigMaps, Secrets, their keys, service accounts; and nothing is held that nobody takes."""
    taken: set[tuple[str, str, str]] = set()
    for each in workloads(documents):
        account = pod_spec(each).get("serviceAccountName")
        if account not in _names(documents, "ServiceAccount"):
            yield f"{title(each)}: no ServiceAccount {account}"
        for container in containers(each):
            for variable, kind, name, key in references(container):
                values = holder(documents, kind, name)
                if values is None:
                    yield f"{title(each)}: no {kind} {name}"
                elif key is not None and key not in values:
                    yield f"{title(each)}: {variable} wants {key}, which {kind} {name} lacks"
                taken |= {(kind, name, k) for k in ([key] if key else values or {})}
    for each in of_kind(documents, "ServiceAccount"):
        for secret in each.get("imagePullSecrets", []):
            if secret["name"] not in FROM_OUTSIDE:
                yield f"{title(each)}: nobody makes the Secret {secret['name']}"
    for each in of_kind(documents, "ConfigMap", "Secret"):
        for key in holder(documents, each["kind"], each["metadata"]["name"]) or {}:
            if (each["kind"], each["metadata"]["name"], key) not in taken:
                yield f"{title(each)}: nobody takes {key}"


def volumes_exist(documents: list[Object]) -> Complaints:
    for each in workloads(documents):
        claims = [c["metadata"]["name"] for c in each["spec"].get("volumeClaimTemplates", [])]
        there = [volume["name"] for volume in pod_spec(each).get("volumes", [])] + claims
        mounts = [mount for c in containers(each) for mount in c.get("volumeMounts", [])]
        mounted = {mount["name"] for mount in mounts}
        yield from (f"{title(each)}: no volume {name}" for name in mounted - set(there))
        yield from (f"{title(each)}: nobody mounts {name}" for name in set(there) - mounted)
        for volume in pod_spec(each).get("volumes", []):
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"{title(each)}: volume {volume['name']} may fill the node"
        if each["kind"] == "StatefulSet" and not claims:
            yield f"{title(each)}: keeps nothing"


def images_are_built_here_or_official(documents: list[Object]) -> Complaints:
    for each in workloads(documents):
        for container in containers(each):
            name, _, tag = container["image"].rpartition(":")
            room = name.removeprefix(f"{REGISTRY}/")
            if is_ours(container):
                file, stage = BUILT.get(room, (None, None))
                if file is None or (stage and f" AS {stage}\n" not in (ROOT / file).read_text()):
                    yield f"{title(each)}: nobody builds {name}"
                if tag != __version__:
                    yield f"{title(each)}: image of {tag}, but this is {__version__}"
            elif name not in OFFICIAL or tag == "latest":
                yield f"{title(each)}: {container['image']} is neither built here nor official"


def variables_are_known_settings(documents: list[Object]) -> Complaints:
    given: set[str] = set()
    for each in workloads(documents):
        for container in containers(each):
            found = set(environment(documents, container))
            if not is_ours(container):
                known = THEIRS[container["image"].partition(":")[0]]
                yield from (f"{title(each)}: nobody reads {name}" for name in found ^ known)
                continue
            command = tuple(container.get("command", ()))
            if command not in READS:
                yield f"{title(each)}: what does {' '.join(command)} read?"
                continue
            given |= found
            yield from (f"{title(each)}: nobody reads {name}" for name in found - ALL_SETTINGS)
            reads = READS[command]
            for name, field in reads.model_fields.items():
                if field.is_required() and name.upper() not in found:
                    yield f"{title(each)}: {container['name']} lacks {name.upper()}"
            # Secrets are for those alone who read them.
            for variable, kind, _, _ in references(container):
                if kind == "Secret" and variable not in fields(reads):
                    yield f"{title(each)}: {container['name']} does not read {variable}"
    yield from (f"{name} cannot be set" for name in ALL_SETTINGS - given)


def secrets_are_examples_that_fit(documents: list[Object]) -> Complaints:
    """They say that they must be changed, and the addresses hold the very passwords."""
    for each in of_kind(documents, "Secret"):
        values = each["stringData"]
        for name, value in values.items():
            if value and "change-me-" not in value:
                yield f"{title(each)}: {name} looks like a real one"
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
                if other["metadata"]["name"] == service
                for port in other["spec"]["ports"]
            }
            if parts.port not in ports:
                yield f"{title(each)}: {url} leads to no Service"


def pods_are_restricted(documents: list[Object]) -> Complaints:
    """The restricted level of the Pod Security Standards, and a little more."""
    for each in workloads(documents):
        spec = pod_spec(each)
        context = spec.get("securityContext", {})
        if context.get("runAsNonRoot") is not True:
            yield f"{title(each)}: may run as root"
        if not isinstance(context.get("runAsUser"), int) or context["runAsUser"] < 1:
            yield f"{title(each)}: its user is no number above 0"
        if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{title(each)}: no seccomp profile"
        if {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(spec):
            yield f"{title(each)}: shares something with its node"
        for volume in spec.get("volumes", []):
            if not set(volume) - {"name"} <= VOLUMES:
                yield f"{title(each)}: volume {volume['name']} is of a kind not allowed"
        for wanted in ("automountServiceAccountToken", "enableServiceLinks"):
            if spec.get(wanted) is not False:
                yield f"{title(each)}: {wanted} is not off"
        for container in containers(each):
            where = f"{title(each)}: container {container['name']}"
            own = container.get("securityContext", {})
            if own.get("allowPrivilegeEscalation") is not False:
                yield f"{where} may escalate"
            if own.get("capabilities") != {"drop": ["ALL"]}:
                yield f"{where} has capabilities"
            if own.get("readOnlyRootFilesystem") is not True:
                yield f"{where} may write to its root"
            more = {"allowPrivilegeEscalation", "capabilities", "readOnlyRootFilesystem"}
            if set(own) - more:
                yield f"{where}: {set(own) - more} overrides what the pod says"
            for port in container.get("ports", []):
                if "hostPort" in port or port["containerPort"] < 1024:
                    yield f"{where} takes a port of its node, or a privileged one"
            resources = container.get("resources", {})
            for amount in ("requests", "limits"):
                if set(resources.get(amount, {})) != {"cpu", "memory"}:
                    yield f"{where}: no {amount} of cpu and memory"


def autoscalers_have_the_say(documents: list[Object]) -> Complaints:
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
            yield f"{name}: every apply would undo what its autoscaler does"
        if each["spec"]["minReplicas"] < 2:
            yield f"{title(each)}: one is none while it is replaced"
    for each in of_kind(documents, "Deployment"):
        if title(each) not in scaled and each["spec"].get("replicas", 1) < 2:
            yield f"{title(each)}: one is none while it is replaced"
        for wanted in ("kubernetes.io/hostname", "topology.kubernetes.io/zone"):
            spread = pod_spec(each).get("topologySpreadConstraints", [])
            if not any(
                s["topologyKey"] == wanted and matches(s["labelSelector"], pod_labels(each))
                for s in spread
            ):
                yield f"{title(each)}: its pods are not spread over {wanted}"
        if each["metadata"]["name"] not in _names(documents, "PodDisruptionBudget"):
            yield f"{title(each)}: a drained node may take all of it at once"
