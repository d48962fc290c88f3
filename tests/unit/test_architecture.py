"""Check the structure of the code: which package imports which, where SQL tables are made, jobs.

Each failure says what to do. docs/architecture.md explains the structure.
"""

import ast
import importlib
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from shared import queues
from shared.config import settings

ROOT = Path(__file__).parents[2]
TOP_LEVEL = ("api", "worker", "shared", "dev")
# What each top-level package may import besides itself.
MAY_IMPORT = {"api": {"shared"}, "worker": {"shared"}, "shared": set(), "dev": {"shared"}}
MAX_MODULE_LINES = 330

# What each unit may import of its own top-level package. A unit is a sub-package, or a module next
# to the sub-packages.
API_BASE = {
    *("api.actor", "api.cursors", "api.db", "api.edit_versions", "api.enqueue", "api.errors"),
    *("api.budgets", "api.client_log", "api.idempotency", "api.sending_rules"),
}
API_WEB = {"api.http", "api.limits", "api.openapi", "api.schemas"}
API_RESOURCES = {"api.clients", "api.mailings", "api.opt_outs", "api.people", "api.tokens"} | {
    "api.policy"
}
ARROWS: dict[str, set[str]] = {
    "shared.domain": set(),
    "shared.logging": set(),
    "shared.metrics": set(),
    "shared.queues": {"shared.metrics", "shared.redis_client"},
    "shared.redis_client": set(),
    "shared.file_limit": set(),
    "shared.tracing": set(),
    "shared.startup": {
        *("shared.db", "shared.domain", "shared.file_limit", "shared.logging"),
        "shared.redis_client",
    },
    "shared.fleet_status": {"shared.metrics", "shared.queues"},
    "shared.config": {"shared.domain", "shared.logging"},
    "shared.db": {"shared.config", "shared.domain", "shared.logging"},
    "shared.migrations": {"shared.db"},
    "shared.client_import": {"shared.db", "shared.domain"},
    "shared.report": {"shared.config", "shared.db", "shared.domain", "shared.logging"},
    "worker.runtime": set(),
    "worker.provider": {"worker.runtime"},
    "worker.recording": {"worker.runtime"},
    "worker.launch": {"worker.runtime"},
    "worker.dispatch": {"worker.provider", "worker.recording", "worker.runtime"},
    "worker.maintenance": {"worker.recording", "worker.runtime"},
    "worker.jobs": {
        "worker.dispatch",
        "worker.launch",
        "worker.maintenance",
        "worker.provider",
        "worker.recording",
        "worker.runtime",
    },
    "worker.__main__": {"worker.jobs", "worker.maintenance", "worker.runtime"},
    "api.errors": set(),
    "api.actor": {"api.errors"},
    "api.db": {"api.errors"},
    "api.enqueue": set(),
    "api.error_codes": set(),
    "api.idempotency": {"api.actor", "api.db", "api.errors"},
    "api.edit_versions": {"api.db", "api.errors"},
    "api.client_log": {"api.db"},
    "api.cursors": set(),
    "api.budgets": {"api.db", "api.errors"},
    "api.sending_rules": {"api.enqueue", "api.errors", "api.schemas"},
    "api.schemas": {"api.cursors", "api.errors"},
    "api.limits": {"api.actor", "api.errors"},
    "api.http": {*API_BASE, "api.limits", "api.schemas"},
    "api.openapi": {"api.client_log", "api.cursors", "api.errors", "api.http", "api.schemas"},
    "api.audit_log": {*API_BASE, *API_WEB},
    "api.clients": {*API_BASE, *API_WEB, "api.audit_log"},
    "api.mailings": {*API_BASE, *API_WEB, "api.audit_log"},
    "api.opt_outs": {*API_BASE, *API_WEB, "api.audit_log"},
    "api.people": {*API_BASE, *API_WEB, "api.audit_log"},
    "api.policy": {*API_BASE, *API_WEB, "api.audit_log"},
    "api.tokens": {*API_BASE, *API_WEB, "api.audit_log"},
    "api.monitoring": {*API_BASE, *API_WEB},
    "api.cli": {*API_BASE, *API_RESOURCES, "api.schemas"},
    "api.admin": {*API_BASE, *API_RESOURCES, "api.audit_log", "api.http"}
    | {"api.limits", "api.schemas"},
}
# These put the application together, so they may import everything; nothing imports them.
ASSEMBLY = {"api", "api.app", "api.gunicorn_conf"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def files(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


@cache
def modules() -> dict[str, Path]:
    """Return all modules of the product and the tools by their dotted names."""
    found = {}
    for path in files(*TOP_LEVEL):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(path: Path) -> dict[str, int]:
    """Return the modules that a file imports anywhere in it, with the lines of the imports."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.setdefault(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, (
                f"{name_of(path)}:{node.lineno}: relative import; write the absolute name"
            )
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                found.setdefault(module if module in modules() else f"{node.module}", node.lineno)
    return found


def unit(module: str) -> str:
    """Return the sub-package that a module belongs to, or the module if it is in none."""
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("path", files(*TOP_LEVEL), ids=name_of)
def test_top_level_packages_import_only_what_they_may(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    for module, line in imports(path).items():
        other = module.split(".")[0]
        if other == package or other not in (*TOP_LEVEL, "tests"):
            continue
        assert other in MAY_IMPORT[package], (
            f"{name_of(path)}:{line} imports {module}, but {package}/ may import only "
            f"{' and '.join(sorted(MAY_IMPORT[package])) or 'libraries'}: move what both need to "
            "shared/, or pass an id in a job and read the rest from the database"
        )


def test_the_permitted_imports_have_no_circle() -> None:
    try:
        list(TopologicalSorter(ARROWS).static_order())
    except CycleError as error:
        pytest.fail(f"ARROWS permits a circle: {' → '.join(error.args[1])}; remove one of them")


def test_packages_import_in_one_direction() -> None:
    faults = []
    for module, path in modules().items():
        importer = unit(module)
        if module.startswith("dev") or importer in ASSEMBLY:
            continue
        if importer not in ARROWS:
            if importer not in TOP_LEVEL:
                faults.append(f"{name_of(path)}: add {importer} to ARROWS, with what it may import")
            continue
        for other, line in imports(path).items():
            target = unit(other)
            if other not in modules() or target == importer or target in TOP_LEVEL:
                continue
            if target.split(".")[0] != importer.split(".")[0]:
                continue
            if target not in ARROWS[importer]:
                allowed = ", ".join(sorted(ARROWS[importer])) or "nothing"
                faults.append(
                    f"{name_of(path)}:{line} imports {other}, but of its own package {importer} "
                    f"may import only: {allowed}. Move what both need to a lower package"
                )
    assert not faults, "\n".join(faults)


def test_forms_and_presenters_do_not_import_views() -> None:
    faults = [
        f"{name_of(path)}:{line} imports {other}: pass the value as an argument, or move the "
        "function from the view to a presenter"
        for module, path in modules().items()
        if module.startswith(("api.admin.forms.", "api.admin.presenters."))
        for other, line in imports(path).items()
        if other.startswith("api.admin.views")
    ]
    assert not faults, "\n".join(faults)


def test_there_are_no_circular_imports() -> None:
    """Imports inside of functions count as well: they only hide a circle."""
    graph = {
        module: [other for other in imports(path) if other in modules() and other != module]
        for module, path in modules().items()
    }
    done: set[str] = set()

    def find_cycle(module: str, path: tuple[str, ...]) -> tuple[str, ...] | None:
        if module in path:
            return (*path[path.index(module) :], module)
        if module in done:
            return None
        for other in graph[module]:
            if cycle := find_cycle(other, (*path, module)):
                return cycle
        done.add(module)
        return None

    for module in graph:
        cycle = find_cycle(module, ())
        assert cycle is None, (
            f"circular import: {' → '.join(cycle or ())}. Move what the modules share to a module "
            "that imports neither, or pass it as an argument"
        )


def test_only_the_application_imports_routes() -> None:
    """REST routes and admin views are two faces of one service; neither uses the other."""
    faults = [
        f"{name_of(path)}:{line} imports {other}: move the operation to the resource's service.py "
        "and call it from both"
        for module, path in modules().items()
        for other, line in imports(path).items()
        if other.endswith("routes") and unit(other) != unit(module) and unit(module) not in ASSEMBLY
    ]
    assert not faults, "\n".join(faults)


def test_only_routes_use_http() -> None:
    """In a resource's package, routes parse requests and render responses; the rest does not."""
    exempt = ("routes", "schemas")
    faults = [
        f"{name_of(path)}:{line} imports {other}: services take plain values and an actor, raise "
        "errors of api/errors.py and return domain objects; leave HTTP to the routes"
        for module, path in modules().items()
        if unit(module) in {*API_RESOURCES, "api.audit_log"} and not module.endswith(exempt)
        for other, line in imports(path).items()
        if other.startswith(("api.http", "api.openapi", "api.admin", "werkzeug"))
        or other.endswith("routes")
        or (other == "flask" and module.endswith("service"))
    ]
    assert not faults, "\n".join(faults)


def test_the_domain_is_free_of_input_and_output() -> None:
    forbidden = {"flask", "psycopg2", "redis", "requests", "rq", "socket", "sqlalchemy"}
    for path in files("shared/domain"):
        for module, line in imports(path).items():
            assert module.split(".")[0] not in forbidden, (
                f"{name_of(path)}:{line} imports {module}: shared/domain holds pure rules; read or "
                "write in shared/db, and pass values here"
            )


# Where the local clock may be read, and why nothing there compares it with an instant that another
# process wrote.
LOCAL_CLOCK = {
    "shared/tracing.py": "spans, whose times are those of their process by definition",
    "api/admin/presenters/formatting.py": "the present offsets of zones, which are only shown",
    "api/admin/claims.py": "the times in tokens of the identity provider, with a tolerance",
    "api/admin/role_check.py": "the end of a token of the identity provider",
    "api/people/sessions.py": "how long a logout is remembered, at least",
    "api/cli/logs.py": "log lines carry local time by their nature",
    "shared/logging/log_config.py": "log lines carry local time by their nature",
    "shared/report/rendering.py": "the Date of an e-mail is that of its sender",
    "worker/dispatch/journal.py": "the age of a file, and both times are this machine's",
    "worker/provider/token.py": "the end of a token of the provider, which is only warned of",
    "worker/provider/http/client.py": "the default of a parameter; the dispatcher passes another",
}
READS_LOCAL_CLOCK = re.compile(
    r"\btime\.time(_ns)?\(|\bfrom time import (\w+, )*time\b|\.(utcnow|today)\(|\bdatetime\.now\("
    r"|\bCLOCK_REALTIME\b"
)


def test_instants_are_judged_by_a_shared_clock() -> None:
    found = {
        name_of(path): line
        for path in files("api", "worker", "shared")
        for line in path.read_text().splitlines()
        if READS_LOCAL_CLOCK.search(line)
    }
    faults = [
        f"{name} reads the local clock: {line.strip()}. The clocks of machines differ: use "
        "PostgreSQL's (database_now, now(), DatabaseClock) for what is stored there and Redis's "
        "(read_redis_time) for what is stored there; for durations use time.monotonic()"
        for name, line in found.items()
        if name not in LOCAL_CLOCK
    ]
    assert not faults, "\n".join(faults)
    assert found.keys() == LOCAL_CLOCK.keys(), "remove from LOCAL_CLOCK what reads no clock"


def test_views_are_not_unwrapped() -> None:
    for path in modules().values():
        found = re.search(r"\bunwrap\(|__wrapped__", path.read_text())
        assert not found, (
            f"{name_of(path)} unwraps a function: call the resource's service instead of the view"
        )


def view_functions(tree: ast.Module) -> set[str]:
    """Return the names of functions that a decorator registers under a URL."""
    methods = {"route", "get", "post", "put", "patch", "delete"}
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call)
        and isinstance(decorator.func, ast.Attribute)
        and decorator.func.attr in methods
    }


