"""Checks of single settings. Each returns the value to use, or raises ValueError with the rule.

No message repeats the value, as it may contain a password.
"""

import re
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import psycopg2
from psycopg2.extensions import parse_dsn
from pydantic import SecretStr
from redis import ConnectionPool
from redis.exceptions import RedisError

from shared.domain.time_zones import TIME_ZONES

MAX_PORT = 65535
# With the other headers of a request, a longer token exceeds what many servers accept.
MAX_TOKEN_LENGTH = 6000
# ASCII only, as not every mail server accepts other addresses.
MAIL_ADDRESS = r"[A-Za-z0-9_.!#$%&'*+/=?^`{|}~-]+@[A-Za-z0-9.-]+"


def check_time_zone(name: str) -> str:
    if name not in TIME_ZONES:
        raise ValueError("must be an IANA time zone, for example Europe/Moscow")
    return name


def check_postgresql_url(url: str) -> str:
    if not url.startswith(("postgresql://", "postgres://")):
        raise ValueError("must start with postgresql://")
    url = "postgresql://" + url.split("://", 1)[1]
    try:
        ports = parse_dsn(url).get("port", "").split(",")
    except psycopg2.Error:
        ports = ["malformed"]
    if not all(port == "" or _is_port(port) for port in ports):
        raise ValueError(
            "must be postgresql://user:password@host:port/database, with special characters of"
            " the user and password percent-encoded"
        )
    return url


def check_redis_url(url: str) -> str:
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must start with redis://, rediss:// or unix://")
    try:
        pool = ConnectionPool.from_url(url)
        pool.connection_class(**pool.connection_kwargs)  # does not connect
        right = url.startswith("unix:") or bool(re.fullmatch(r"/?\d{0,5}", urlsplit(url).path))
    except (ValueError, TypeError, RedisError):
        right = False
    if not right:
        raise ValueError(
            "must be redis[s]://[user]:password@host:port/number, with special characters of the"
            " user and password percent-encoded"
        )
    return url


def check_https_url(url: str) -> str:
    parts = _split_http_url(url)
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise ValueError("must start with https:// (http:// only on this machine)")
    return url


def check_public_url(url: str) -> str:
    return check_https_url(url).rstrip("/")


def check_http_url(url: str) -> str:
    _split_http_url(url)
    return url.rstrip("/")


def check_smtp_url(url: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(url.get_secret_value())
        port_is_right = parts.port != 0
    except ValueError:
        port_is_right = False
    if not port_is_right or parts.scheme not in ("smtp", "smtps") or not parts.hostname:
        raise ValueError("must be smtp[s]://[user:password@]host[:port]")
    if parts.query and (parts.scheme, parts.query) != ("smtp", "starttls=never"):
        raise ValueError("may end in ?starttls=never (with smtp://) and in nothing else")
    return url


def check_token(token: SecretStr) -> SecretStr:
    """Accept what can be sent in an Authorization header."""
    text = token.get_secret_value()
    if re.match(r"bearer\b", text, re.IGNORECASE):
        raise ValueError("must be the token alone, without the word Bearer")
    if not re.fullmatch(r"[\x21-\x7e]+", text):
        raise ValueError("must be printable ASCII without spaces")
    if len(text) > MAX_TOKEN_LENGTH:
        raise ValueError(f"must be at most {MAX_TOKEN_LENGTH} characters long")
    return token


def parse_mail_addresses(text: str) -> list[str]:
    """Return the different addresses in a list with commas. Raise ValueError."""
    addresses = [part.strip() for part in text.split(",") if part.strip()]
    if not all(re.fullmatch(MAIL_ADDRESS, address) for address in addresses):
        raise ValueError("must be mail addresses with commas between them")
    return list({address.lower(): address for address in addresses}.values())


def parse_recipients(value: object) -> object:
    return parse_mail_addresses(value) if isinstance(value, str) else value


def check_folder(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


def check_time_of_day(text: object) -> object:
    if isinstance(text, str) and not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", text):
        raise ValueError("must be a time of day such as 09:00")
    return text


def check_sender(text: str) -> str:
    if not re.fullmatch(rf"{MAIL_ADDRESS}|[^<>\r\n\",@]+ <{MAIL_ADDRESS}>", text):
        raise ValueError("must be a mail address, or a name and the address in <>")
    return text


def check_bind(address: str) -> str:
    host, _, port = address.rpartition(":")
    is_tcp = (
        ":" in address
        and _is_port(port)
        and re.fullmatch(r"[\w.-]*|\[[0-9A-Fa-f:.]+\]", host, re.ASCII)
    )
    if not is_tcp and not re.fullmatch(r"unix:/.+", address):
        raise ValueError("must be host:port, such as 127.0.0.1:8000, or unix:/path")
    return address


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine. Names under .localhost are, too (RFC 6761)."""
    return host in ("localhost", "127.0.0.1", "::1") or host.endswith(".localhost")


def _split_http_url(url: str) -> SplitResult:
    if not url.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://")
    try:
        parts = urlsplit(url)
        right = bool(parts.hostname) and parts.port != 0
    except ValueError:
        right = False
    if not right or "@" in parts.netloc or "?" in url or "#" in url:
        right = False
    if not right or not re.fullmatch(r"[\x21-\x7e]+", url):
        raise ValueError("must be http[s]://host[:port][/path], in ASCII")
    return parts


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) <= MAX_PORT
