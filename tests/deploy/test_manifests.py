"""Checks of the container files and the pipeline that need no engine."""

import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.mail import PASSWORD, USER
from dev.openid import CLIENT_SECRET
from shared.config.settings import (
    ApiSettings,
    DatabaseSettings,
    ReportSettings,
    Settings,
    WorkerSettings,
    load_settings,
)
from tests.support.programs import require_program
from tests.support.waiting import COMMAND_SECONDS

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DOCKERFILES = ("Dockerfile.api", "Dockerfile.worker")
VARIABLE = re.compile(r"\$\{(\w+)(?:(:?)-([^}]*))?\}")

SETTINGS = {name.upper() for kind in (ApiSettings, WorkerSettings) for name in kind.model_fields}
# Further variables that api/gunicorn_conf.py reads.
GUNICORN = {"API_BIND", "WEB_CONCURRENCY", "PROMETHEUS_MULTIPROC_DIR"}
OFFICIAL_IMAGES = {
    "aquasec/trivy",
    "docker",
    "grafana/grafana",
    "nginx",
    "postgres",
    "prom/prometheus",
    "python",
    "redis",
}
# The settings that our services read.
SETTINGS_BY_SERVICE: dict[str, type[DatabaseSettings]] = {
    "migrations": Settings,
    "api": ApiSettings,
    "scheduler": Settings,
    "control": WorkerSettings,
    "sweep": WorkerSettings,
    "dispatch": WorkerSettings,
    "report": ReportSettings,
}
# What the demonstration simulates. The other services are the product, its servers and monitoring.
SIMULATED = ("provider", "openid", "mail")
MONITORING = ("prometheus", "grafana")
# What the file `version` of docker-compose 1.29 permits, where it differs from today's.
PULL_POLICIES = {"always", "never", "if_not_present", "build"}


def read(name: str) -> str:
    return (ROOT / name).read_text()


def interpolate(value: Any, env: dict[str, str]) -> Any:
    """Replace docker-compose's ${NAME:-default} and ${NAME-default} in a document."""
    if isinstance(value, dict):
        return {key: interpolate(item, env) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, env) for item in value]
    if isinstance(value, str):
        return VARIABLE.sub(partial(_replace, env), value)
    return value


def _replace(env: dict[str, str], match: re.Match[str]) -> str:
    name, colon, default = match.groups()
    if name in env and (env[name] or not colon):
        return env[name]
    return default or ""


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
        command, cwd=ROOT, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfiles_pass_hadolint(name: str) -> None:
    run(str(BIN / "hadolint"), "--failure-threshold", "style", name)


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        (".gitlab-ci.yml", "vendor.gitlab-ci"),
        ("docker-compose.yml", "vendor.compose-spec"),
        ("renovate.json", "vendor.renovate"),
    ],
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
            known = SETTINGS | GUNICORN | {"PATH", "HOME", "MALLOC_ARENA_MAX"}
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
    for name, _, default in VARIABLE.findall(read("docker-compose.yml")):
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


def start_with(name: str, monkeypatch: pytest.MonkeyPatch, **env: str) -> DatabaseSettings:
    """Read the settings of a service as docker-compose with these variables passes them."""
    for variable in SETTINGS:
        monkeypatch.delenv(variable, raising=False)
    for variable, value in compose(**env)["services"][name]["environment"].items():
        monkeypatch.setenv(variable, value)
    return load_settings(SETTINGS_BY_SERVICE[name])


def test_a_bare_start_has_sign_in_and_mails(monkeypatch: pytest.MonkeyPatch) -> None:
    api = start_with("api", monkeypatch)
    assert isinstance(api, ApiSettings)
    command = SERVICES["openid"]["command"]
    assert command[command.index("--issuer") + 1] == api.oidc_issuer
    alias = SERVICES["openid"]["networks"]["public"]["aliases"][0]
    assert api.oidc_issuer == f"http://{alias}:8070"
    assert api.oidc_client_secret is not None
    assert api.oidc_client_secret.get_secret_value() == CLIENT_SECRET
    published = SERVICES["nginx"]["ports"][0].rpartition(":")[0]
    assert api.public_url == f"http://{published}"
    assert api.demo_mail_page == f"http://{SERVICES['mail']['ports'][0].rpartition(':')[0]}"
    provider = SERVICES["provider"]["ports"][0].rpartition(":")[0]
    assert api.demo_provider_page == f"http://{provider}/control/requests"
    report = start_with("report", monkeypatch)
    assert isinstance(report, ReportSettings)
    command = SERVICES["mail"]["command"]
    port = command[command.index("--port") + 1]
    for settings in (api, report):
        assert settings.smtp_url is not None
        user, password = (each.decode() for each in (USER, PASSWORD))
        wanted = f"smtp://{user}:{password}@mail:{port}?starttls=never"
        assert settings.smtp_url.get_secret_value() == wanted
        assert settings.report_recipients
    for name in ("api", "report"):
        assert set(SERVICES[name]["networks"]) & set(SERVICES["mail"]["networks"])


def test_empty_variables_switch_off_sign_in_and_report(monkeypatch: pytest.MonkeyPatch) -> None:
    copied = dict.fromkeys(re.findall(r"^(\w+)=", read(".env.example"), re.MULTILINE), "")
    api = start_with("api", monkeypatch, **copied)
    assert isinstance(api, ApiSettings)
    assert api.oidc_issuer is None
    for settings in (api, start_with("report", monkeypatch, **copied)):
        assert isinstance(settings, ReportSettings)
        assert settings.smtp_url is None


