"""The greeting of `make run` and the READMEs' *Try it*."""

import re
from pathlib import Path

import pytest
import yaml

from dev.stack.greeting import TRY_IT, make_greeting, try_it_commands
from dev.stack.settings import DEMO_TOKEN, ROOT, Settings


@pytest.mark.parametrize("readme", ["README.md", "README.ru.md"])
def test_readme_contains_the_try_it_commands_verbatim(readme: str) -> None:
    block = f"```\n{TRY_IT.read_text()}```\n"
    assert block in (ROOT / readme).read_text(), (
        f"{readme} must contain docs/examples/try-it.sh verbatim: copy it into the section *Try it*"
    )


def test_demo_token_is_the_same_everywhere() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    default = compose["services"]["api"]["environment"]["API_BOOTSTRAP_TOKEN"]
    assert default == f"${{API_BOOTSTRAP_TOKEN:-{DEMO_TOKEN}}}"
    assert f"TOKEN={DEMO_TOKEN} " in TRY_IT.read_text()


def test_local_stack_uses_the_demo_token_only_with_its_own_services(tmp_path: Path) -> None:
    demo = Settings.from_environment({"LOCAL_DIR": str(tmp_path)})
    assert demo.load_secrets({})["API_BOOTSTRAP_TOKEN"] == DEMO_TOKEN
    chosen = "chosen-token-chosen-token"
    environment = {"API_BOOTSTRAP_TOKEN": chosen}
    assert demo.load_secrets(environment)["API_BOOTSTRAP_TOKEN"] == chosen
    for name in ("DATABASE_URL", "REDIS_URL", "PROVIDER_URL", "OIDC_ISSUER"):
        environment = {
            "LOCAL_DIR": str(tmp_path),
            name: "https://example.com",
            "PROVIDER_TOKEN": "t",
        }
        secrets = Settings.from_environment(environment).load_secrets(environment)
        assert re.fullmatch(r"[\w-]{40,}", secrets["API_BOOTSTRAP_TOKEN"])


def test_greeting_names_the_real_folders_and_prints_the_commands(tmp_path: Path) -> None:
    settings = Settings.from_environment({"LOCAL_DIR": str(tmp_path), "API_PORT": "8123"})
    environment = {
        "API_BOOTSTRAP_TOKEN": "another-token",
        "PROVIDER_URL": "http://127.0.0.1:8090",
        "DATABASE_URL": "postgresql://127.0.0.1/x",
        "REDIS_URL": "redis://127.0.0.1/0",
    }
    inside = make_greeting(settings, environment, tmp_path / "postgres/data", 1.0)
    assert f"data        {tmp_path}\n" in inside
    assert try_it_commands(8123, "another-token") in inside
    assert "TOKEN=another-token API=http://127.0.0.1:8123/api/v1\n" in inside
    outside = make_greeting(settings, environment, Path("/var/tmp/pg/data"), 1.0)
    assert f"data        {tmp_path}, and PostgreSQL's in /var/tmp/pg/data\n" in outside
