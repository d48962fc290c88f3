"""Build Kustomize overlays with kubectl or kustomize, whichever is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.cluster import ROOT, Object
from tests.support.waiting import COMMAND_SECONDS

PRODUCTION = ROOT / "deploy/kubernetes/production"


def build_overlay(directory: Path) -> list[Object]:
    """Return the objects of an overlay; skip the test where no program can build it."""
    if shutil.which("kustomize"):
        command = ["kustomize", "build"]
    elif shutil.which("kubectl"):
        command = ["kubectl", "kustomize"]
    else:
        pytest.skip(
            "neither kubectl nor kustomize is installed (https://kubectl.docs.kubernetes.io)"
        )
    done = subprocess.run(
        [*command, str(directory)],
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def copy_of_production(directory: Path, *components: str) -> Path:
    """Return a copy of the overlay in a copy of the checkout, with optional parts switched on."""
    for folder in ("k8s", "deploy"):
        shutil.copytree(ROOT / folder, directory / folder, symlinks=True)
    overlay = directory / PRODUCTION.relative_to(ROOT)
    file = overlay / "kustomization.yaml"
    text = file.read_text()
    for component in components:
        line = f"- ../../../k8s/optional/{component}\n"
        assert f"  # {line}" in text, f"{file} does not offer {component}"
        text = text.replace(f"  # {line}", f"  {line}")
    file.write_text(text)
    return overlay
