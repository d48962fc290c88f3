"""The commands of docs/kubernetes.md, run: all but the cluster is real.

kubectl is a script that runs what `kubectl exec` would run in a pod, and notes the rest.
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
from tests.support.cluster import ROOT, files, of_kind, read

PAGE = (ROOT / "docs/kubernetes.md").read_text()
KUBECTL = """#!/bin/sh
echo "$@" >>kubectl.log
[ "$1" = exec ] || exit 0
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""


def commands(first: str) -> str:
    """The block of the page that begins so."""
    [found] = re.findall(rf"^```\n({re.escape(first)}.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


class Desk:
    """A checkout to work in, and a folder beside it."""

    def __init__(self, directory: Path):
        self.checkout = directory / "checkout"
        (self.checkout / "bin").mkdir(parents=True)
        subprocess.run(["cp", "-r", ROOT / "k8s", self.checkout / "k8s"], check=True)
        shim = self.checkout / "bin/kubectl"
        shim.write_text(KUBECTL)
        shim.chmod(0o755)
        self.environment = {**os.environ}
        self.path = [self.checkout / "bin"]

    def paste(self, text: str) -> None:
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
    def asked(self) -> list[str]:
        """What kubectl was called with."""
        return (self.checkout / "kubectl.log").read_text().splitlines()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_secrets_of_ones_own_fit_one_another(desk: Desk) -> None:
    desk.paste(commands("cp k8s/02-secrets.yaml"))
    made = desk.checkout / "../notifications-secrets.yaml"
    text = made.read_text()
    assert not re.search("change-me-[a-z]", text)
    assert made.stat().st_mode & 0o077 == 0
    documents = [each for each in read(ROOT / "k8s") if each["kind"] != "Secret"]
    documents += read(made.parent.resolve())
    [secret] = of_kind(documents, "Secret")
    values = [value for value in secret["stringData"].values() if value and "://" not in value]
    assert len(values) == len(set(values)) == 6
    assert all(re.fullmatch("[0-9a-f]{48}", value) for value in values)
    found = list(rules.secrets_are_examples_that_fit(documents))
    assert all("looks like a real one" in each for each in found), found


def test_all_is_applied_but_the_example_secrets(desk: Desk) -> None:
    desk.paste(commands("kubectl apply -f k8s/00-namespace.yaml"))
    names = [path.name for path in files(ROOT / "k8s")]
    names.remove("02-secrets.yaml")
    assert desk.asked == [
        "apply -f k8s/00-namespace.yaml -f ../notifications-secrets.yaml",
        *(f"apply -f k8s/{name}" for name in names),
    ]


def test_images_become_ones_own_and_newer(desk: Desk) -> None:
    desk.paste(commands("sed -i 's#registry.gitlab.com"))
    desk.paste(commands("sed -i -E 's#/(api"))
    for folder in ("k8s", "k8s/optional"):
        for path in files(desk.checkout / folder):
            for image in re.findall(r"image: (.*)", path.read_text()):
                ours = re.fullmatch(
                    r"registry\.gitlab\.com/acme/notifications/(api|worker|demo):1\.1\.0", image
                )
                assert ours or image in ("postgres:17", "redis:8"), image


@pytest.fixture
def pod(tmp_path: Path, desk: Desk) -> Iterator[Postgres]:
    """A PostgreSQL whose role and database are called as in the cluster."""
    server = Postgres(tmp_path / "postgres")
    server.start()
    with psycopg2.connect(server.url) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE ROLE notifications SUPERUSER LOGIN PASSWORD 'in the pod'")
        cursor.execute("CREATE SEQUENCE message_ids")
        cursor.execute(
            "CREATE TABLE kept AS SELECT nextval('message_ids') FROM generate_series(1, 7)"
        )
    connection.close()
    desk.path.append(postgres_bin(None))
    desk.environment |= {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(server.port),
        "PGPASSWORD": "in the pod",
    }
    yield server
    server.remove()


def test_a_backup_is_taken_and_put_back(desk: Desk, pod: Postgres) -> None:
    backup = commands("kubectl exec -n notifications postgres-0 -- pg_dump")
    desk.paste(backup)
    assert ask(pod.url, "DELETE FROM kept RETURNING 1") == 1
    desk.paste(commands("kubectl scale -n notifications deployment api"))
    assert ask(pod.url, "SELECT count(*) FROM kept") == 7
    assert ask(pod.url_of("notifications_old"), "SELECT count(*) FROM kept") == 0
    assert ask(pod.url, "SELECT nextval('message_ids')") > 1_000_000_000
    everything = "-n notifications deployment api scheduler control dispatch"
    pods = f"-l app.kubernetes.io/name in ({', '.join(everything.split()[3:])})"
    assert [each for each in desk.asked if not each.startswith("exec ")] == [
        f"scale {everything} --replicas=0",
        f"wait -n notifications pod {pods} --for=delete --timeout=2m",
        f"scale {everything} --replicas=2",
    ]


def ask(url: str, statement: str) -> int:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            row = cursor.fetchone()
            return int(row[0]) if row else 0
    finally:
        connection.close()
