"""Checks of the container files and the pipeline that need no engine."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.config.settings import ApiSettings, Settings, WorkerSettings, load_settings
from tests.support.programs import require_program

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DOCKERFILES = ("Dockerfile.api", "Dockerfile.worker")
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")

SETTINGS = {name.upper() for kind in (ApiSettings, WorkerSettings) for name in kind.model_fields}
# Further variables that api/gunicorn_conf.py reads.
GUNICORN = {"API_BIND", "WEB_CONCURRENCY"}
OFFICIAL_IMAGES = {
    "docker",
    "grafana/grafana",
    "nginx",
    "postgres",
    "prom/prometheus",
    "python",
    "redis",
}
# The settings that our services read.
SETTINGS_BY_SERVICE = {
    "migrations": Settings,
    "api": ApiSettings,
    "scheduler": Settings,
    "control": WorkerSettings,
    "sweep": WorkerSettings,
    "dispatch": WorkerSettings,
}


def read(name: str) -> str:
    return (ROOT / name).read_text()


def interpolate(value: Any, env: dict[str, str]) -> Any:
    """Replace docker-compose's ${NAME:-default} in a document."""
    if isinstance(value, dict):
        return {key: interpolate(item, env) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, env) for item in value]
    if isinstance(value, str):
        return VARIABLE.sub(lambda m: env.get(m[1]) or m[2] or "", value)
    return value


def compose(**env: str) -> dict[str, Any]:
    document: dict[str, Any] = interpolate(yaml.safe_load(read("docker-compose.yml")), env)
    return document


SERVICES: dict[str, dict[str, Any]] = compose()["services"]
OUR_SERVICES = [
    name for name, service in SERVICES.items() if service["image"].startswith("notifications-")
]


def is_official(image: str) -> bool:
    name, _, tag = image.partition(":")
    return name in OFFICIAL_IMAGES and tag not in ("", "latest")


