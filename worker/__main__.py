"""Starts one process of the fleet: `python -m worker control | dispatch | scheduler`."""

import sys

from shared import logs, queues
from shared.settings import Settings, WorkerSettings, load_settings


def main(role: str) -> None:
    if role == "scheduler":
        from worker.scheduler import FleetScheduler

        settings = load_settings(Settings)
        logs.configure(role, settings.log_level, settings.log_format)
        FleetScheduler(queues.patient_client(settings.redis_url)).run()
        return
    from worker.fleet import FleetWorker
    from worker.jobs import Tools

    settings = load_settings(WorkerSettings)
    logs.configure(role, settings.log_level, settings.log_format)
    Tools.settings = settings
    Tools.connection = queues.patient_client(settings.redis_url)
    Tools.worker = FleetWorker(role, Tools.connection, settings.redis_url)
    Tools.worker.work(logging_level="WARNING")


if __name__ == "__main__":
    if sys.argv[1:] not in (["control"], ["dispatch"], ["scheduler"]):
        sys.exit("usage: python -m worker control | dispatch | scheduler")
    main(sys.argv[1])
