"""Run the commands of docs/kubernetes.md without a cluster.

kubectl is a script that runs locally what `kubectl exec` would run in a pod, and logs its calls.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from dev.stack.binaries import postgres_bin
from dev.stack.services import Postgres
from tests.support import cluster_rules as rules
from tests.support.cluster import ROOT, of_kind, read

PAGE = (ROOT / "docs/kubernetes.md").read_text()
KUBECTL = """#!/bin/sh
echo "$@" >>kubectl.log
[ "$1" = exec ] || exit 0
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""


def documented_commands(first: str) -> str:
    """Return the code block of the page that begins with this text."""
    [found] = re.findall(rf"^```\n({re.escape(first)}.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


class Workspace:
    """A copy of the checkout with a replacement for kubectl, and a folder beside it."""

    def __init__(self, directory: Path):
        self.checkout = directory / "checkout"
        (self.checkout / "bin").mkdir(parents=True)
        subprocess.run(["cp", "-r", ROOT / "k8s", self.checkout / "k8s"], check=True)
        shim = self.checkout / "bin/kubectl"
        shim.write_text(KUBECTL)
        shim.chmod(0o755)
        self.environment = {**os.environ}
        self.path = [self.checkout / "bin"]

    def run_commands(self, text: str) -> None:
        path = ":".join([*map(str, self.path), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", text],
            cwd=self.checkout,
            env={**self.environment, "PATH": path},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def kubectl_calls(self) -> list[str]:
        """The arguments of each call of kubectl."""
        return (self.checkout / "kubectl.log").read_text().splitlines()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def test_generated_secrets_are_consistent(workspace: Workspace) -> None:
    workspace.run_commands(documented_commands("cp k8s/02-secrets.yaml"))
    made = workspace.checkout / "../notifications-secrets.yaml"
    text = made.read_text()
    assert not re.search("change-me-[a-z]", text)
    assert made.stat().st_mode & 0o077 == 0
    documents = [each for each in read(ROOT / "k8s") if each["kind"] != "Secret"]
    documents += read(made.parent.resolve())
    [secret] = of_kind(documents, "Secret")
    values = [value for value in secret["stringData"].values() if value and "://" not in value]
    assert len(values) == len(set(values)) == 6
    assert all(re.fullmatch("[0-9a-f]{48}", value) for value in values)
    found = list(rules.example_secrets_are_consistent(documents))
    assert all("looks like a real secret" in each for each in found), found


def test_everything_is_applied_except_the_example_secrets(workspace: Workspace) -> None:
    workspace.run_commands(documented_commands("kubectl apply -f k8s/00-namespace.yaml"))
    assert workspace.kubectl_calls == [
        "apply -f k8s/00-namespace.yaml -f ../notifications-secrets.yaml",
        "apply -k deploy/kubernetes/production",
    ]


@pytest.fixture
def pod(tmp_path: Path, workspace: Workspace) -> Iterator[Postgres]:
    """A PostgreSQL with the role and database of the cluster."""
    server = Postgres(tmp_path / "postgres")
    server.start()
    with psycopg2.connect(server.url) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE ROLE notifications SUPERUSER LOGIN PASSWORD 'in the pod'")
        cursor.execute("CREATE TABLE kept AS SELECT generate_series(1, 7)")
    connection.close()
    workspace.path.append(postgres_bin(None))
    workspace.environment |= {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(server.port),
        "PGPASSWORD": "in the pod",
    }
    yield server
    server.remove()


def test_a_backup_is_made_and_restored(workspace: Workspace, pod: Postgres) -> None:
    backup = documented_commands("kubectl exec -n notifications postgres-0 -- pg_dump")
    workspace.run_commands(backup)
    assert query_number(pod.url, "DELETE FROM kept RETURNING 1") == 1
    workspace.run_commands(documented_commands("kubectl scale -n notifications deployment api"))
    assert query_number(pod.url, "SELECT count(*) FROM kept") == 7
    assert query_number(pod.url_of("notifications_old"), "SELECT count(*) FROM kept") == 0
    everything = "-n notifications deployment api scheduler control sweep dispatch report"
    pods = f"-l app.kubernetes.io/name in ({', '.join(everything.split()[3:])})"
    assert [each for each in workspace.kubectl_calls if not each.startswith("exec ")] == [
        f"scale {everything} --replicas=0",
        f"wait -n notifications pod {pods} --for=delete --timeout=2m",
        f"scale {everything} --replicas=2",
    ]


def test_a_nightly_dump_is_restored(workspace: Workspace, pod: Postgres, tmp_path: Path) -> None:
    """The script of the CronJob makes the dump, the documented commands restore the newest one."""
    dumps = tmp_path / "dumps"
    dumps.mkdir()
    outdated, recent = dumps / "notifications-20200101T000000Z.dump", dumps / "interrupted.part"
    outdated.touch()
    recent.touch()
    os.utime(outdated, (0, 0))
    [job] = of_kind(read(ROOT / "k8s/optional"), "CronJob")
    [container] = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    variables = {each["name"]: each.get("value") for each in container["env"]}
    workspace.environment |= {
        "KEEP_DAYS": variables["KEEP_DAYS"],
        "PGUSER": variables["PGUSER"],
        "PGDATABASE": variables["PGDATABASE"],
    }
    assert container["command"] == ["sh", "-eu", "-c"]
    workspace.run_commands(container["args"][0].replace("/backups", str(dumps)))
    [made] = dumps.iterdir()
    assert re.fullmatch(r"notifications-\d{8}T\d{6}Z\.dump", made.name)
    assert query_number(pod.url, "DELETE FROM kept RETURNING 1") == 1
    for first in (
        "kubectl apply -f k8s/optional/postgres-restore",
        "kubectl exec -n notifications postgres-restore -- createdb",
    ):
        commands = documented_commands(first).replace("/backups", str(dumps))
        workspace.run_commands(commands)
    assert query_number(pod.url, "SELECT count(*) FROM kept") == 7
    assert query_number(pod.url_of("notifications_old"), "SELECT count(*) FROM kept") == 0


def query_number(url: str, statement: str) -> int:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            row = cursor.fetchone()
            return int(row[0]) if row else 0
    finally:
        connection.close()