def run(*command: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfiles_pass_hadolint(name: str) -> None:
    run(str(BIN / "hadolint"), "--failure-threshold", "style", name)


@pytest.mark.parametrize(
    ("name", "schema"),
    [(".gitlab-ci.yml", "vendor.gitlab-ci"), ("docker-compose.yml", "vendor.compose-spec")],
)
def test_the_pipeline_and_compose_files_are_valid_by_their_schemas(name: str, schema: str) -> None:
    run(str(BIN / "check-jsonschema"), "--builtin-schema", schema, name)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_start_from_tagged_official_ones_and_run_as_a_numeric_user(name: str) -> None:
    text = read(name)
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", text, re.MULTILINE))
    for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        assert base in stages or is_official(base), f"{name} starts from {base}"
    assert re.findall(r"^USER (.*)", text, re.MULTILINE) == ["10001:10001"]
    # With a shell in between, signals would not reach the process.
    for command in re.findall(r"^(?:CMD|ENTRYPOINT) (.*)", text, re.MULTILINE):
        assert command.startswith("["), f"{name}: {command} is not in exec form"
    for variables in re.findall(r"^ENV ((?:.*\\\n)*.*)", text, re.MULTILINE):
        for variable in re.findall(r"(\w+)=", variables):
            known = SETTINGS | GUNICORN | {"PATH", "HOME"}
            assert variable in known or variable.startswith("PYTHON"), variable


@pytest.mark.parametrize("name", DOCKERFILES)
def test_files_that_images_copy_are_allowed_by_dockerignore(name: str) -> None:
    let_in = {line[1:] for line in read(".dockerignore").splitlines() if line.startswith("!")}
    for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", read(name), re.MULTILINE):
        for source in sources.split():
            assert any(path.split("/")[0] == source for path in let_in), f"{name}: {source}"
    assert all((ROOT / path).exists() for path in let_in)


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_built_here_or_official_with_a_tag(name: str) -> None:
    built = {
        service["image"]: service["build"] for service in SERVICES.values() if "build" in service
    }
    image = SERVICES[name]["image"]
    assert image in built or is_official(image), f"{image} is neither built here nor official"
    if image in built:
        assert (ROOT / built[image]["dockerfile"]).is_file()


@pytest.mark.parametrize("name", OUR_SERVICES)
def test_every_variable_is_a_known_setting(name: str) -> None:
    unknown = set(SERVICES[name]["environment"]) - SETTINGS - GUNICORN
    assert not unknown, f"{name} is given variables that it does not read: {unknown}"


@pytest.mark.parametrize("name", SETTINGS_BY_SERVICE)
def test_a_first_start_needs_no_preparation(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in SETTINGS:
        monkeypatch.delenv(variable, raising=False)
    for variable, value in SERVICES[name]["environment"].items():
        monkeypatch.setenv(variable, value)
    load_settings(SETTINGS_BY_SERVICE[name])
    # gunicorn reads it too and rejects an empty value.
    assert name != "api" or int(SERVICES[name]["environment"]["WEB_CONCURRENCY"]) > 0


def test_every_setting_is_passed_to_the_services_that_read_it() -> None:
    for name, kind in SETTINGS_BY_SERVICE.items():
        missing = {field.upper() for field in kind.model_fields} - set(
            SERVICES[name]["environment"]
        )
        assert not missing, f"{name} reads what docker-compose.yml does not pass on: {missing}"


def test_a_real_provider_replaces_the_simulated_one() -> None:
    assert SERVICES["dispatch"]["environment"]["PROVIDER_URL"] == "http://provider:8090"
    given = compose(PROVIDER_URL="https://sms.example", PROVIDER_TOKEN="t")["services"]
    for name in ("control", "dispatch"):
        assert given[name]["environment"]["PROVIDER_URL"] == "https://sms.example"
        assert given[name]["environment"]["PROVIDER_TOKEN"] == "t"


def test_default_secrets_begin_with_demo_or_are_empty() -> None:
    for name, default in VARIABLE.findall(read("docker-compose.yml")):
        if re.search("TOKEN|KEY|PASSWORD", name):
            assert not default or default.startswith("demo-"), f"{name}: {default!r}"


def test_env_example_lists_every_variable_without_a_value() -> None:
    named = re.findall(r"^(\w+)=(.*)$", read(".env.example"), re.MULTILINE)
    assert {name for name, _ in named} == {
        m[1] for m in VARIABLE.finditer(read("docker-compose.yml"))
    }
    assert not any(value for _, value in named), (
        "an example must not contain a secret that could be used"
    )


def demo() -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", read(".env.demo"), re.MULTILINE))


@pytest.mark.parametrize("name", SETTINGS_BY_SERVICE)
def test_the_demo_uses_its_own_sign_in_and_mail_catcher(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = demo()
    assert output.pop("COMPOSE_PROFILES") == "demo"
    assert output.keys() <= {m[1] for m in VARIABLE.finditer(read("docker-compose.yml"))}
    services = compose(**output)["services"]
    for variable in SETTINGS:
        monkeypatch.delenv(variable, raising=False)
    for variable, value in services[name]["environment"].items():
        monkeypatch.setenv(variable, value)
    settings = load_settings(SETTINGS_BY_SERVICE[name])
    if isinstance(settings, ApiSettings):
        issuer = settings.oidc_issuer
        command = services["openid"]["command"]
        assert command[command.index("--issuer") + 1] == issuer
        assert issuer == f"http://{services['openid']['networks']['public']['aliases'][0]}:8070"
        assert settings.public_url == f"http://{services['proxy']['ports'][0].rpartition(':')[0]}"
    if isinstance(settings, ApiSettings | WorkerSettings):
        assert settings.smtp_url is not None
        port = services["mail"]["command"][services["mail"]["command"].index("--port") + 1]
        assert settings.smtp_url.get_secret_value() == f"smtp://mail:{port}?starttls=never"
        assert set(services[name]["networks"]) & set(services["mail"]["networks"]) or (
            name in ("dispatch", "sweep")  # which send no mail
        )


@pytest.mark.parametrize("name", SETTINGS_BY_SERVICE)
def test_demo_secrets_are_rejected_with_a_real_provider(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in SETTINGS:
        monkeypatch.delenv(variable, raising=False)
    real = {"PROVIDER_URL": "https://sms.example", "PROVIDER_TOKEN": "a-real-token"}
    for variable, value in compose(**real)["services"][name]["environment"].items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit, match=r"demonstration's secrets.* real PROVIDER_URL"):
        load_settings(SETTINGS_BY_SERVICE[name])
    # With own secrets it starts.
    named = re.findall(r"^(\w+)=", read(".env.example"), re.MULTILINE)
    own = {n: "of-my-own-making" for n in named if re.search("TOKEN|KEY|PASSWORD|SECRET", n)}
    for variable, value in compose(**{**own, **real})["services"][name]["environment"].items():
        monkeypatch.setenv(variable, value)
    load_settings(SETTINGS_BY_SERVICE[name])


def test_only_the_proxy_is_published_and_only_to_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published.pop("proxy") == ["127.0.0.1:8000:8080"]
    assert published == {
        "openid": ["127.0.0.1:8070:8070"],
        "mail": ["127.0.0.1:8025:8025"],
        "grafana": ["127.0.0.1:3000:3000"],
    }
    for name in published:
        profile = "demo" if name in ("openid", "mail") else "monitoring"
        assert SERVICES[name]["profiles"] == [profile]
    assert compose()["networks"]["data"] == {"internal": True}
    for name in ("postgres", "redis"):
        assert SERVICES[name]["networks"] == ["data"]


@pytest.mark.parametrize("name", OUR_SERVICES)
def test_our_containers_are_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp:size=64m"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"mem_limit", "pids_limit", "stop_grace_period", "logging"} <= set(service)
    assert isinstance(service.get("command", []), list), (
        "with a shell, signals would not reach the process"
    )
    assert not {"user", "privileged", "cap_add"} & set(service)


def test_the_proxy_is_confined_and_reaches_only_the_api() -> None:
    proxy = SERVICES["proxy"]
    assert proxy["user"] == "101:101"
    assert proxy["read_only"] is True
    assert proxy["cap_drop"] == ["ALL"]
    assert proxy["security_opt"] == ["no-new-privileges:true"]
    assert proxy["networks"] == ["public"]
    assert [volume.rpartition(":")[0] for volume in proxy["volumes"]] == [
        "./deploy/nginx/nginx.conf:/etc/nginx/notifications.conf",
        "proxy-buffers",
    ]
    assert proxy["volumes"][0].endswith(":ro")


@pytest.mark.parametrize("name", ["api", "scheduler", "control", "sweep", "dispatch"])
def test_services_that_need_the_schema_wait_for_it(name: str) -> None:
    condition = SERVICES[name]["depends_on"]["migrations"]["condition"]
    assert condition == "service_completed_successfully"


@pytest.mark.parametrize("options", [(), ("--env-file", ".env.demo")], ids=["plain", "demo"])
def test_docker_compose_accepts_its_file(options: tuple[str, ...]) -> None:
    run(
        require_program("docker-compose"), "--project-name", "judged", *options, "config", "--quiet"
    )


def test_the_compose_file_uses_only_features_of_version_1() -> None:
    document = yaml.safe_load(read("docker-compose.yml"))
    plain = {"services", "networks", "volumes"}
    assert {key for key in document if not key.startswith("x-")} == plain
    for service in document["services"].values():
        assert not {"develop", "env_file", "pull_policy", "secrets"} & set(service)


def test_the_pipeline_runs_make_targets_on_official_images() -> None:
    pipeline = yaml.safe_load(read(".gitlab-ci.yml"))
    targets = set(re.findall(r"^([a-z-]+):.*## ", read("Makefile"), re.MULTILINE))
    called = set()
    for job in pipeline.values():
        if not isinstance(job, dict):
            continue
        for line in job.get("script", ()):
            called |= set(re.findall(r"\bmake ([a-z-]+)", line))
        images = [service["name"] for service in job.get("services", ())]
        images += [job["image"]] if "image" in job else []
        for image in images:
            assert is_official(image), image
    assert called >= {"lint", "test"}
    assert called <= targets
