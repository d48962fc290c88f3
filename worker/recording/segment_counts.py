"""Counts the SMS segments of messages that are sent or in doubt, while outcomes are recorded.

A message counts once, with the segments it had when it was first sent or in doubt.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import UTC, datetime

from psycopg2.extensions import cursor as Cursor

from shared.db.message_segments import measure_messages
from shared.db.minute_counts import IN_DOUBT_SEGMENTS, SENT_SEGMENTS, MinuteKey
from shared.domain.statuses import MessageStatus
from worker.recording.batch_report import BatchReport
from worker.recording.state_machine import MessageReport, MessageState


def count_accepted(report: BatchReport, delta: Counter[str], minutes: Counter[MinuteKey]) -> None:
    """Count a report's accepted messages, which were pending and not in doubt."""
    sent = Counter(int(at) // 60 for _, at in report.accepted)
    if report.text_segments is None:
        segments: Counter[int] = Counter()
        for id_, at in report.accepted:
            segments[int(at) // 60] += report.segments[id_]
    else:
        segments = Counter({minute: n * report.text_segments for minute, n in sent.items()})
    for minute, n in sent.items():
        instant = datetime.fromtimestamp(minute * 60, UTC)
        minutes[MinuteKey(report.mailing_id, instant, MessageStatus.SENT)] += n
        minutes[MinuteKey(report.mailing_id, instant, SENT_SEGMENTS)] += segments[minute]
    total = len(report.accepted)
    delta.update({"pending": -total, "sent": total, SENT_SEGMENTS: segments.total()})


def find_segments(
    cursor: Cursor,
    mailing_id: int,
    reports: Sequence[tuple[BatchReport, MessageReport]],
    counted: Mapping[int, int | None],
    charged: Set[int],
) -> dict[int, int]:
    """Return the segments of the `charged` messages, which are sent or in doubt by now, by id.

    `counted` has what was stored before. What was not reported is measured.
    """
    found = {id_: n for id_ in charged if (n := counted[id_]) is not None}
    for batch, report in reports:
        id_ = report.message_id
        n = batch.segments.get(id_) if batch.text_segments is None else batch.text_segments
        if id_ in charged and n is not None:
            found.setdefault(id_, n)
    if unknown := charged - found.keys():
        found |= measure_messages(cursor, mailing_id, unknown)
    return found


def count_moved(
    old: MessageState, new: MessageState, counted: int, segments: int
) -> Iterator[tuple[str, int]]:
    """Yield the changes of the counts of segments; `counted` are those counted as in doubt."""
    if doubt := new.in_doubt * segments - old.in_doubt * counted:
        yield IN_DOUBT_SEGMENTS, doubt
    if new.status == MessageStatus.SENT:
        yield SENT_SEGMENTS, segments
