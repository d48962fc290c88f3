"""The banner that every page shows during an emergency stop."""

from typing import NamedTuple

from flask import g, request

from api.admin.auth import LIVE_ENDPOINT, STATIC_ENDPOINTS
from api.audit_log.service import find_people_by_name
from api.policy.emergency_stop import find_stop
from shared.db.policy import Stop


class StopBanner(NamedTuple):
    """Since when sending is stopped, and the name of who stopped it."""

    stop: Stop
    name: str


def read_emergency_stop() -> None:
    """Set the banner for pages that a person sees; None while messages may be sent."""
    g.stop_banner = None
    if g.person is None or request.endpoint in {*STATIC_ENDPOINTS, LIVE_ENDPOINT}:
        return
    stop = find_stop()
    if stop.stopped_at is not None:
        actor = stop.stopped_by or ""
        person = find_people_by_name([actor]).get(actor)
        g.stop_banner = StopBanner(stop, actor if person is None else person.name)
