"""Run the simulated provider: `python -m dev.provider --port 8090 --token TOKEN`."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import orjson
import uvloop

from dev.provider.capacity import Overload
from dev.provider.connection import Connection
from dev.provider.provider import Provider
from dev.provider.settings import Settings, SettingsError
from shared.file_limit import raise_file_limit

_REPORT_INTERVAL = 5.0  # seconds


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse_arguments(argv)
    raise_file_limit()
    host, port = arguments.host, arguments.port
    try:
        provider = Provider(Settings.parse(_initial_settings(arguments)))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(provider, host, port))
    except SettingsError as error:
        message = str(error)
    except OSError as error:
        message = f"cannot listen on {host}:{port}: {error.strerror or error}"
    else:
        return 0
    print(f"dev.provider: {message}", file=sys.stderr)
    return 1


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m dev.provider",
        description="A provider that logs what it receives and fails on demand. "
        "All settings can be changed while it runs: PUT /control.",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090, help="0 takes a free one (8090)")
    parser.add_argument(
        "--token",
        default=os.environ.get("PROVIDER_TOKEN"),
        help="the bearer token it requires (PROVIDER_TOKEN from the environment)",
    )
    parser.add_argument("--latency", metavar="SECONDS", default="0", help="0.05, or 0.01-0.2")
    parser.add_argument(
        "--fault",
        metavar="KIND=FRACTION",
        action="append",
        default=[],
        help="repeatable: error_500=0.02 answers every fiftieth request with 500",
    )
    parser.add_argument(
        "--capacity", metavar="N", type=int, help="serve at most N messages at once (any number)"
    )
    parser.add_argument(
        "--overload",
        choices=[*Overload],
        default=Overload.WAIT,
        help="what happens above the capacity: messages wait, get a 429, connections are refused, "
        "or every answer slows down (wait)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the faults and latencies (0)")
    return parser.parse_args(argv)


def _initial_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    if not arguments.token:
        raise SettingsError("token: give --token, or PROVIDER_TOKEN in the environment")
    least, _, most = arguments.latency.partition("-")
    faults = dict(fault.partition("=")[::2] for fault in arguments.fault)
    return {
        "token": arguments.token,
        "latency": {
            "min": _parse_number("latency", least),
            "max": _parse_number("latency", most or least),
        },
        "faults": {kind: _parse_number(f"fault {kind}", text) for kind, text in faults.items()},
        "capacity": arguments.capacity,
        "overload": arguments.overload,
        "seed": arguments.seed,
    }


def _parse_number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SettingsError(f"{name}: {text!r} is no number (see --help)") from None


async def _serve(provider: Provider, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_server(lambda: Connection(provider, loop), host, port, backlog=4096)
    # For programs that start this one: with --port 0, the port is only known from here.
    _log(event="provider.listening", port=server.sockets[0].getsockname()[1], host=host)
    reporter = asyncio.create_task(_report_traffic(provider))
    await stop.wait()
    reporter.cancel()
    server.close()  # without wait_closed: the end of the process cuts hanging connections


async def _report_traffic(provider: Provider) -> None:
    """Log one line per interval in which messages arrived."""
    before = 0
    while True:
        await asyncio.sleep(_REPORT_INTERVAL)
        received, accepted = provider.request_log.received, provider.request_log.accepted
        new = received - before if received >= before else received  # cleared in between
        before = received
        if new:
            rate = round(new / _REPORT_INTERVAL, 1)
            _log(event="provider.traffic", received=received, accepted=accepted, rate=rate)


def _log(**fields: Any) -> None:
    with suppress(OSError):  # a closed pipe must not stop the service
        print(orjson.dumps(fields).decode(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
