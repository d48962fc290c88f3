"""Check that links, files, tests, commands, settings and operations named in the docs exist.

Also: pages in two languages have the same content, and the version is written in one place.
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
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# English pages that have a Russian version beside them.
TRANSLATED = ("README.md", "docs/assignment.md", "docs/configuration.md")
FENCE = re.compile(r"^( *)```\w*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
DIRECTORIES = "api|worker|shared|dev|tests|docs|deploy|k8s"
FILE = re.compile(rf"(?<![\w/.])(?:{DIRECTORIES})/[\w./-]+\w")
SETTING = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")
COMMANDS = click.Group(
    commands=[log_commands, client_commands, report_commands, token_commands, migration_commands]
)


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """Return the page without its fenced blocks."""
    return FENCE.sub("", page.read_text())


def blocks(page: Path) -> list[str]:
    """Return the contents of the page's fenced blocks."""
    return [found[1] for found in FENCE.findall(page.read_text())]


def literals(page: Path) -> Iterator[str]:
    """Yield code spans, and lines of fenced blocks with continued lines joined."""
    yield from CODE.findall(prose(page))
    for block in blocks(page):
        yield from re.sub(r"\\\n\s*|\|\n\s*", " ", block).splitlines()


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors of the page's headings, as GitLab generates them."""
    titles = (title for _, title in HEADING.findall(prose(page)))
    plain = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return frozenset(title.replace(" ", "-") for title in plain)


@cache
def source_text() -> str:
    """Return all code and configuration, to look up whether a name occurs in it."""
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


def make_targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text()
    return set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))


def linked_pages(page: Path) -> set[Path]:
    targets = (unquote(target).partition("#")[0] for target in LINK.findall(prose(page)))
    return {(page.parent / target).resolve() for target in targets if target.endswith(".md")}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_to_existing_files_and_headings(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = unquote(target).partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page_id(page)} links to {target}, which does not exist"
        if anchor:
            assert anchor in anchors(linked), f"{page_id(page)}: {target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_pages_contain_no_unfinished_passages(page: Path) -> None:
    plain = CODE.sub("", prose(page))
    assert not re.findall(r"\b(?:TODO|TBD|FIXME|XXX)\b|^[A-Z]{4,}$", plain, re.MULTILINE)


def test_every_page_is_linked_from_the_readme_or_an_index() -> None:
    reachable = linked_pages(ROOT / "README.md") | linked_pages(ROOT / "docs/adr/README.md")
    reachable |= {(ROOT / page).with_suffix(".ru.md") for page in TRANSLATED}
    for page in PAGES:
        assert page in reachable or page == ROOT / "README.md", (
            f"{page_id(page)} is linked from neither README.md nor docs/adr/README.md: add a link"
        )


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_named_files_and_tests_exist(page: Path) -> None:
    for span in CODE.findall(prose(page)):
        for name in FILE.findall(span):
            found = list(ROOT.glob(name)) if "*" in name else [ROOT / name]
            assert found, f"{page_id(page)} names {name}, which matches no file"
            assert all(path.exists() for path in found), (
                f"{page_id(page)} names {name}, which does not exist: name its new place"
            )
        if re.fullmatch(r"test_\w+", span):
            assert f"def {span}(" in source_text(), (
                f"{page_id(page)} names the test {span}, which does not exist: name its new name"
            )


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_named_make_targets_and_settings_exist(page: Path) -> None:
    for line in literals(page):
        for target in re.findall(r"(?:^|\s)make ([a-z-]+)", line):
            assert target in make_targets(), f"{page_id(page)}: there is no `make {target}`"
        for name in SETTING.findall(line):
            plain = name.removesuffix("_FILE")
            known = re.search(rf"\b(?:{name}|{plain}|{plain.lower()})\b", source_text())
            assert known, f"{page_id(page)} names {name}, which occurs nowhere in the code"


def test_every_make_target_is_documented() -> None:
    page = ROOT / "docs/contributing.md"
    named = set(re.findall(r"\bmake ([a-z-]+)", page.read_text()))
    missing = make_targets() - {"help", "venv"} - named
    assert not missing, f"docs/contributing.md does not name: make {', '.join(sorted(missing))}"


