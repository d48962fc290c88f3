"""Start one worker process: `python -m worker control | sweep | dispatch | scheduler`."""

import sys

from shared.config.settings import Settings, WorkerSettings, load_settings
from shared.logging import log_config
from shared.redis_client import patient_client
from shared.startup import log_start, wait_for_database
from worker.runtime.heartbeat import touch_heartbeat
from worker.runtime.rq_worker import FleetWorker, stopping


def main(role: str) -> None:
    if role == "scheduler":
        from worker.runtime.scheduler import FleetScheduler

        settings = load_settings(Settings)
        log_config.configure_logging(role, settings.log_level, settings.log_format)
        log_start(None, settings.redis_url)
        connection = patient_client(settings.redis_url, stopping, touch_heartbeat)
        FleetScheduler(connection, settings.redis_url).run()
        return
    from worker.jobs import WorkerContext

    settings = load_settings(WorkerSettings)
    log_config.configure_logging(role, settings.log_level, settings.log_format)
    log_start(settings.database_url, settings.redis_url, provider=settings.provider_url)
    connection = patient_client(settings.redis_url, stopping, touch_heartbeat)
    WorkerContext.use_settings(settings)
    WorkerContext.worker = FleetWorker(role, connection, settings.redis_url)
    WorkerContext.worker.install_signal_handlers()
    wait_for_database(settings.database_url, stopping, touch_heartbeat)
    if role == "dispatch" and settings.journal_dir is not None:
        WorkerContext.start_journals(settings.journal_dir)
    try:
        WorkerContext.worker.work()
    finally:
        if WorkerContext.journals is not None:
            WorkerContext.journals.close()


if __name__ == "__main__":
    if sys.argv[1:] not in (["control"], ["sweep"], ["dispatch"], ["scheduler"]):
        sys.exit("usage: python -m worker control | sweep | dispatch | scheduler")
    main(sys.argv[1])
