"""Start a worker process: `python -m worker control | sweep | dispatch | report | scheduler`."""

import signal
import sys

from shared.config.production import find_demo_settings
from shared.config.settings import ReportSettings, Settings, WorkerSettings, load_settings
from shared.file_limit import raise_file_limit
from shared.logging import log_config
from shared.redis_client import patient_client
from shared.startup import log_start, wait_for_database
from shared.tracing import start_tracing, stop_tracing
from worker.runtime.heartbeat import touch_heartbeat
from worker.runtime.rq_worker import STOP_SIGNALS, FleetWorker, stopping


def main(role: str) -> None:
    raise_file_limit()
    if role == "scheduler":
        from worker.runtime.scheduler import FleetScheduler

        settings = load_settings(Settings)
        log_config.configure_logging(role, settings.log_level, settings.log_format)
        log_start(None, settings.redis_url, find_demo_settings(settings))
        connection = patient_client(settings.redis_url, stopping, touch_heartbeat)
        FleetScheduler(connection, settings.redis_url).run()
        return
    if role == "report":
        run_report_process()
        return
    from worker.jobs import WorkerContext

    settings = load_settings(WorkerSettings)
    log_config.configure_logging(role, settings.log_level, settings.log_format)
    log_start(
        settings.database_url,
        settings.redis_url,
        find_demo_settings(settings),
        provider=settings.provider_url,
    )
    start_tracing(role, settings.otel_exporter_otlp_endpoint, settings.otel_traces_sampler_arg)
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
        stop_tracing()


def run_report_process() -> None:
    """Send the daily reports, with PostgreSQL and the mail server alone."""
    from worker.maintenance.daily_report import send_reports

    settings = load_settings(ReportSettings)
    log_config.configure_logging("report", settings.log_level, settings.log_format)
    demo, server = find_demo_settings(settings), settings.mail_server or "none"
    log_start(settings.database_url, None, demo, mail_server=server)
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: stopping.set())
    wait_for_database(settings.database_url, stopping, touch_heartbeat)
    send_reports(settings, stopping)


if __name__ == "__main__":
    if sys.argv[1:] not in (["control"], ["sweep"], ["dispatch"], ["report"], ["scheduler"]):
        sys.exit("usage: python -m worker control | sweep | dispatch | report | scheduler")
    main(sys.argv[1])
