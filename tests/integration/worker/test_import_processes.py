"""Imports through the real processes: over HTTP and by command."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.system import ROOT, System
from tests.support.waiting import COMMAND_SECONDS, wait_for


def make_csv(first: int, count: int, tag: str) -> str:
    lines = (f"{79260000000 + first + n};{tag};Europe/Moscow" for n in range(count))
    return "\ufeffТелефон;Тег;Часовой пояс\r\n" + "\r\n".join(lines) + "\r\n"


def wait_until_merged(system: System, location: str) -> dict[str, Any]:
    def read_report() -> dict[str, Any] | None:
        report: dict[str, Any] = system.call("GET", location.removeprefix("/api/v1"))
        return report if report["status"] != "running" else None

    return wait_for(read_report, 60, "the import is finished")


def upload_csv(system: System, data: bytes, **kwargs: Any) -> Any:
    url = f"http://127.0.0.1:{system.api_port}/api/v1/clients/import"
    return system.http.post(url, data=data, timeout=60, headers={"Content-Type": "text/csv"})


@pytest.fixture(scope="module")
def imported(system: System) -> dict[str, Any]:
    answer = upload_csv(system, make_csv(0, 30_000, "over-http").encode() + b"1;x;UTC\r\n")
    assert answer.status_code == 202, answer.text
    return wait_until_merged(system, answer.headers["Location"])


def test_uploaded_file_is_merged_by_a_worker(system: System, imported: dict[str, Any]) -> None:
    names = ("status", "rows_total", "rows_done", "created", "rejected")
    assert [imported[name] for name in names] == ["finished", 30_001, 30_001, 30_000, 1]
    assert system.query("SELECT count(*) FROM clients WHERE tag = 'over-http'") == [(30_000,)]


def test_bad_file_is_answered_while_it_is_being_sent(system: System) -> None:
    """The client gets the answer, not a connection reset."""
    answer = upload_csv(system, b"name;tag\r\n" + b"Ivan;x\r\n" * 2_000_000)
    assert answer.status_code == 422
    assert "phone must be among them" in answer.json()["detail"]


def test_exported_file_imports_as_unchanged(system: System, imported: dict[str, Any]) -> None:
    url = f"http://127.0.0.1:{system.api_port}/api/v1/clients.csv?tag=over-http"
    for excel in ("", "&excel=true"):
        exported = system.http.get(url + excel, timeout=60)
        assert exported.ok
        report = wait_until_merged(system, upload_csv(system, exported.content).headers["Location"])
        assert (report["rows_total"], report["unchanged"]) == (30_000, 30_000)


def run_import_command(
    system: System, *arguments: str, **more: Any
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", "api", "clients", "import", *arguments],
        cwd=ROOT,
        env={**system.environment, "REDIS_URL": ""},
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
        **more,
    )


def test_command_imports_a_file(system: System, tmp_path: Path) -> None:
    file = tmp_path / "clients.csv"
    file.write_text(make_csv(50_000, 2_000, "by-command") + "12;x;UTC\n")
    done = run_import_command(system, str(file))
    assert done.returncode == 0, done.stderr
    assert "2001 rows, 2000 created, 0 updated, 0 unchanged, 1 rejected" in done.stdout
    assert 'row 2002: phone "12" must be 11 digits' in done.stderr
    assert system.query("SELECT count(*) FROM clients WHERE tag = 'by-command'") == [(2_000,)]


def test_command_reads_standard_input_and_applies_defaults(system: System) -> None:
    done = run_import_command(
        system, "-", "--tag", "piped", "--timezone", "Asia/Omsk", input="phone\n79269999999\n"
    )
    assert done.returncode == 0, done.stderr
    assert system.query("SELECT tag, timezone FROM clients WHERE phone = 79269999999") == [
        ("piped", "Asia/Omsk")
    ]


@pytest.mark.parametrize(
    ("arguments", "data", "message"),
    [
        (["-"], "name\nIvan\n", "phone must be among them"),
        (["-", "--timezone", "Moscow"], "phone\n", "must be an IANA time zone"),
        (["no-such-file.csv"], "", "No such file"),
    ],
)
def test_command_reports_bad_input(
    system: System, arguments: list[str], data: str, message: str
) -> None:
    done = run_import_command(system, *arguments, input=data)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
