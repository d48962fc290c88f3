"""The GitLab pipeline calls targets of the Makefile and deploys the manifests."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.cluster import ROOT, Object, containers, read, title, workloads
from tests.support.cluster_rules import OUR_IMAGES
from tests.support.overlays import build_overlay

PIPELINE: dict[str, Any] = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text())
GLOBAL = {"stages", "workflow", "default"}
IMAGES = "registry.gitlab.com/acme/tools/notify"
DIGEST = f"sha256:{'5f0c' * 16}"
JOBS = {name: job for name, job in PIPELINE.items() if name not in GLOBAL and name[0] != "."}


def test_the_pipeline_runs_every_required_make_target() -> None:
    called = {
        name: re.findall(r"\bmake ([a-z-]+)", line)
        for name, job in JOBS.items()
        for line in job["script"]
        if "make " in line
    }
    assert called == {
        "lint": ["lint"],
        "manifests": ["manifests"],
        "test": ["test"],
        "browser tests": ["test-browser"],
        "audit": ["audit"],
    }
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {target for found in called.values() for target in found} <= set(targets)
    assert {job.get("stage", "check") for job in JOBS.values()} == set(PIPELINE["stages"])


def test_test_jobs_use_the_services_of_the_pipeline() -> None:
    test = JOBS["test"]
    services = {service["alias"] for service in test["services"]}
    named = test["variables"]
    user, password = named["POSTGRES_USER"], named["POSTGRES_PASSWORD"]
    assert services == {"postgres", "redis"}
    assert named["TEST_DATABASE_URL"] == (
        f"postgresql://{user}:{password}@postgres:5432/{named['POSTGRES_DB']}"
    )
    assert named["TEST_REDIS_URL"] == "redis://redis:6379/0"
    [left_out] = re.findall(r"--ignore=(\S+)", named["PYTEST_ADDOPTS"])
    browser = (ROOT / "Makefile").read_text()
    assert re.search(rf"^test-browser:.*\n\t.* {left_out}$", browser, re.MULTILINE)


def test_kubectl_is_pinned_by_a_checksum_of_this_repository() -> None:
    deploy = PIPELINE[".kubectl"]
    assert JOBS["deploy"]["extends"] == ".kubectl"
    assert re.fullmatch(r"[0-9a-f]{64}", deploy["variables"]["KUBECTL_SHA256"])
    fetched = [line for line in deploy["before_script"] if "curl" in line]
    assert len(fetched) == 1, "the checksum must not come from where kubectl does"
    checks = [line for line in deploy["before_script"] if "sha256sum --check" in line]
    assert checks == ['echo "$KUBECTL_SHA256  kubectl" | sha256sum --check']


def test_every_built_image_is_scanned_and_listed() -> None:
    built = [row["ROOM"] for row in JOBS["build images"]["parallel"]["matrix"]]
    scan = JOBS["scan images"]
    assert scan["parallel"]["matrix"] == [{"ROOM": built}]
    assert scan["artifacts"]["paths"] == ["sbom-*.cdx.json"]


def test_the_scanner_is_named_by_its_digest() -> None:
    """It gets the password of the registry, and its tags have been moved by others before."""
    scanner = JOBS["scan images"]["image"]["name"]
    assert re.fullmatch(r"aquasec/trivy:[\d.]+@sha256:[0-9a-f]{64}", scanner)


def test_updates_cover_images_packages_and_the_pipeline() -> None:
    config = json.loads((ROOT / "renovate.json").read_text())
    assert "docker:pinDigests" in config["extends"]
    managers = {"dockerfile", "docker-compose", "gitlabci", "kubernetes", "pip_requirements"}
    assert set(config["enabledManagers"]) == {*managers, "custom.regex"}
    pattern = config["customManagers"][0]["matchStrings"][0]
    named = re.search(pattern.replace("(?<", "(?P<"), (ROOT / ".gitlab-ci.yml").read_text())
    assert named is not None
    assert named["currentValue"] == PIPELINE[".kubectl"]["variables"]["KUBECTL_VERSION"]


def test_every_image_of_the_manifests_is_built() -> None:
    built = {row["ROOM"]: row["BUILD"] for row in JOBS["build images"]["parallel"]["matrix"]}
    assert built == {
        room: f"--file {file}" + (f" --target {stage}" if stage else "")
        for room, (file, stage) in OUR_IMAGES.items()
    }


@pytest.fixture
def applied(tmp_path: Path) -> list[Object]:
    """What the deployment hands to kubectl: its own lines, run up to that."""
    deploy = JOBS["deploy"]
    for folder in ("k8s", "deploy"):
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True)
    for room in ("api", "worker"):
        (tmp_path / f"digest-{room}.txt").write_text(f"{IMAGES}/{room}@{DIGEST}\n")
    lines = deploy["script"]
    upto = next(n for n, line in enumerate(lines) if line.startswith("kubectl apply"))
    assert lines[upto] == 'kubectl apply -k "$OVERLAY"'
    environment = {"PATH": os.environ["PATH"], **deploy["variables"]}
    for line in lines[:upto]:
        subprocess.run(["bash", "-euc", line], cwd=tmp_path, env=environment, check=True)
    return build_overlay(tmp_path / deploy["variables"]["OVERLAY"])


def test_a_deployment_takes_this_commits_images_and_leaves_the_secret(
    applied: list[Object],
) -> None:
    left = {title(each) for each in read(ROOT / "k8s")} - {title(each) for each in applied}
    assert left == {"Secret/notifications-secrets"}
    images = {c["image"] for each in workloads(applied) for c in containers(each)}
    assert {image.partition("@")[0] for image in images} == {
        "postgres:17",
        "redis:8",
        *(f"{IMAGES}/{room}" for room in ("api", "worker")),
    }
    assert {image.partition("@")[2] for image in images if image.startswith(IMAGES)} == {DIGEST}


def test_the_build_records_the_digest_that_it_pushed() -> None:
    build = JOBS["build images"]
    [line] = [each for each in build["script"] if "RepoDigests" in each]
    assert build["script"].index(line) > build["script"].index(
        'docker push "$IMAGE:$CI_COMMIT_SHA"'
    )
    assert build["artifacts"]["paths"] == ["digest-*.txt"]


def test_a_deployment_waits_for_everything_it_rolls_out() -> None:
    [line] = [each for each in JOBS["deploy"]["script"] if "rollout status" in each]
    names = re.findall(r"in ([a-z ]+);", line)[0].split()
    assert names == [
        each["metadata"]["name"]
        for each in workloads(read(ROOT / "k8s"))
        if each["kind"] == "Deployment"
    ]


def test_a_deployment_is_manual_and_never_concurrent() -> None:
    deploy = JOBS["deploy"]
    assert all(rule["when"] == "manual" for rule in deploy["rules"])
    assert deploy["environment"]["name"] == deploy["resource_group"] == "production"
    assert deploy["interruptible"] is False
