"""Operators change a mailing or a client while messages are being sent."""

import time

from tests.chaos.conftest import Observe
from tests.chaos.run_options import short_or_long
from tests.support.system import System
from tests.support.waiting import wait_for


def test_pause_and_cancel_stop_sending_within_a_second(system: System, observe: Observe) -> None:
    system.provider.set(latency=0.1)
    with observe("pause, resume, cancel in mid-flight") as observer:
        mailing = observer.create_mailing(short_or_long(3_000, 10_000))
        observer.wait_for_requests(200)
        for _ in range(short_or_long(2, 6)):
            system.call("POST", f"/mailings/{mailing}/pause")
            system.call("POST", f"/mailings/{mailing}/pause")
            paused = time.time()
            time.sleep(1.5)
            late = observer.find_requests(paused + 1.0)
            assert not late, f"{len(late)} requests more than a second after the pause"
            system.call("POST", f"/mailings/{mailing}/resume")
            observer.wait_for_recovery(time.time(), 5)
        system.call("POST", f"/mailings/{mailing}/cancel")
        cancelled = time.time()
        wait_for(lambda: system.statistics(mailing)["counts"]["pending"] == 0, 10, "all cancelled")
        assert not observer.find_requests(cancelled + 1.0)
        counts = system.statistics(mailing)["counts"]
        assert counts["sent"] + counts["cancelled"] == observer.result.audience
        assert counts["cancelled"] > 0


def test_retry_failed_sends_rejected_messages(system: System, observe: Observe) -> None:
    with observe("retry-failed after rejects") as observer:
        mailing = observer.create_mailing(short_or_long(1_000, 5_000), starts_in=1.0)
        rejected = sorted(observer.mailings[mailing].phones)[::3]
        system.provider.set(latency=0.02, phones=dict.fromkeys(rejected, "reject_400"))
        done = system.wait_finished(mailing, 30)
        assert done["counts"]["failed"] == len(rejected)
        system.provider.set(phones={})
        system.call("POST", f"/mailings/{mailing}/retry-failed")
        requested = time.time()
        done = system.wait_finished(mailing, 30)
        assert done["counts"]["sent"] == done["audience"]
        observer.result.recovery_s = time.time() - requested


def test_changed_text_phone_and_zone_apply_to_unsent_messages(
    system: System, observe: Observe
) -> None:
    system.provider.set(latency=0.2)
    with observe("PATCH of text, phone, zone in mid-flight") as observer:
        mailing = observer.create_mailing(short_or_long(1_500, 4_000))
        observer.wait_for_requests(50)
        observer.expect_text(mailing, "changed in mid-flight")
        system.call("PATCH", f"/mailings/{mailing}", json={"text": "changed in mid-flight"})
        query = """SELECT m.client_id, c.phone FROM messages m JOIN clients c ON c.id = m.client_id
            WHERE mailing_id = %s AND status = 'pending' ORDER BY m.id DESC LIMIT 400"""
        waiting = system.query(query, mailing)
        changed = {}
        for n, (client_id, phone) in enumerate(waiting[::10]):
            if n % 2:
                new = phone + 500_000_000
                observer.mailings[mailing].phones[new] = "Europe/Moscow"
                system.call("PATCH", f"/clients/{client_id}", json={"phone": str(new)})
                changed[phone] = new
            else:
                system.call("PATCH", f"/clients/{client_id}", json={"timezone": "Asia/Omsk"})
        requested = time.time()
        done = system.wait_finished(mailing, 60)
        assert done["counts"]["sent"] == done["audience"]
        rows = observer.find_requests()
        texts = [row["text"] for row in rows]
        assert 0 < texts.count("changed in mid-flight") < len(texts)
        reached = {row["phone"] for row in rows}
        for old, new in changed.items():
            assert (old in reached) != (new in reached)
        late = [row for row in rows if row["phone"] in changed and row["at"] > requested + 1.5]
        assert not late, "requests to an old phone long after it was changed"


def test_changed_window_applies_to_a_running_mailing(system: System, observe: Observe) -> None:
    system.provider.set(latency=0.2)
    with observe("PATCH of window in mid-flight") as observer:
        mailing = observer.create_mailing(short_or_long(1_500, 4_000), zones=("UTC", "Etc/GMT-12"))
        observer.wait_for_requests(50)
        hour = time.gmtime().tm_hour
        window = {"from": f"{(hour + 11) % 24:02d}:00", "to": f"{(hour + 14) % 24:02d}:00"}
        system.call("PATCH", f"/mailings/{mailing}", json={"window": window})
        changed = time.time()
        # The window is open in one zone and has closed in the other.
        wait_for(
            lambda: (
                system.statistics(mailing)["waiting"]
                == system.statistics(mailing)["counts"]["pending"]
            ),
            30,
            "everything in an open zone to be sent",
        )
        rows = observer.find_requests(changed + 1.0)
        zones = {observer.mailings[mailing].phones[row["phone"]] for row in rows}
        assert zones == {"Etc/GMT-12"}
        system.call("PATCH", f"/mailings/{mailing}", json={"window": None})
        opened = time.time()
        done = system.wait_finished(mailing, 30)
        assert done["counts"]["sent"] == done["audience"]
        observer.result.recovery_s = observer.find_requests(opened)[0]["at"] - opened