def test_only_monitoring_has_a_profile() -> None:
    profiles = {n: each["profiles"] for n, each in SERVICES.items() if "profiles" in each}
    assert profiles == {name: ["monitoring"] for name in MONITORING}
    assert {*SETTINGS_BY_SERVICE, *SIMULATED, "nginx", "postgres", "redis"} == (
        SERVICES.keys() - set(MONITORING)
    )


def own_secrets() -> dict[str, str]:
    named = re.findall(r"^(\w+)=", read(".env.example"), re.MULTILINE)
    return {n: "of-my-own-making" for n in named if re.search("TOKEN|KEY|PASSWORD|SECRET", n)}


@pytest.mark.parametrize("name", SETTINGS_BY_SERVICE)
def test_demo_secrets_are_rejected_with_a_real_provider(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = {"PROVIDER_URL": "https://sms.example"}
    with pytest.raises(SystemExit, match=r"demonstration's secrets.* real PROVIDER_URL"):
        start_with(name, monkeypatch, **real)
    # With own secrets and without the mail catcher it starts.
    start_with(name, monkeypatch, **own_secrets(), **real, SMTP_URL="")


@pytest.mark.parametrize("setting", ["SMTP_URL", "OIDC_CLIENT_SECRET"])
def test_the_demos_mail_server_and_sign_in_are_rejected_with_a_real_provider(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = {**own_secrets(), "PROVIDER_URL": "https://sms.example", "SMTP_URL": ""}
    del real[setting]
    with pytest.raises(SystemExit, match=f"setting {setting}: the demonstration's secrets"):
        start_with("api", monkeypatch, **real)


def test_ports_are_published_to_this_machine_only() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {
        "nginx": ["127.0.0.1:8000:8080"],
        "provider": ["127.0.0.1:8090:8090"],
        "openid": ["127.0.0.1:8070:8070"],
        "mail": ["127.0.0.1:8025:8025"],
        "grafana": ["127.0.0.1:3000:3000"],
    }
    assert compose()["networks"]["data"] == {"internal": True}
    for name in ("postgres", "redis"):
        assert SERVICES[name]["networks"] == ["data"]
    # The control API of the simulated provider has no authentication.
    assert not set(SERVICES["provider"]["networks"]) & set(SERVICES["api"]["networks"])


def test_services_start_when_what_they_need_is_healthy() -> None:
    ordered = {
        name: service["depends_on"]
        for name, service in SERVICES.items()
        if isinstance(service.get("depends_on"), dict)  # a list: the order alone
    }
    assert {*SETTINGS_BY_SERVICE, "nginx"} <= ordered.keys()
    waits = {
        (name, needed): each["condition"]
        for name, conditions in ordered.items()
        for needed, each in conditions.items()
    }
    # The one service that ends, and the one that only has to have been built.
    kinds = {"migrations": "service_completed_successfully", "scheduler": "service_started"}
    for (name, needed), condition in waits.items():
        assert condition == kinds.get(needed, "service_healthy"), f"{name} waits for {needed}"
    needs = {"nginx": "api", "dispatch": "provider", "control": "provider", "report": "mail"}
    assert set(needs.items()) <= waits.keys()


def test_images_are_built_here_and_never_pulled() -> None:
    for name in OUR_SERVICES:
        wanted = "build" if "build" in SERVICES[name] else "never"
        assert SERVICES[name]["pull_policy"] == wanted


@pytest.mark.parametrize("name", OUR_SERVICES)
def test_our_containers_are_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    metrics = service["environment"].get("PROMETHEUS_MULTIPROC_DIR")
    own = [f"{metrics}:size=16m,mode=1777"] if metrics else []
    assert service["tmpfs"] == ["/tmp:size=64m", *own]
    assert (name == "api") == bool(metrics), "its metrics need a file system of their own"
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"mem_limit", "pids_limit", "stop_grace_period", "logging"} <= set(service)
    assert isinstance(service.get("command", []), list), (
        "with a shell, signals would not reach the process"
    )
    assert not {"user", "privileged", "cap_add"} & set(service)


def test_nginx_is_confined_and_reaches_only_the_api() -> None:
    nginx = SERVICES["nginx"]
    assert nginx["user"] == "101:101"
    assert nginx["read_only"] is True
    assert nginx["cap_drop"] == ["ALL"]
    assert nginx["security_opt"] == ["no-new-privileges:true"]
    assert nginx["networks"] == ["public"]
    assert [volume.rpartition(":")[0] for volume in nginx["volumes"]] == [
        "./deploy/nginx/nginx.conf:/etc/nginx/notifications.conf",
        "nginx-buffers",
    ]
    assert nginx["volumes"][0].endswith(":ro")


@pytest.mark.parametrize("name", ["api", "scheduler", "control", "sweep", "dispatch", "report"])
def test_services_that_need_the_schema_wait_for_it(name: str) -> None:
    condition = SERVICES[name]["depends_on"]["migrations"]["condition"]
    assert condition == "service_completed_successfully"


def test_docker_compose_accepts_its_file() -> None:
    run(require_program("docker-compose"), "--project-name", "judged", "config", "--quiet")


def test_the_compose_file_uses_only_features_of_version_1() -> None:
    document = yaml.safe_load(read("docker-compose.yml"))
    plain = {"services", "networks", "volumes"}
    assert {key for key in document if not key.startswith("x-")} == plain
    for service in document["services"].values():
        assert not {"develop", "env_file", "secrets"} & set(service)
        assert service.get("pull_policy", "never") in PULL_POLICIES


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
        if "image" in job:
            image = job["image"]
            images.append(image["name"] if isinstance(image, dict) else image)
        for image in images:
            assert is_official(image), image
    assert called >= {"lint", "test"}
    assert called <= targets
