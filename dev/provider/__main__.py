"""Runs the simulated provider: `python -m dev.provider --port 8090 --token TOKEN`."""

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

from dev.provider.connection import Connection
from dev.provider.provider import Provider
from dev.provider.settings import Settings, SettingsError

_REPORT_EVERY = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse_arguments(argv)
    try:
        settings = Settings.parse(_initial_values(arguments))
    except SettingsError as error:
        return _fail(str(error))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(Provider(settings), arguments.host, arguments.port))


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m dev.provider",
        description="A provider that keeps what it receives and fails as it is told to. "
        "Everything here, and more, can be changed while it runs: PUT /control.",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090, help="0 takes a free one (8090)")
    parser.add_argument(
        "--token",
        default=os.environ.get("PROVIDER_TOKEN"),
        help="the bearer token it demands (PROVIDER_TOKEN from the environment)",
    )
    parser.add_argument("--latency", metavar="SECONDS", default="0", help="0.05, or 0.01-0.2")
    parser.add_argument(
        "--fault",
        metavar="KIND=FRACTION",
        action="append",
        default=[],
        help="repeatable: error_500=0.02 answers every fiftieth request with 500",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the faults and latencies (0)")
    return parser.parse_args(argv)


def _initial_values(arguments: argparse.Namespace) -> dict[str, Any]:
    if not arguments.token:
        raise SettingsError("token: give --token, or PROVIDER_TOKEN in the environment")
    try:
        least, _, most = arguments.latency.partition("-")
        latency = {"min": float(least), "max": float(most or least)}
    except ValueError:
        raise SettingsError("latency: must be like 0.05 or 0.01-0.2") from None
    faults = {}
    for fault in arguments.fault:
        kind, _, fraction = fault.partition("=")
        try:
            faults[kind] = float(fraction)
        except ValueError:
            raise SettingsError(f"fault {fault}: must be like error_500=0.02") from None
    return {
        "token": arguments.token,
        "latency": latency,
        "faults": faults,
        "seed": arguments.seed,
    }


async def _serve(provider: Provider, host: str, port: int) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        server = await loop.create_server(
            lambda: Connection(provider, loop), host, port, backlog=4096
        )
    except OSError as error:
        return _fail(f"cannot listen on {host}:{port}: {error.strerror or error}")
    # The port is the machine-readable part: with --port 0 nobody knows it before.
    _say(event="provider.listening", port=server.sockets[0].getsockname()[1], host=host)
    reporter = asyncio.create_task(_report(provider))
    await stop.wait()
    reporter.cancel()
    server.close()  # and not waited for: whoever hangs on a connection is cut off by our exit
    return 0


async def _report(provider: Provider) -> None:
    """One line while there is traffic, none when there is not."""
    before = 0
    while True:
        await asyncio.sleep(_REPORT_EVERY)
        received = provider.witness.received
        new = received - before if received >= before else received  # forgotten in between
        before = received
        if new:
            accepted = provider.witness.accepted
            rate = round(new / _REPORT_EVERY, 1)
            _say(event="provider.traffic", received=received, accepted=accepted, rate=rate)


def _say(**fields: Any) -> None:
    with suppress(OSError):  # nobody listening to our words is no reason to stop serving
        print(orjson.dumps(fields).decode(), flush=True)


def _fail(message: str) -> int:
    print(f"dev.provider: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