def test_every_variable_of_the_local_stack_is_documented() -> None:
    source = (ROOT / "dev/stack/settings.py").read_text()
    read = set(re.findall(r'environment(?:\.get\(|, )"([A-Z_]+)"', source))
    assert "LOCAL_DIR" in read
    missing = read - set(re.findall(r"[A-Z_]+", (ROOT / "docs/configuration.md").read_text()))
    assert not missing, f"docs/configuration.md does not name {', '.join(sorted(missing))}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_named_commands_exist(page: Path) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for line in literals(page):
        for words in re.findall(r"flask --app api ([^|;>#)]*)", line):
            check_command(page, words.split())
        for module in re.findall(r"python -m ((?:worker|dev|tests)[\w.]*)", line):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
        for names in re.findall(r"docker-compose (?:stop|exec(?: -T)?) ([a-z ]+)", line):
            named = names.split() if " stop " in line else names.split()[:1]
            assert set(named) <= set(services), f"{page_id(page)}: {line}"


def check_command(page: Path, words: list[str]) -> None:
    command: click.Command = COMMANDS
    while isinstance(command, click.Group) and words and words[0].isalpha():
        where = f"{page_id(page)}: flask --app api {' '.join(words)}"
        assert words[0] in command.commands, f"{where}: there is no command {words[0]}"
        command = command.commands[words.pop(0)]
    options = {option for parameter in command.params for option in parameter.opts}
    for word in words:
        if word.startswith("--"):
            assert word in options, f"{page_id(page)}: {command.name} has no option {word}"


def test_named_operations_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "DATABASE_URL": "postgresql://unused@127.0.0.1:9/unused",
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
    checked = 0
    for page in PAGES:
        for span in CODE.findall(prose(page)):
            named = re.fullmatch(r"((?:[A-Z]+(?:, )?)+) (/[^\s?]*)(?:\?.*)?", span)
            if named is None or named[2].startswith("/v1/send"):  # the provider's operation
                continue
            path = re.sub(r"\{[^}]+\}|(?<=/)\d+", "{}", named[2])
            path = path if path.startswith("/api/v1") else f"/api/v1{path}"
            for method in named[1].split(", "):
                of_one = (method, f"{path}/{{}}")  # named together: `POST, DELETE /clients`
                assert (method, path) in served or of_one in served, f"{page_id(page)}: {span}"
                checked += 1
    assert checked > 20


@pytest.mark.parametrize("name", TRANSLATED)
def test_a_translated_page_has_the_same_content(name: str) -> None:
    english = ROOT / name
    russian = english.with_suffix(".ru.md")
    assert blocks(english) == blocks(russian)
    assert heading_levels(english) == heading_levels(russian)
    for number, (ours, theirs) in enumerate(
        zip(table_rows(english), table_rows(russian), strict=True)
    ):
        assert ours == theirs, f"{name}: row {number} of the tables differs from the Russian page"
    assert link_targets(english) == link_targets(russian)


def heading_levels(page: Path) -> list[int]:
    return [len(level) for level, _ in HEADING.findall(prose(page))]


def table_rows(page: Path) -> list[tuple[int, list[str]]]:
    """Return for each table row the number of its cells and its code spans."""
    found = []
    for line in prose(page).splitlines():
        if line.startswith("|"):
            cells = line.replace("`name`", "")
            found.append((cells.count("|"), CODE.findall(cells)))
    return found


def link_targets(page: Path) -> list[str]:
    """Return the links to other pages, without their language, and without heading anchors."""
    other_language = {page.name, page.name.replace(".ru.md", ".md"), f"{page.stem}.ru.md"}
    targets = (target for target in LINK.findall(page.read_text()) if not target.startswith("#"))
    plain = [
        target.replace(".ru.md", ".md").replace("-ru.png", ".png")
        for target in targets
        if target not in other_language
    ]
    return [re.sub(r"((?:README|configuration)\.md)#.*", r"\1", target) for target in plain]


def test_the_version_is_written_in_one_place() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:2] == ["Unreleased", __version__], (
        "CHANGELOG.md must begin with the headings Unreleased and the version of shared/__init__.py"
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dynamic"] == ["version"], "pyproject.toml must not repeat the version"
    assert __version__ == spec.config.VERSION
    places = [
        page_id(path)
        for directory in ("api", "worker", "shared", "dev")
        for path in (ROOT / directory).rglob("*.py")
        if f'"{__version__}"' in path.read_text()
    ]
    assert places == ["shared/__init__.py"]
