"""The report's words, in English and in Russian."""

from typing import NamedTuple


class Words(NamedTuple):
    """Everything the report says in words."""

    subject: str
    title: str
    quiet: str
    mailing: str
    start: str
    end: str
    status: str
    audience: str
    sent: str
    failed: str
    expired: str
    cancelled: str
    pending: str
    in_doubt: str
    share: str
    median: str
    p95: str
    total: str
    attention: str
    too_slow: str
    openings: str
    reasons: str
    nothing: str
    deleted: str
    footer: str
    statuses: dict[str, str]


WORDS = {
    "en": Words(
        subject="Mailings on {day}: {sent} accepted by the provider",
        title="Mailings on {day}",
        quiet="No mailing was active on this day.",
        mailing="Mailing",
        start="Start",
        end="End",
        status="Status",
        audience="Audience",
        sent="Accepted",
        failed="Failed",
        expired="Expired",
        cancelled="Cancelled",
        pending="Pending",
        in_doubt="In doubt",
        share="Share accepted",
        median="Median wait",
        p95="95 % waited at most",
        total="All mailings",
        attention="What needs attention",
        too_slow="At its present pace this mailing will not be through before its end: {ids}",
        openings="Sending was stopped {n} times because the provider was: {reason}",
        reasons="Why messages failed: {reason} ({n})",
        nothing="Nothing.",
        deleted="deleted",
        footer="“Accepted” means accepted by the provider. Days and times are those of {zone}. "
        "“In doubt” counts messages that may have been delivered although that is not known.",
        statuses={
            "scheduled": "scheduled",
            "running": "running",
            "paused": "paused",
            "finished": "finished",
            "cancelled": "cancelled",
        },
    ),
    "ru": Words(
        subject="Рассылки за {day}: принято провайдером — {sent}",
        title="Рассылки за {day}",
        quiet="В этот день рассылок не было.",
        mailing="Рассылка",
        start="Начало",
        end="Окончание",
        status="Состояние",
        audience="Получатели",
        sent="Принято",
        failed="Не удалось",
        expired="Истекло",
        cancelled="Отменено",
        pending="Ожидает",
        in_doubt="Под вопросом",
        share="Доля принятых",
        median="Медиана ожидания",
        p95="95 % ждали не дольше",
        total="Все рассылки",
        attention="Что требует внимания",
        too_slow="При нынешней скорости рассылка не успеет до своего окончания: {ids}",
        openings="Отправка останавливалась раз: {n}. Причина на стороне провайдера: {reason}",
        reasons="Почему сообщения не отправлены: {reason} ({n})",
        nothing="Ничего.",
        deleted="удалена",
        footer="«Принято» значит принято провайдером. Дни и время указаны по зоне {zone}. "
        "«Под вопросом» — сообщения, которые могли дойти, хотя это не известно.",
        statuses={
            "scheduled": "запланирована",
            "running": "идёт",
            "paused": "приостановлена",
            "finished": "завершена",
            "cancelled": "отменена",
        },
    ),
}
