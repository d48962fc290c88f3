"""Read the Kubernetes manifests like a cluster: objects, pods, references between them."""

import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
NAMESPACE = "notifications"
# The example registry of our images.
REGISTRY = "registry.gitlab.com/your-group/notifications"
TEMPLATED = ("Deployment", "StatefulSet")
NAME_LABEL = "app.kubernetes.io/name"

Object = dict[str, Any]


class UniqueKeys(yaml.SafeLoader):
    """Reject a key that is given twice, like kubectl."""


def _mapping(loader: UniqueKeys, node: yaml.MappingNode) -> Any:
    keys = [loader.construct_object(key) for key, _ in node.value]
    twice = {str(key) for key in keys if keys.count(key) > 1}
    assert not twice, f"line {node.start_mark.line + 1}: {twice} given twice"
    return loader.construct_mapping(node, deep=True)


UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def files(directory: Path) -> list[Path]:
    """Return the files that `kubectl apply -f` reads from a directory, in its order."""
    return sorted(path for path in directory.iterdir() if path.suffix in (".yaml", ".yml", ".json"))


def read(directory: Path) -> list[Object]:
    return [
        document
        for path in files(directory)
        for document in yaml.load_all(path.read_text(), UniqueKeys)
    ]


def title(document: Object) -> str:
    return f"{document['kind']}/{document['metadata']['name']}"


def of_kind(documents: list[Object], *kinds: str) -> list[Object]:
    return [document for document in documents if document["kind"] in kinds]


def workloads(documents: list[Object]) -> list[Object]:
    return of_kind(documents, *TEMPLATED)


def pod_owners(documents: list[Object]) -> list[Object]:
    """Return everything that creates pods: the workloads, jobs by the clock, and pods."""
    return of_kind(documents, *TEMPLATED, "CronJob", "Pod")


def _pod_template(owner: Object) -> Object:
    if owner["kind"] == "Pod":
        return owner
    spec = owner["spec"]["jobTemplate"]["spec"] if owner["kind"] == "CronJob" else owner["spec"]
    template: Object = spec["template"]
    return template


def pod_spec(owner: Object) -> Object:
    spec: Object = _pod_template(owner)["spec"]
    return spec


def pod_labels(owner: Object) -> dict[str, str]:
    labels: dict[str, str] = _pod_template(owner)["metadata"]["labels"]
    return labels


def containers(workload: Object, init: bool = True) -> list[Object]:
    spec = pod_spec(workload)
    return [*(spec.get("initContainers", []) if init else []), *spec["containers"]]


def volumes(workload: Object) -> list[Object]:
    found: list[Object] = pod_spec(workload).get("volumes", [])
    return found


def is_ours(container: Object) -> bool:
    return str(container["image"]).startswith(f"{REGISTRY}/")


def matches(selector: Object, labels: dict[str, str]) -> bool:
    """Return whether a label selector matches labels."""
    assert set(selector) <= {"matchLabels", "matchExpressions"}, selector
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In", "only the operator In is supported"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return True


def selected(documents: list[Object], selector: Object) -> list[Object]:
    """Return what creates the pods that a selector matches."""
    return [each for each in pod_owners(documents) if matches(selector, pod_labels(each))]


def selectors(document: Object) -> Iterator[Object]:
    """Yield the pod selectors of an object, except a workload's own and {} (all pods)."""
    kind, spec = document["kind"], document.get("spec", {})
    if kind == "Service":
        yield {"matchLabels": spec["selector"]}
    elif kind == "PodDisruptionBudget":
        yield spec["selector"]
    elif kind in TEMPLATED:
        for constraint in spec["template"]["spec"].get("topologySpreadConstraints", []):
            yield constraint["labelSelector"]
    elif kind == "NetworkPolicy":
        if spec["podSelector"]:
            yield spec["podSelector"]
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for rule in spec.get(direction, []):
                for peer in rule.get(peers, []):
                    if "podSelector" in peer and "namespaceSelector" not in peer:
                        yield peer["podSelector"]


def stored_values(document: Object) -> dict[str, str]:
    """Return the entries of a ConfigMap or a Secret."""
    return document.get("data") or document.get("stringData") or {}


def find_values(documents: list[Object], kind: str, name: str) -> dict[str, str] | None:
    for document in of_kind(documents, kind):
        if document["metadata"]["name"] == name:
            return stored_values(document)
    return None


def references(
    container: Object, mounted: Sequence[Object] = ()
) -> Iterator[tuple[str, str, str, str | None]]:
    """Yield each referenced variable as variable, kind, name, key (None: all keys).

    A secret in a file that a variable NAME_FILE names is a reference of NAME.
    """
    for source in container.get("envFrom", []):
        for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            if field in source:
                yield "", kind, source[field]["name"], None
    for variable in container.get("env", []):
        for field, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
            where = variable.get("valueFrom", {}).get(field)
            if where:
                yield variable["name"], kind, where["name"], where["key"]
        for name, secret, key in _mounted_secrets(variable, container, mounted):
            yield name, "Secret", secret, key


def _mounted_secrets(
    variable: Object, container: Object, mounted: Sequence[Object]
) -> Iterator[tuple[str, str, str]]:
    """Yield the setting, Secret and key of the mounted file that a variable NAME_FILE names."""
    if not variable["name"].endswith("_FILE"):
        return
    for mount in container.get("volumeMounts", []):
        for volume in mounted:
            if volume["name"] == mount["name"] and "secret" in volume:
                for item in volume["secret"]["items"]:
                    if f"{mount['mountPath']}/{item['path']}" == variable["value"]:
                        name = variable["name"].removesuffix("_FILE")
                        yield name, volume["secret"]["secretName"], item["key"]


def environment(
    documents: list[Object], container: Object, mounted: Sequence[Object] = ()
) -> dict[str, str]:
    """Return the environment of a container's process, with secrets from files as variables."""
    found: dict[str, str] = {}
    for name, kind, where, key in references(container, mounted):
        values = find_values(documents, kind, where) or {}
        found |= values if key is None else {name: values.get(key, "")}
    for variable in container.get("env", []):
        if "value" in variable and variable["name"].removesuffix("_FILE") not in found:
            found[variable["name"]] = variable["value"]
    return found


def with_own_secrets(values: dict[str, str]) -> dict[str, str]:
    """Return an environment with random secrets in place of the manifests' placeholders."""
    return {
        name: re.sub("change-me-[a-z-]+", secrets.token_hex(24), value)
        for name, value in values.items()
    }
