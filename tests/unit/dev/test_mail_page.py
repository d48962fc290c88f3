"""The local mail server and its page, as a process of their own, spoken to in SMTP and HTTP."""

import json
import re
import smtplib
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import EmailMessage
from http.client import HTTPResponse
from pathlib import Path
from types import SimpleNamespace

import pytest

from dev.mail import MOST_KEPT
from dev.stack.ports import free_port

ROOT = Path(__file__).parents[3]
HTML = "<!doctype html><html><head><title>x</title></head><body><script>x()</script>Принято</body>"


@pytest.fixture(scope="module")
def catcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    folder = tmp_path_factory.mktemp("mail")
    port, page = free_port(), free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "dev.mail", "--port", str(port)),
            *("--page-port", str(page), "--dir", str(folder)),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    listening = json.loads(process.stdout.readline())
    assert listening == {"event": "mail.listening", "port": port, "page": page}
    yield SimpleNamespace(port=port, page=page, folder=folder)
    process.terminate()
    assert process.wait(10) == 0
    process.stdout.close()


def get(catcher: SimpleNamespace, path: str, host: str = "") -> tuple[HTTPResponse, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{catcher.page}{path}")
    if host:
        request.add_header("Host", host)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer, answer.read().decode()


def send(catcher: SimpleNamespace, subject: str, html: str = "", attached: bytes = b"") -> None:
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = subject, "Ops <ops@example.com>", "a@example.com"
    mail.set_content("Plain <words>")
    if html:
        mail.add_alternative(html, subtype="html")
    if attached:
        mail.add_attachment(attached, maintype="text", subtype="html", filename="evil <1>.html")
    with smtplib.SMTP("127.0.0.1", catcher.port, timeout=10) as smtp:
        smtp.send_message(mail)


def test_a_mail_is_shown_and_nothing_in_it_runs(catcher: SimpleNamespace) -> None:
    send(catcher, "Отчёт <b>1</b>", HTML, b"<script>y()</script>")
    _, listed = get(catcher, "/")
    assert "Отчёт &lt;b&gt;1&lt;/b&gt;" in listed
    assert "Ops &lt;ops@example.com&gt;" in listed
    name = json.loads(get(catcher, "/newest")[1])["name"]

    page, text = get(catcher, f"/mails/{name}/")
    [frame] = re.findall(r"<iframe[^>]*>", text)
    assert f'src="/mails/{name}/html"' in frame
    assert 'sandbox="allow-popups allow-popups-to-escape-sandbox"' in frame
    nonce = re.search(r"script-src 'nonce-([\w-]+)'", page.headers["Content-Security-Policy"])
    assert nonce
    assert re.findall(r"<script[^>]*>", text) == [f'<script nonce="{nonce[1]}">']

    framed, html = get(catcher, f"/mails/{name}/html")
    policy = framed.headers["Content-Security-Policy"]
    assert policy.startswith("sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'n")
    assert "script" not in policy
    assert html.strip() == HTML.replace("<head>", '<head><base target="_blank">')

    attached, content = get(catcher, f"/mails/{name}/attachments/0")
    assert content == "<script>y()</script>"
    assert attached.headers["Content-Type"] == "application/octet-stream"
    assert attached.headers["Content-Disposition"].startswith("attachment;")
    assert attached.headers["X-Content-Type-Options"] == "nosniff"

    assert "Plain &lt;words&gt;" in get(catcher, f"/mails/{name}/?view=text")[1]
    assert "Subject: =?utf-8?" in get(catcher, f"/mails/{name}/?view=source")[1]


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [
        ("/", "evil.example", 403),  # a name that somebody has pointed at this machine
        ("/mails/20260101-000000-0001/", "", 404),
        ("/mails/..%2f..%2fetc/html", "", 404),
        ("/mails/x/attachments/0", "", 404),
    ],
)
def test_what_is_not_shown(catcher: SimpleNamespace, path: str, host: str, status: int) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(catcher, path, host)
    assert refused.value.code == status


def test_the_oldest_make_way(catcher: SimpleNamespace) -> None:
    for number in range(MOST_KEPT + 2):
        (catcher.folder / f"20200101-000000-{number:04}.eml").write_text("Subject: old\n\nx")
    (catcher.folder / "20200101-000000-0000.html").write_text("x")
    send(catcher, "the newest")
    kept = sorted(path.name for path in catcher.folder.glob("*.eml"))
    assert len(kept) == MOST_KEPT
    assert "20200101-000000-0000.eml" not in kept
    assert not (catcher.folder / "20200101-000000-0000.html").exists()
    assert "the newest" in get(catcher, "/")[1]
