"""Rejects secrets that are public or easy to guess where they would protect something real.

Demonstration secrets (docker-compose.yml) and placeholders (k8s/02-secrets.yaml) are published with
this code, and others are as good as published: repetitions, sequences, a few common words.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from math import log2
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from shared.config.checks import is_loopback

# If one of these leads to a real server, this is a production environment.
ADDRESSES = ("provider_url", "public_url", "oidc_issuer", "smtp_url")
# Suffixes of names that only a private network knows.
PRIVATE_SUFFIXES = (".local", ".internal", ".svc", ".lan", ".home.arpa", ".test")

DEMO_PREFIX = "demo-"
PUBLISHED = re.compile(r"demo-|change[-_ ]?me|<|your[-_ ]", re.IGNORECASE)
# Secrets that the operator invents, with the least number of bits that each must have. A random
# text of 16 hexadecimal digits is estimated at 51 bits. Other secrets are
# issued by other services.
MIN_BITS = {
    "api_bootstrap_token": 36,
    "secret_key": 36,
    "metrics_token": 36,
    "database_url": 14,
    "redis_url": 14,
}
COMMON_WORDS = re.compile(
    "admin|bootstrap|change|database|default|demo|example|letmein|metrics|notifications?|pass|"
    "password|placeholder|postgres|provider|qwerty|redis|sample|secret|test|token|trial|welcome",
    re.IGNORECASE,
)


def find_unsuitable_secrets(
    settings: Mapping[str, object], environment: Mapping[str, str]
) -> str | None:
    """Return the line to exit with if a real environment has a public or weak secret, else None."""
    real = " or ".join(
        name.upper()
        for name in ADDRESSES
        if is_real(_text(settings.get(name)) or environment.get(name.upper(), ""))
    )
    if not real:
        return None
    secrets = {name: secret for name, value in settings.items() if (secret := _secret_of(value))}
    published = [name for name, secret in secrets.items() if PUBLISHED.match(secret)]
    if published:
        return (
            f"{_list_settings(published)}: the demonstration's secrets and the placeholders of the"
            f" manifests are public and must not be used with a real {real}: set your own"
            " (`openssl rand -hex 24` generates one)"
        )
    weak = [
        name
        for name, secret in secrets.items()
        if name in MIN_BITS and estimate_bits(secret) < MIN_BITS[name]
    ]
    if weak:
        return (
            f"{_list_settings(weak)}: too easy to guess for use with a real {real}: set a random"
            " secret (`openssl rand -hex 24` generates one)"
        )
    return None


def find_demo_settings(settings: Iterable[tuple[str, object]]) -> list[str]:
    """Return the names of the settings that hold a demonstration secret."""
    return [name.upper() for name, value in settings if _secret_of(value).startswith(DEMO_PREFIX)]


def is_real(url: str) -> bool:
    """Return whether a URL leads out of this machine and its private network, or uses TLS."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    if not host or is_loopback(host):
        return False
    if url.startswith(("https://", "smtps://")):
        return True
    try:
        return ip_address(host).is_global
    except ValueError:  # a name
        return "." in host and not host.endswith((*PRIVATE_SUFFIXES, ".svc.cluster.local"))


def estimate_bits(secret: str) -> float:
    """Estimate how many bits of randomness a secret has, from how varied its characters are.

    Common words, sequences (abc, 321), repeated characters and repeated blocks count nothing.
    """
    rest = COMMON_WORDS.sub("", secret)
    rest = "".join(_drop_sequences(rest))
    if not rest:
        return 0.0
    period = (rest + rest).find(rest, 1)
    counts = Counter(rest[:period])
    return -sum(n * log2(n / period) for n in counts.values())


def _drop_sequences(text: str) -> Iterable[str]:
    """Yield the characters that do not continue a run with the same step of -1, 0 or 1."""
    step: int | None = None
    for previous, character in zip(" " + text, text, strict=False):
        last, step = step, ord(character) - ord(previous)
        if step != last or abs(step) > 1:
            yield character


def _list_settings(names: list[str]) -> str:
    plural = "s" if len(names) > 1 else ""
    return f"setting{plural} {', '.join(name.upper() for name in names)}"


def _text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return value if isinstance(value, str) else ""


def _secret_of(value: object) -> str:
    """Return the secret of a setting: its value, or the password in a URL; else an empty text."""
    text = _text(value)
    if "://" in text:
        return unquote(urlsplit(text).password or "")
    return text if isinstance(value, SecretStr) else ""
