"""`python -m dev.stack run`: the whole service on this machine, until Ctrl-C."""

import argparse
import fcntl
import os
import sys
import time
from pathlib import Path

from dev.stack import StackError, plan
from dev.stack.processes import die_with_parent
from dev.stack.services import Postgres, Valkey
from dev.stack.supervisor import StopRequested, Supervisor
from dev.stack.terminal import Terminal


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dev.stack", description=__doc__)
    parser.add_argument("command", choices=["run"])
    parser.add_argument(
        "--die-with-parent",
        action="store_true",
        help="stop when the process that started this one is gone",
    )
    if parser.parse_args().die_with_parent:
        die_with_parent()
    try:
        settings = plan.Settings.from_environment(os.environ)
        lock = take_directory(settings.directory)
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    terminal = Terminal()
    supervisor = Supervisor(settings.directory, terminal)
    supervisor.catch_signals()
    status = 0
    try:
        bring_up(settings, supervisor, terminal)
        supervisor.watch()
    except StopRequested:
        terminal.say("stopping")
    except StackError as error:
        print(error, file=sys.stderr)
        status = 1
    finally:
        os.truncate(lock, 0)  # whoever waits for the folder sees that it is being left
        supervisor.stop()
    if status == 0:
        terminal.say("stopped")
    return status


def bring_up(settings: plan.Settings, supervisor: Supervisor, terminal: Terminal) -> None:
    """Start everything, stage by stage, and say where it is."""
    began = time.monotonic()
    supervisor.stop_leftovers()
    settings.check_ports()
    keys = plan.load_secrets(settings.directory, os.environ)
    postgres = Postgres(settings.directory / "postgres")
    valkey = Valkey(settings.directory / "valkey")
    embedded = []
    if settings.database_url is None:
        terminal.say("starting PostgreSQL")
        embedded.append(postgres.prepare())
    if settings.redis_url is None:
        terminal.say("starting Valkey")
        embedded.append(valkey.prepare())
    supervisor.bring_up(embedded)
    database_url = settings.database_url or postgres.url
    redis_url = settings.redis_url or valkey.url
    env = plan.product_environment(settings, keys, database_url, redis_url)
    table = plan.process_table(settings, env)
    terminal.say("applying migrations")
    for program in table:
        if program.stage == plan.MIGRATIONS:
            supervisor.run_once(program)
    for stage in (plan.PROVIDER, plan.PRODUCT):
        programs = [program for program in table if program.stage == stage]
        if programs:
            terminal.say("starting " + ", ".join(program.name for program in programs))
            supervisor.bring_up(programs)
    terminal.write(plan.greeting(settings, env, time.monotonic() - began))


def take_directory(directory: Path, patience: float = 45.0) -> int:
    """Make LOCAL_DIR ours; wait for a stack that is stopping, refuse beside one that runs."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StackError(f"cannot use LOCAL_DIR={directory}: {error.strerror}") from None
    began = time.monotonic()
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            waited = time.monotonic() - began
            stopping = os.fstat(lock).st_size == 0
            if waited > (patience if stopping else 1.0):
                holder = os.pread(lock, 20, 0).decode().strip()
                raise StackError(
                    f"a stack already runs in {directory} (pid {holder or 'unknown'}):"
                    " stop it, or set LOCAL_DIR to another folder"
                ) from None
            time.sleep(0.1)
    os.truncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


if __name__ == "__main__":
    sys.exit(main())
