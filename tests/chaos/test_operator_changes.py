"""Operators who change their minds while messages are on their way."""

import time

from tests.chaos.conftest import Watch
from tests.chaos.run_options import pick
from tests.support.system import System
from tests.support.waiting import wait_for


def test_pause_resume_and_cancel(system: System, watch: Watch) -> None:
    system.provider.set(latency=0.1)
    with watch("pause, resume, cancel in mid-flight") as witness:
        mailing = witness.mailing(pick(3_000, 10_000))
        witness.wait_received(200)
        for _ in range(pick(2, 6)):
            system.call("POST", f"/mailings/{mailing}/pause")
            system.call("POST", f"/mailings/{mailing}/pause")
            paused = time.time()
            time.sleep(1.5)
            late = witness.arrivals(paused + 1.0)
            assert not late, f"{len(late)} left a second after the pause"
            system.call("POST", f"/mailings/{mailing}/resume")
            witness.recovered(time.time(), 5)
        system.call("POST", f"/mailings/{mailing}/cancel")
        cancelled = time.time()
        wait_for(lambda: system.statistics(mailing)["counts"]["pending"] == 0, 10, "all cancelled")
        assert not witness.arrivals(cancelled + 1.0)
        counts = system.statistics(mailing)["counts"]
        assert counts["sent"] + counts["cancelled"] == witness.verdict.audience
        assert counts["cancelled"] > 0


def test_what_failed_is_tried_again(system: System, watch: Watch) -> None:
    with watch("retry-failed after rejects") as witness:
        mailing = witness.mailing(pick(1_000, 5_000), starts_in=1.0)
        bad = sorted(witness.mailings[mailing].phones)[::3]
        system.provider.set(latency=0.02, phones=dict.fromkeys(bad, "reject_400"))
        done = system.wait_finished(mailing, 30)
        assert done["counts"]["failed"] == len(bad)
        system.provider.set(phones={})
        system.call("POST", f"/mailings/{mailing}/retry-failed")
        asked = time.time()
        done = system.wait_finished(mailing, 30)
        assert done["counts"]["sent"] == done["audience"]
        witness.verdict.recovery_s = time.time() - asked


def test_text_phone_and_zone_are_changed(system: System, watch: Watch) -> None:
    system.provider.set(latency=0.2)
    with watch("PATCH of text, phone, zone in mid-flight") as witness:
        mailing = witness.mailing(pick(1_500, 4_000))
        witness.wait_received(50)
        witness.may_say(mailing, "changed in mid-flight")
        system.call("PATCH", f"/mailings/{mailing}", json={"text": "changed in mid-flight"})
        query = """SELECT m.client_id, c.phone FROM messages m JOIN clients c ON c.id = m.client_id
            WHERE mailing_id = %s AND status = 'pending' ORDER BY m.id DESC LIMIT 400"""
        waiting = system.query(query, mailing)
        changed = {}
        for n, (client_id, phone) in enumerate(waiting[::10]):
            if n % 2:
                new = phone + 500_000_000
                witness.mailings[mailing].phones[new] = "Europe/Moscow"
                system.call("PATCH", f"/clients/{client_id}", json={"phone": str(new)})
                changed[phone] = new
            else:
                system.call("PATCH", f"/clients/{client_id}", json={"timezone": "Asia/Omsk"})
        asked = time.time()
        done = system.wait_finished(mailing, 60)
        assert done["counts"]["sent"] == done["audience"]
        rows = witness.arrivals()
        texts = [row["text"] for row in rows]
        assert 0 < texts.count("changed in mid-flight") < len(texts)
        reached = {row["phone"] for row in rows}
        for old, new in changed.items():
            assert (old in reached) != (new in reached)
        old_ones = [row for row in rows if row["phone"] in changed and row["at"] > asked + 1.5]
        assert not old_ones, "an old phone long after it was changed"


def test_a_window_is_changed(system: System, watch: Watch) -> None:
    system.provider.set(latency=0.2)
    with watch("PATCH of window in mid-flight") as witness:
        mailing = witness.mailing(pick(1_500, 4_000), zones=("UTC", "Etc/GMT-12"))
        witness.wait_received(50)
        hour = time.gmtime().tm_hour
        window = {"from": f"{(hour + 11) % 24:02d}:00", "to": f"{(hour + 14) % 24:02d}:00"}
        system.call("PATCH", f"/mailings/{mailing}", json={"window": window})
        changed = time.time()
        # In the one zone it is open, in the other it shut in mid-mailing.
        wait_for(
            lambda: (
                system.statistics(mailing)["waiting"]
                == system.statistics(mailing)["counts"]["pending"]
            ),
            30,
            "all that may be sent to be sent",
        )
        rows = witness.arrivals(changed + 1.0)
        zones = {witness.mailings[mailing].phones[row["phone"]] for row in rows}
        assert zones == {"Etc/GMT-12"}
        system.call("PATCH", f"/mailings/{mailing}", json={"window": None})
        opened = time.time()
        done = system.wait_finished(mailing, 30)
        assert done["counts"]["sent"] == done["audience"]
        witness.verdict.recovery_s = witness.arrivals(opened)[0]["at"] - opened
