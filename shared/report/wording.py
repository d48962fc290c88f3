"""The report's words, in English and in Russian, and how each writes numbers and times."""

import math
from datetime import date, datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo


class Words(NamedTuple):
    """Everything the report says in words, and the signs within its numbers."""

    thousands: str
    decimal: str
    percent: str
    units: tuple[str, str, str]  # second, minute, hour
    months: str
    date_format: str
    subject: str
    subject_quiet: str
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
    more: str
    attention: str
    paused: str
    never: str
    too_slow: str
    openings: str
    reasons: str
    nothing: str
    deleted: str
    footer: str
    statuses: dict[str, str]
    causes: dict[str, str]

    def number(self, n: int) -> str:
        return ("−" if n < 0 else "") + f"{abs(n):,}".replace(",", self.thousands)

    def percentage(self, share: float) -> str:
        """Rounded down: what is not all is not 100 %."""
        return f"{math.floor(share * 1000) / 10:.1f}".replace(".", self.decimal) + self.percent

    def duration(self, seconds: float) -> str:
        second, minute, hour = self.units
        if seconds < 120:
            text = f"{seconds:.1f} {second}"
        elif seconds < 7200:
            text = f"{seconds / 60:.0f} {minute}"
        else:
            text = f"{seconds / 3600:.1f} {hour}"
        return text.replace(".", self.decimal).replace(" ", "\u00a0")

    def day(self, day: date) -> str:
        month = self.months.split()[day.month - 1]
        return self.date_format.format(day=day.day, month=month, year=day.year)

    def time(self, at: datetime, zone: str) -> str:
        """An instant with its zone: 22 Nov 2026, 09:00 MSK."""
        local = at.astimezone(ZoneInfo(zone))
        name = local.strftime("%Z")
        return f"{self.day(local.date())}, {local:%H:%M} {'UTC' * (name[0] in '+-')}{name}"

    def cause(self, reason: str) -> str:
        """Why something failed: what we say in the reader's words, the provider's as it is."""
        head, colon, rest = reason.partition(": ")
        text = self.causes.get(head, head) + colon + rest
        return text if len(text) <= 120 else text[:119] + "…"


WORDS = {
    "en": Words(
        thousands=",",
        decimal=".",
        percent="%",
        units=("s", "min", "h"),
        months="Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec",
        date_format="{day} {month} {year}",
        subject="Mailings on {day}: {sent} accepted",
        subject_quiet="Mailings on {day}: none",
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
        p95="95% within",
        total="All mailings",
        more="… and {n} smaller mailings: see the attached table.",
        attention="What needs attention",
        paused="Mailing #{id} is paused: unless it is resumed it ends on {end} with messages left.",
        never="Mailing #{id}: {n} messages cannot leave before its end on {end}, as the hours in "
        "which their recipients may be written to come too late.",
        too_slow="Mailing #{id} will not be through by its end on {end} at its present pace: "
        "{n} messages are due, {pace} a minute are leaving.",
        openings="Sending was stopped because {reason} (times that day: {n}).",
        reasons="{n} messages failed: {reason}.",
        nothing="Nothing.",
        deleted="deleted",
        footer="“Accepted” means accepted by the provider. Accepted, failed, expired and cancelled "
        "count what changed on this day; a negative number says that failed messages are being "
        "tried again. Pending: what was left at the end of the day. In doubt: messages that may "
        "have been delivered although that is not known. Waits run from when a message was due "
        "to when it was accepted. Days and times are those of {zone}.",
        statuses={
            "scheduled": "scheduled",
            "running": "running",
            "paused": "paused",
            "finished": "finished",
            "cancelled": "cancelled",
        },
        causes={
            "": "no reason is known",
            "rejected": "rejected by the provider",
            "attempts exhausted": "attempts exhausted",
            "unavailable": "the provider did not answer",
            "unknown": "the provider's answers could not be understood, or broke off",
            "unauthorized": "the provider refused our token",
        },
    ),
    "ru": Words(
        thousands="\u00a0",
        decimal=",",
        percent="\u00a0%",
        units=("с", "мин", "ч"),
        months="января февраля марта апреля мая июня июля августа сентября октября ноября декабря",
        date_format="{day} {month} {year}",
        subject="Рассылки за {day}: принято {sent}",
        subject_quiet="Рассылки за {day}: не было",
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
        p95="95\u00a0% за",
        total="Все рассылки",
        more="… и ещё {n} (меньшие): они в приложенной таблице.",
        attention="Что требует внимания",
        paused="Рассылка №\u00a0{id} приостановлена: если её не продолжить, {end} она закончится "
        "с неотправленными сообщениями.",
        never="Рассылка №\u00a0{id}: сообщений, которые не уйдут до её окончания {end}: {n}. "
        "Часы, в которые можно писать их получателям, наступят слишком поздно.",
        too_slow="Рассылка №\u00a0{id} при нынешней скорости не успеет до своего окончания {end}: "
        "ждут отправки {n}, уходит {pace} в минуту.",
        openings="Отправка останавливалась: {reason} (раз за день: {n}).",
        reasons="Не удалось сообщений: {n}. Причина: {reason}.",
        nothing="Ничего.",
        deleted="удалена",
        footer="«Принято» значит «принято провайдером». «Принято», «не удалось», «истекло» и "
        "«отменено» считают изменения за этот день; отрицательное число значит, что неудавшиеся "
        "сообщения отправляются снова. «Ожидает» — сколько оставалось к концу дня. «Под вопросом» "
        "— сообщения, которые могли дойти, хотя это неизвестно. Ожидание считается с момента, "
        "когда сообщение могло уйти, до принятия. Дни и время — по часовому поясу {zone}.",
        statuses={
            "scheduled": "запланирована",
            "running": "идёт",
            "paused": "приостановлена",
            "finished": "завершена",
            "cancelled": "отменена",
        },
        causes={
            "": "причина неизвестна",
            "rejected": "отклонено провайдером",
            "attempts exhausted": "попытки исчерпаны",
            "unavailable": "провайдер не отвечал",
            "unknown": "ответы провайдера обрывались или были непонятны",
            "unauthorized": "провайдер не принял наш токен",
        },
    ),
}
