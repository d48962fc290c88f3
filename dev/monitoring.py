"""Write the alert rules and the dashboard of deploy/ as objects for a Kubernetes cluster.

    python -m dev.monitoring

Change them in deploy/ and run this; a test compares the two.
"""

from pathlib import Path
from textwrap import indent

ROOT = Path(__file__).parents[1]
HEAD = """\
# Written by `python -m dev.monitoring` from {source}: change it there.
apiVersion: {version}
kind: {kind}
metadata:
  name: {name}
  namespace: notifications
  labels:
    app.kubernetes.io/part-of: notifications
"""
RULES = ("deploy/prometheus/alerts.yml", "deploy/prometheus/slo.yml")
# kube-prometheus-stack selects rules by its release's name.
RULE = """\
    release: kube-prometheus-stack
spec:
{rules}"""
# Grafana's sidecar looks for this label.
DASHBOARD = """\
    grafana_dashboard: "1"
data:
  notifications.json: |
{dashboard}"""


def manifests() -> dict[Path, str]:
    """Return the generated files in k8s/optional and their content."""
    dashboard = "deploy/grafana/notifications.json"
    rules = "".join((ROOT / file).read_text().partition("\ngroups:\n")[2] for file in RULES)
    shown = (ROOT / dashboard).read_text()
    made = {
        "prometheus-rule.yaml": HEAD.format(
            source=" and ".join(RULES),
            version="monitoring.coreos.com/v1",
            kind="PrometheusRule",
            name="notifications",
        )
        + RULE.format(rules=indent("groups:\n" + rules, "  ")),
        "grafana-dashboard.yaml": HEAD.format(
            source=dashboard, version="v1", kind="ConfigMap", name="notifications-dashboard"
        )
        + DASHBOARD.format(dashboard=indent(shown.rstrip("\n") + "\n", "    ")),
    }
    return {ROOT / "k8s/optional" / name: text for name, text in made.items()}


def main() -> None:
    for path, text in manifests().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
