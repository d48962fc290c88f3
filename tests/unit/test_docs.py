"""What the documentation names is there: links, files, tests, commands, settings, operations.

And its two READMEs say the same, and the version stands in one place.
"""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import click
import pytest
import yaml
from flask_migrate.cli import db as migration_commands

from api import create_app
from api.cli.clients import client_commands
from api.cli.logs import log_commands
from api.cli.reports import report_commands
from api.cli.tokens import token_commands
from api.openapi.operation import spec
from shared import __version__

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^( *)```\w*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
ROOMS = "api|worker|shared|dev|tests|docs|deploy|k8s"
FILE = re.compile(rf"(?<![\w/.])(?:{ROOMS})/[\w./-]+\w")
NAME = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")
COMMANDS = click.Group(
    commands=[log_commands, client_commands, report_commands, token_commands, migration_commands]
)


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def blocks(page: Path) -> list[str]:
    return [found[1] for found in FENCE.findall(page.read_text())]


def code(page: Path) -> Iterator[str]:
    """All that is meant literally: spans in the text, and lines of blocks with continuations."""
    yield from CODE.findall(prose(page))
    for block in blocks(page):
        yield from re.sub(r"\\\n\s*|\|\n\s*", " ", block).splitlines()


@cache
def anchors(page: Path) -> frozenset[str]:
    """The headings' addresses, as GitLab makes them."""
    titles = (title for _, title in HEADING.findall(prose(page)))
    plain = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return frozenset(title.replace(" ", "-") for title in plain)


@cache
def tracked() -> str:
    """All code and configuration, for asking whether a name is known there."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    kinds = (".py", ".yml", ".yaml", ".sh", ".example", ".demo", "Makefile", ".api", ".worker")
    own = page_id(Path(__file__))
    files = (ROOT / name for name in listed if name.endswith(kinds) and name != own)
    return "\n".join(file.read_text() for file in files if file.is_file())


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = unquote(target).partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page_id(page)} links to {target}, which is not there"
        if anchor:
            assert anchor in anchors(there), f"{page_id(page)}: {target}: no such heading there"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_nothing_is_left_to_be_filled_in(page: Path) -> None:
    plain = CODE.sub("", prose(page))
    assert not re.findall(r"\b(?:TODO|TBD|FIXME|XXX)\b|^[A-Z]{4,}$", plain, re.MULTILINE)


def test_every_page_can_be_found_from_the_readme() -> None:
    linked = set(LINK.findall((ROOT / "README.md").read_text()))
    for page in PAGES:
        name = page_id(page)
        assert name in linked or name == "README.md", f"README.md does not lead to {name}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_files_and_tests_that_are_named_exist(page: Path) -> None:
    for span in CODE.findall(prose(page)):
        for name in FILE.findall(span):
            found = list(ROOT.glob(name)) if "*" in name else [ROOT / name]
            assert found, name
            assert all(path.exists() for path in found), f"{page_id(page)} names {name}"
        if re.fullmatch(r"test_\w+", span):
            assert f"def {span}(" in tracked(), f"{page_id(page)} names {span}, which is no test"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_doors_and_settings_that_are_named_exist(page: Path) -> None:
    doors = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in code(page):
        for door in re.findall(r"(?:^|\s)make ([a-z-]+)", line):
            assert door in doors, f"{page_id(page)}: there is no `make {door}`"
        for name in NAME.findall(line):
            plain = name.removesuffix("_FILE")
            known = re.search(rf"\b(?:{name}|{plain}|{plain.lower()})\b", tracked())
            assert known, f"{page_id(page)} names {name}, which nothing knows"


def test_the_readme_names_every_door() -> None:
    doors = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / "README.md").read_text()))
    # `make` alone lists them, and each makes the environment that it needs.
    assert doors - {"help", "venv"} <= named


def test_the_readme_names_what_the_local_stack_reads() -> None:
    plan = (ROOT / "dev/stack/plan.py").read_text()
    read = set(re.findall(r'environment(?:\.get\(|, )"([A-Z_]+)"', plan))
    assert "LOCAL_DIR" in read
    assert read <= set(re.findall(r"[A-Z_]+", (ROOT / "README.md").read_text()))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_that_are_named_exist(page: Path) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for line in code(page):
        for words in re.findall(r"flask --app api ([^|;>#)]*)", line):
            check_command(page, words.split())
        for module in re.findall(r"python -m ((?:worker|dev|tests)[\w.]*)", line):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
        for names in re.findall(r"docker-compose (?:stop|exec(?: -T)?) ([a-z ]+)", line):
            asked = names.split() if " stop " in line else names.split()[:1]
            assert set(asked) <= set(services), f"{page_id(page)}: {line}"


def check_command(page: Path, words: list[str]) -> None:
    command: click.Command = COMMANDS
    while isinstance(command, click.Group) and words and words[0].isalpha():
        where = f"{page_id(page)}: flask --app api {' '.join(words)}"
        assert words[0] in command.commands, f"{where}: there is no {words[0]}"
        command = command.commands[words.pop(0)]
    options = {option for parameter in command.params for option in parameter.opts}
    for word in words:
        if word.startswith("--"):
            assert word in options, f"{page_id(page)}: {command.name} has no {word}"


def test_operations_that_are_named_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none",
        "REDIS_URL": "redis://127.0.0.1:9/0",
        "API_BOOTSTRAP_TOKEN": "0123456789abcdef",
        "SECRET_KEY": "0123456789abcdef",
        **dict.fromkeys(("OIDC_ISSUER", "PUBLIC_URL", "SMTP_URL"), ""),
    }.items():
        monkeypatch.setenv(name, value)
    served = {
        (method, re.sub(r"<[^>]+>", "{}", rule.rule))
        for rule in create_app().url_map.iter_rules()
        for method in rule.methods or ()
    }
    named = 0
    for page in PAGES:
        for span in CODE.findall(prose(page)):
            asked = re.fullmatch(r"((?:[A-Z]+(?:, )?)+) (/[^\s?]*)(?:\?.*)?", span)
            if asked is None or asked[2].startswith("/v1/send"):  # which is the provider's
                continue
            path = re.sub(r"\{[^}]+\}|(?<=/)\d+", "{}", asked[2])
            path = path if path.startswith("/api/v1") else f"/api/v1{path}"
            for method in asked[1].split(", "):
                of_one = (method, f"{path}/{{}}")  # named together: `POST, DELETE /clients`
                assert (method, path) in served or of_one in served, f"{page_id(page)}: {span}"
                named += 1
    assert named > 20


def test_the_readmes_say_the_same() -> None:
    english, russian = ROOT / "README.md", ROOT / "README.ru.md"
    assert blocks(english) == blocks(russian)
    assert shape(english) == shape(russian)
    for number, (ours, theirs) in enumerate(zip(rows(english), rows(russian), strict=True)):
        assert ours == theirs, f"row {number} of the tables"
    targets = [
        [t for t in LINK.findall(page.read_text()) if not t.startswith(("#", "README"))]
        for page in (english, russian)
    ]
    assert targets[0] == targets[1]


def shape(page: Path) -> list[int]:
    return [len(level) for level, _ in HEADING.findall(prose(page))]


def rows(page: Path) -> list[tuple[int, list[str]]]:
    """Each row of the tables: its cells' number, and what in it is no word of a language."""
    found = []
    for line in prose(page).splitlines():
        if line.startswith("|"):
            cells = line.replace("`name`", "")
            found.append((cells.count("|"), CODE.findall(cells)))
    return found


def test_the_version_is_in_one_place() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:2] == ["Unreleased", __version__], (
        "CHANGELOG.md must begin with the headings Unreleased and the version of shared/__init__.py"
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dynamic"] == ["version"], "pyproject.toml must not repeat the version"
    assert __version__ == spec.config.VERSION
    places = [
        page_id(path)
        for room in ("api", "worker", "shared", "dev")
        for path in (ROOT / room).rglob("*.py")
        if f'"{__version__}"' in path.read_text()
    ]
    assert places == ["shared/__init__.py"]
