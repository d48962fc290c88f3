"""Clients that common generators make from the OpenAPI document compile, and work."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from tests.support.programs import require_program
from tests.support.system import TOKEN, System

SOURCES = Path(__file__).parent / "generated_clients"
GENERATOR = ("openapi-generator-cli==7.17.0", "openapi-generator-cli")
PYTHON_CLIENT = ("openapi-python-client==0.29.1", "openapi-python-client")
TSC_OPTIONS = ("--strict", "--noUncheckedIndexedAccess", "--skipLibCheck", "--target", "es2022")
POM_SETTINGS = ("-B", "-q", "-Dmaven.test.skip=true", "-Dmaven.javadoc.skip=true")

# Each command lives for seconds: a compiler that optimises for hours costs twice what it gives.
JAVA_OPTIONS = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"

_phones = itertools.count(79_410_000_000)


@pytest.fixture(scope="module")
def document(system: System, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The document of the running API, as a file."""
    path: Path = tmp_path_factory.mktemp("document") / "openapi.json"
    answer = requests.get(f"http://127.0.0.1:{system.api_port}/apidoc/openapi.json", timeout=10)
    path.write_bytes(answer.content)
    return path


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the TypeScript compiler and the linters, as locked."""
    require_program("npm")
    folder: Path = tmp_path_factory.mktemp("node")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(SOURCES / name, folder)
    run(folder, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
    return folder / "node_modules"


def run(folder: Path, *command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(each) for each in command],
        cwd=folder,
        env={
            **os.environ,
            "NO_PROXY": "127.0.0.1",
            "JAVA_TOOL_OPTIONS": JAVA_OPTIONS,
            **environment,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{(done.stdout + done.stderr)[-5000:]}"
    return done.stdout


def run_python_tool(folder: Path, tool: tuple[str, str], *arguments: str | Path) -> str:
    """Run a tool of PyPI in an environment of its own."""
    package, command = tool
    uv = Path(sys.executable).with_name("uv")
    return run(folder, uv, "tool", "run", "--from", package, command, *arguments)


def generate(folder: Path, document: Path, language: str, *options: str) -> Path:
    """Make a client with openapi-generator; return its folder."""
    require_program("java")
    target = folder / "generated"
    arguments: list[str | Path] = ["generate", "-i", document, "-g", language, "-o", target]
    run_python_tool(folder, GENERATOR, *arguments, *options)
    return target


def journey_arguments(system: System) -> tuple[str, str, str]:
    return f"http://127.0.0.1:{system.api_port}", TOKEN, str(next(_phones))


def test_java(system: System, document: Path, tmp_path: Path) -> None:
    require_program("mvn")
    target = generate(tmp_path, document, "java")
    classpath_file = "-Dmdep.outputFile=classpath.txt"
    run(target, "mvn", *POM_SETTINGS, "compile", "dependency:build-classpath", classpath_file)
    classpath = f"target/classes:{(target / 'classpath.txt').read_text()}"
    run(target, "javac", "-cp", classpath, "-d", "target/classes", SOURCES / "Journey.java")
    output = run(target, "java", "-cp", classpath, "Journey", *journey_arguments(system))
    assert output.strip().endswith("done")


def test_go(system: System, document: Path, tmp_path: Path) -> None:
    require_program("go")
    target = generate(tmp_path, document, "go")
    run(target, "go", "mod", "edit", "-module", "generated")
    (target / "journey").mkdir()
    shutil.copy(SOURCES / "journey.go", target / "journey")
    run(target, "go", "vet", ".", "./journey")
    output = run(target, "go", "run", "./journey", *journey_arguments(system))
    assert output.strip().endswith("done")


def test_typescript_fetch(
    system: System, document: Path, node_modules: Path, tmp_path: Path
) -> None:
    generate(tmp_path, document, "typescript-fetch")
    shutil.copy(SOURCES / "journey.ts", tmp_path)
    compiler = node_modules / ".bin" / "tsc"
    run(tmp_path, compiler, *TSC_OPTIONS, "--module", "commonjs", "journey.ts")
    output = run(tmp_path, "node", "journey.js", *journey_arguments(system))
    assert output.strip().endswith("done")


def test_openapi_typescript(document: Path, node_modules: Path, tmp_path: Path) -> None:
    run(tmp_path, node_modules / ".bin" / "openapi-typescript", document, "-o", "schema.ts")
    shutil.copy(SOURCES / "types.ts", tmp_path)
    run(tmp_path, node_modules / ".bin" / "tsc", *TSC_OPTIONS, "--noEmit", "types.ts")


def test_python(system: System, document: Path, tmp_path: Path) -> None:
    target = generate(tmp_path, document, "python")
    run_journey(target, "journey_generator.py", journey_arguments(system))


def test_openapi_python_client(system: System, document: Path, tmp_path: Path) -> None:
    target = tmp_path / "generated"
    arguments = ("--path", document, "--output-path", target, "--meta", "setup")
    output = run_python_tool(tmp_path, PYTHON_CLIENT, "generate", *arguments)
    assert "WARNING" not in output.upper(), output
    run_journey(target, "journey_python_client.py", journey_arguments(system))


def run_journey(package: Path, script: str, arguments: tuple[str, ...]) -> None:
    """Run a script with a generated package and its requirements installed."""
    uv = Path(sys.executable).with_name("uv")
    isolated = (uv, "run", "--no-project", "--with", package, "--python", sys.executable)
    output = run(package, *isolated, "python", SOURCES / script, *arguments)
    assert output.strip().endswith("done")


def test_linters_find_nothing(document: Path, node_modules: Path, tmp_path: Path) -> None:
    rules: dict[str, object] = {"extends": ["spectral:oas"]}
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    spectral = node_modules / ".bin" / "spectral"
    output = run(tmp_path, spectral, "lint", "--ruleset", "rules.json", "-F", "hint", document)
    assert "No results" in output
    redocly = node_modules / ".bin" / "redocly"
    # An id is a number, so /clients/by-phone/{phone} is not ambiguous; the rule ignores types.
    rules = {"extends": ["recommended"], "rules": {"no-ambiguous-paths": "off"}}
    (tmp_path / "redocly.yaml").write_text(json.dumps(rules))
    output = run(tmp_path, redocly, "lint", document, REDOCLY_TELEMETRY="off")
    assert "warning" not in output.lower(), output
