"""`python -m dev.stack run`: the whole service on this machine, until Ctrl-C."""

import argparse
import os
import sys
import time
from pathlib import Path

from dev.stack import StackError, programs
from dev.stack.binaries import reachable_parent
from dev.stack.files import (
    check_free_space,
    explain_full_disk,
    remove_memory_folder,
    try_lock,
)
from dev.stack.greeting import make_greeting
from dev.stack.processes import die_with_parent
from dev.stack.services import Postgres, Valkey
from dev.stack.settings import Settings
from dev.stack.supervisor import StopRequested, Supervisor
from dev.stack.terminal import Terminal

STOPPING_WAIT_SECONDS = 45.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dev.stack", description=__doc__)
    parser.add_argument("command", choices=["run"])
    parser.add_argument(
        "--die-with-parent",
        action="store_true",
        help="stop when the process that started this one ends",
    )
    if parser.parse_args().die_with_parent:
        die_with_parent()
    try:
        settings = Settings.from_environment(os.environ)
        lock = lock_directory(settings.directory)
        terminal = Terminal()
        supervisor = Supervisor(settings.directory, terminal)
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    supervisor.catch_signals()
    message = None
    try:
        start_stack(settings, supervisor, terminal)
        supervisor.watch()
    except StopRequested:
        terminal.report("stopping")
    except (StackError, OSError) as error:
        # As root, PostgreSQL and its data may be in the reachable folder.
        folders = (settings.directory, reachable_parent())
        message = explain_full_disk(str(error), *folders) or str(error)
    finally:
        os.truncate(lock, 0)  # shows a stack that waits for the folder that this one is stopping
        supervisor.stop()
        remove_memory_folder(settings.directory)
    if message is not None:
        print(message, file=sys.stderr)
        return 1
    terminal.report("stopped")
    return 0


def start_stack(settings: Settings, supervisor: Supervisor, terminal: Terminal) -> None:
    """Start everything, stage by stage, and print the greeting."""
    started = time.monotonic()
    supervisor.stop_leftovers()
    settings.check_ports()
    secrets = settings.load_secrets(os.environ)
    postgres = Postgres(settings.directory / "postgres")
    valkey = Valkey(settings.directory / "valkey")
    embedded = []
    if settings.database_url is None:
        terminal.report("starting PostgreSQL")
        embedded.append(postgres.prepare())
    if settings.redis_url is None:
        terminal.report("starting Valkey")
        embedded.append(valkey.prepare())
    supervisor.start_programs(embedded)
    database_url = settings.database_url or postgres.url
    redis_url = settings.redis_url or valkey.url
    environment = programs.product_environment(settings, secrets, database_url, redis_url)
    terminal.report("applying migrations")
    supervisor.run_to_end(programs.migrations(environment))
    for stage in (
        programs.demo_programs(settings, environment),
        programs.product_programs(settings, environment),
    ):
        if stage:
            terminal.report("starting " + ", ".join(program.name for program in stage))
            supervisor.start_programs(stage)
    postgres_data = None if settings.database_url else postgres.data
    seconds = time.monotonic() - started
    terminal.write(make_greeting(settings, environment, postgres_data, seconds))


def lock_directory(directory: Path) -> int:
    """Lock LOCAL_DIR and return the lock's file descriptor.

    Wait for a stack that is stopping; raise StackError if one runs.
    """
    started = time.monotonic()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        check_free_space(directory)
        while (lock := try_lock(directory)) is None:
            holder = (directory / "lock").read_text().strip()
            # An empty file belongs to a stack that is stopping, or that has just started.
            wait_seconds = 1.0 if holder else STOPPING_WAIT_SECONDS
            if time.monotonic() - started > wait_seconds:
                raise StackError(
                    f"a stack already runs in {directory} (pid {holder or 'unknown'}):"
                    " stop it, or set LOCAL_DIR to another folder"
                )
            time.sleep(0.1)
        os.truncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        raise StackError(f"cannot use LOCAL_DIR={directory}: {error.strerror}") from None
    return lock


if __name__ == "__main__":
    sys.exit(main())