@pytest.mark.parametrize("path", files("api"), ids=name_of)
def test_no_view_calls_another_view(path: Path) -> None:
    tree = ast.parse(path.read_text())
    views = view_functions(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in views, (
                f"{name_of(path)}:{node.lineno} calls the view {node.func.id}: move what both need "
                "to a function that is not a view"
            )


@pytest.mark.parametrize("path", files(*TOP_LEVEL), ids=name_of)
def test_modules_state_their_purpose_and_stay_short(path: Path) -> None:
    source = path.read_text()
    assert ast.get_docstring(ast.parse(source)), (
        f"{name_of(path)} has no docstring: open it with a sentence that states its purpose"
    )
    lines = source.count("\n")
    if lines > MAX_MODULE_LINES:
        pytest.fail(
            f"{name_of(path)} has {lines} lines, more than {MAX_MODULE_LINES}: it has more than "
            "one purpose; give the second one a module of its own"
        )


def worker_roles() -> set[str]:
    """Return the roles that `python -m worker` accepts."""
    source = (ROOT / "worker/__main__.py").read_text()
    usage = re.search(r"usage: python -m worker ([a-z |]+)", source)
    assert usage, "worker/__main__.py must print its usage: python -m worker ROLE | ROLE"
    return {role.strip() for role in usage[1].split("|")}


@pytest.mark.parametrize("function", queues.JOB_QUEUES)
def test_every_job_exists_and_its_queue_has_a_worker(function: str) -> None:
    module, _, attribute = function.rpartition(".")
    assert callable(getattr(importlib.import_module(module), attribute, None)), (
        f"shared/queues.py lists a job {function} that does not exist: write it or remove it"
    )
    assert queues.JOB_QUEUES[function] in worker_roles(), (
        f"no worker serves the queue {queues.JOB_QUEUES[function]!r} of {function}: add it as a "
        "role of `python -m worker`, in worker/__main__.py"
    )


def test_every_job_of_the_worker_is_listed() -> None:
    tree = ast.parse((ROOT / "worker/jobs.py").read_text())
    functions = {
        f"worker.jobs.{node.name}"
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }
    assert functions == set(queues.JOB_QUEUES), (
        "the public functions of worker/jobs.py are the jobs: list each in "
        "shared.queues.JOB_QUEUES, or it cannot be enqueued; prefix others with an underscore"
    )


def test_periodic_jobs_are_listed() -> None:
    from worker.runtime.scheduler import PERIODIC

    for function, _ in PERIODIC.values():
        assert function in queues.JOB_QUEUES, (
            f"worker/runtime/scheduler.py registers {function}: list it in shared.queues.JOB_QUEUES"
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


def test_only_migrations_create_tables() -> None:
    for path in files("api", "worker", "shared"):
        assert ".create_all(" not in path.read_text(), (
            f"{name_of(path)} creates tables: write a migration below shared/migrations instead"
        )


@pytest.mark.parametrize(
    ("started", "unneeded"),
    [
        ("worker.__main__, worker.jobs", ("sqlalchemy", "flask", "openpyxl", "jinja2")),
        ("api.app", ("openpyxl", "worker")),
    ],
    ids=["worker", "api"],
)
def test_processes_start_without_libraries_that_they_do_not_need(
    started: str, unneeded: tuple[str, ...]
) -> None:
    """SQLAlchemy would add half to the time in which a worker starts."""
    program = f"import sys, {started}; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split()) & set(unneeded)
    assert not loaded, (
        f"{started} imports {loaded}: import it where it is used, or split the module"
    )
