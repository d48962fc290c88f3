"""The house rules, each with a message that says what to do about a breach."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import queues
from shared.config import settings

ROOT = Path(__file__).parents[2]
ROOMS = ("api", "worker", "shared", "dev")
# Who may import whom, besides themselves.
MAY_IMPORT = {"api": {"shared"}, "worker": {"shared"}, "shared": set(), "dev": {"shared"}}
LONGEST_MODULE = 350


def modules(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (ROOT / room).rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """The modules that a file imports, with their lines, wherever in it they are."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, (
                f"{name(path)}:{node.lineno}: a relative import; write out the whole name"
            )
            yield node.lineno, node.module or ""


@pytest.mark.parametrize("path", modules(*ROOMS), ids=name)
def test_rooms_keep_to_their_doors(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    for line, module in imported(path):
        other = module.split(".")[0]
        if other == room or other not in (*ROOMS, "tests"):
            continue
        assert other in MAY_IMPORT[room], (
            f"{name(path)}:{line} imports {module}, but {room}/ may import only "
            f"{' and '.join(sorted(MAY_IMPORT[room])) or 'libraries'}: move what both need to "
            "shared/, or leave it to a job's id and the database"
        )


@pytest.mark.parametrize("path", modules(*ROOMS), ids=name)
def test_modules_say_what_they_are_for_and_stay_short(path: Path) -> None:
    source = path.read_text()
    assert ast.get_docstring(ast.parse(source)), (
        f"{name(path)} has no docstring: open it with a sentence that says what it is for"
    )
    lines = source.count("\n")
    if lines > LONGEST_MODULE:
        pytest.fail(
            f"{name(path)} has {lines} lines, more than {LONGEST_MODULE}: it does more than one "
            "thing; give the second one a module of its own"
        )


def roles() -> set[str]:
    """What `python -m worker` accepts."""
    source = (ROOT / "worker/__main__.py").read_text()
    usage = re.search(r"usage: python -m worker ([a-z |]+)", source)
    assert usage, "worker/__main__.py must say its usage: python -m worker ROLE | ROLE"
    return {role.strip() for role in usage[1].split("|")}


@pytest.mark.parametrize("function", queues.JOB_QUEUES)
def test_every_job_exists_and_its_queue_has_a_worker(function: str) -> None:
    module, _, attribute = function.rpartition(".")
    assert callable(getattr(importlib.import_module(module), attribute, None)), (
        f"shared/queues.py knows a job {function} that does not exist: write it or remove it"
    )
    assert queues.JOB_QUEUES[function] in roles(), (
        f"nobody works on the queue {queues.JOB_QUEUES[function]!r}, which {function} goes to: "
        "let `python -m worker` take it as a role, in worker/__main__.py"
    )


def test_every_job_of_the_worker_is_known() -> None:
    tree = ast.parse((ROOT / "worker/jobs.py").read_text())
    functions = {
        f"worker.jobs.{node.name}"
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }
    assert functions == set(queues.JOB_QUEUES), (
        "the public functions of worker/jobs.py are the jobs: name each in "
        "shared.queues.JOB_QUEUES, or it cannot be enqueued; begin others with an underscore"
    )


def test_periodic_jobs_are_jobs() -> None:
    from worker.runtime.scheduler import PERIODIC

    for function, _ in PERIODIC.values():
        assert function in queues.JOB_QUEUES, (
            f"worker/runtime/scheduler.py registers {function}, "
            "which shared.queues.JOB_QUEUES does not know"
        )


def test_every_setting_is_documented() -> None:
    kinds = (settings.Settings, settings.ApiSettings, settings.WorkerSettings)
    names = {field.upper() for kind in kinds for field in kind.model_fields}
    for page in ("docs/configuration.md", "docs/configuration.ru.md"):
        table = {
            setting
            for line in (ROOT / page).read_text().splitlines()
            if line.startswith("|")
            for setting in re.findall(r"`([A-Z][A-Z_]+)`", line.split("|")[1])
        }
        assert names <= table, (
            f"{page} lacks {', '.join(sorted(names - table))}: add a row for each, its name in "
            "backquotes in the first column"
        )


def test_no_tables_are_made_outside_of_migrations() -> None:
    """The API does not migrate by itself, and nothing creates the models' tables directly."""
    for path in modules("api", "worker", "shared"):
        assert ".create_all(" not in path.read_text(), (
            f"{name(path)} creates tables: write a migration below shared/migrations instead"
        )
