"""Server-sent events with live figures, to which the pages of the admin UI subscribe.

Each response is one event, after which the browser connects again. So open pages occupy no thread
of the web server between events, and do not delay its restart.
"""

from typing import Any

import orjson
from flask import Blueprint, Response, request

from api.admin.presenters.live_figures import PARTS, alert_codes, read_snapshot, seconds_left

blueprint = Blueprint("live_updates", __name__)

RECONNECT_MILLISECONDS = 1500


@blueprint.get("/live")
def stream() -> Response:
    """Send the figures of some mailings (`?mailing=7`, repeated), or of all running ones."""
    wanted = {int(each) for each in request.args.getlist("mailing") if each.isdecimal()}
    snapshot = read_snapshot()
    shown = [
        row
        for row in snapshot.mailings.values()
        if (row["id"] in wanted if wanted else row["status"] == "running")
    ]
    figures: dict[str, Any] = {
        "mailings": [
            {
                "id": row["id"],
                "status": row["status"],
                "audience": row["audience"],
                "in_doubt": row["in_doubt"],
                "parts": {part: row[part] for part in PARTS},
                "rate": row["rate"],
                "seconds_left": seconds_left(row),
            }
            for row in shown
        ]
    }
    if not wanted:
        figures["health"] = snapshot.health
        figures["alerts"] = alert_codes(snapshot, snapshot.at)
    event = orjson.dumps(figures).decode()
    return Response(
        f"retry: {RECONNECT_MILLISECONDS}\ndata: {event}\n\n", mimetype="text/event-stream"
    )
