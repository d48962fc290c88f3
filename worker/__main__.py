"""Start one worker process: `python -m worker control | dispatch | scheduler`."""

import sys

from shared import queues
from shared.config.settings import Settings, WorkerSettings, load_settings
from shared.logging import log_config


def main(role: str) -> None:
    if role == "scheduler":
        from worker.runtime.scheduler import FleetScheduler

        settings = load_settings(Settings)
        log_config.configure_logging(role, settings.log_level, settings.log_format)
        FleetScheduler(queues.retrying_client(settings.redis_url)).run()
        return
    from worker.jobs import WorkerContext
    from worker.runtime.rq_worker import FleetWorker

    settings = load_settings(WorkerSettings)
    log_config.configure_logging(role, settings.log_level, settings.log_format)
    WorkerContext.settings = settings
    WorkerContext.connection = queues.retrying_client(settings.redis_url)
    WorkerContext.worker = FleetWorker(role, WorkerContext.connection, settings.redis_url)
    if role == "dispatch" and settings.journal_dir is not None:
        WorkerContext.start_journals(settings.journal_dir)
    try:
        WorkerContext.worker.work(logging_level="WARNING")
    finally:
        if WorkerContext.journals is not None:
            WorkerContext.journals.close()


if __name__ == "__main__":
    if sys.argv[1:] not in (["control"], ["dispatch"], ["scheduler"]):
        sys.exit("usage: python -m worker control | dispatch | scheduler")
    main(sys.argv[1])
