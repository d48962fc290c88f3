"""The local mail server and its page, as a process of their own, over SMTP and HTTP."""

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

from dev.mail import MAX_MAILS
from dev.stack.ports import free_port

ROOT = Path(__file__).parents[3]
HTML = "<!doctype html><html><head><title>x</title></head><body><script>x()</script>Принято</body>"


@pytest.fixture(scope="module")
def mail_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
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


def get(mail_server: SimpleNamespace, path: str, host: str = "") -> tuple[HTTPResponse, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{mail_server.page}{path}")
    if host:
        request.add_header("Host", host)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer, answer.read().decode()


def send(mail_server: SimpleNamespace, subject: str, html: str = "", attached: bytes = b"") -> None:
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = subject, "Ops <ops@example.com>", "a@example.com"
    mail.set_content("Plain <words>")
    if html:
        mail.add_alternative(html, subtype="html")
    if attached:
        mail.add_attachment(attached, maintype="text", subtype="html", filename="evil <1>.html")
    with smtplib.SMTP("127.0.0.1", mail_server.port, timeout=10) as smtp:
        smtp.send_message(mail)


def test_mail_is_shown_without_running_its_content(mail_server: SimpleNamespace) -> None:
    send(mail_server, "Отчёт <b>1</b>", HTML, b"<script>y()</script>")
    _, listed = get(mail_server, "/")
    assert "Отчёт &lt;b&gt;1&lt;/b&gt;" in listed
    assert "Ops &lt;ops@example.com&gt;" in listed
    name = json.loads(get(mail_server, "/newest")[1])["name"]

    page, text = get(mail_server, f"/mails/{name}/")
    [frame] = re.findall(r"<iframe[^>]*>", text)
    assert f'src="/mails/{name}/html"' in frame
    assert 'sandbox="allow-popups allow-popups-to-escape-sandbox"' in frame
    nonce = re.search(r"script-src 'nonce-([\w-]+)'", page.headers["Content-Security-Policy"])
    assert nonce
    assert re.findall(r"<script[^>]*>", text) == [f'<script nonce="{nonce[1]}">']

    framed, html = get(mail_server, f"/mails/{name}/html")
    policy = framed.headers["Content-Security-Policy"]
    assert policy.startswith("sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'n")
    assert "script" not in policy
    assert html.strip() == HTML.replace("<head>", '<head><base target="_blank">')

    attached, content = get(mail_server, f"/mails/{name}/attachments/0")
    assert content == "<script>y()</script>"
    assert attached.headers["Content-Type"] == "application/octet-stream"
    assert attached.headers["Content-Disposition"].startswith("attachment;")
    assert attached.headers["X-Content-Type-Options"] == "nosniff"

    assert "Plain &lt;words&gt;" in get(mail_server, f"/mails/{name}/?view=text")[1]
    assert "Subject: =?utf-8?" in get(mail_server, f"/mails/{name}/?view=source")[1]


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [
        ("/", "evil.example", 403),  # a foreign name that resolves to this machine
        ("/mails/20260101-000000-0001/", "", 404),
        ("/mails/..%2f..%2fetc/html", "", 404),
        ("/mails/x/attachments/0", "", 404),
    ],
)
def test_page_refuses_other_hosts_and_unknown_mails(
    mail_server: SimpleNamespace, path: str, host: str, status: int
) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(mail_server, path, host)
    assert refused.value.code == status
    refused.value.close()


def test_oldest_mails_are_removed(mail_server: SimpleNamespace) -> None:
    for number in range(MAX_MAILS + 2):
        (mail_server.folder / f"20200101-000000-{number:04}.eml").write_text("Subject: old\n\nx")
    (mail_server.folder / "20200101-000000-0000.html").write_text("x")
    send(mail_server, "the newest")
    stored = sorted(path.name for path in mail_server.folder.glob("*.eml"))
    assert len(stored) == MAX_MAILS
    assert "20200101-000000-0000.eml" not in stored
    assert not (mail_server.folder / "20200101-000000-0000.html").exists()
    assert "the newest" in get(mail_server, "/")[1]
