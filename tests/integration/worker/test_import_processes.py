"""Imports through the real processes: over HTTP to the fleet, and by command."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.system import ROOT, System
from tests.support.waiting import wait_for


def rows(first: int, count: int, tag: str) -> str:
    lines = (f"{79260000000 + first + n};{tag};Europe/Moscow" for n in range(count))
    return "\ufeffТелефон;Тег;Часовой пояс\r\n" + "\r\n".join(lines) + "\r\n"


def finished(system: System, location: str) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        report: dict[str, Any] = system.call("GET", location.removeprefix("/api/v1"))
        return report if report["status"] != "running" else None

    return wait_for(found, 60, "the import is finished")


def send(system: System, data: bytes, **kwargs: Any) -> Any:
    url = f"http://127.0.0.1:{system.api_port}/api/v1/clients/import"
    return system.http.post(url, data=data, timeout=60, headers={"Content-Type": "text/csv"})


@pytest.fixture(scope="module")
def imported(system: System) -> dict[str, Any]:
    answer = send(system, rows(0, 30_000, "over-http").encode() + b"1;x;UTC\r\n")
    assert answer.status_code == 202, answer.text
    return finished(system, answer.headers["Location"])


def test_a_file_is_taken_in_and_merged_by_the_fleet(
    system: System, imported: dict[str, Any]
) -> None:
    names = ("status", "rows_total", "rows_done", "created", "rejected")
    assert [imported[name] for name in names] == ["finished", 30_001, 30_001, 30_000, 1]
    assert system.query("SELECT count(*) FROM clients WHERE tag = 'over-http'") == [(30_000,)]


def test_a_bad_file_is_answered_although_more_of_it_follows(system: System) -> None:
    """The caller who is still sending meets our answer, not a reset."""
    answer = send(system, b"name;tag\r\n" + b"Ivan;x\r\n" * 2_000_000)
    assert answer.status_code == 422
    assert "phone must be among them" in answer.json()["detail"]


def test_what_is_exported_comes_back_unchanged(system: System, imported: dict[str, Any]) -> None:
    url = f"http://127.0.0.1:{system.api_port}/api/v1/clients.csv?tag=over-http"
    for excel in ("", "&excel=true"):
        exported = system.http.get(url + excel, timeout=60)
        assert exported.ok
        report = finished(system, send(system, exported.content).headers["Location"])
        assert (report["rows_total"], report["unchanged"]) == (30_000, 30_000)


def command(system: System, *arguments: str, **more: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", "api", "clients", "import", *arguments],
        cwd=ROOT,
        env={**system.environment, "REDIS_URL": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **more,
    )


def test_the_command(system: System, tmp_path: Path) -> None:
    file = tmp_path / "clients.csv"
    file.write_text(rows(50_000, 2_000, "by-command") + "12;x;UTC\n")
    done = command(system, str(file))
    assert done.returncode == 0, done.stderr
    assert "2001 rows, 2000 created, 0 updated, 0 unchanged, 1 rejected" in done.stdout
    assert "line 2002: phone must be 11 digits" in done.stderr
    assert system.query("SELECT count(*) FROM clients WHERE tag = 'by-command'") == [(2_000,)]


def test_the_command_reads_standard_input_and_fills_gaps(system: System) -> None:
    done = command(
        system, "-", "--tag", "piped", "--timezone", "Asia/Omsk", input="phone\n79269999999\n"
    )
    assert done.returncode == 0, done.stderr
    assert system.query("SELECT tag, timezone FROM clients WHERE phone = 79269999999") == [
        ("piped", "Asia/Omsk")
    ]


@pytest.mark.parametrize(
    ("arguments", "data", "says"),
    [
        (["-"], "name\nIvan\n", "phone must be among them"),
        (["-", "--timezone", "Moscow"], "phone\n", "must be an IANA time zone"),
        (["no-such-file.csv"], "", "No such file"),
    ],
)
def test_the_command_refuses(system: System, arguments: list[str], data: str, says: str) -> None:
    done = command(system, *arguments, input=data)
    assert done.returncode != 0
    assert says in done.stderr
    assert "Traceback" not in done.stderr
