import os
from tests.integration import test_books as tb
from tests.integration.test_books import machine_url, Books
import worker.record as R, shared.ledger as L, worker.claims as C, worker.bulk as B, worker.transitions as T
m = os.environ["MUT"]
if m=="totals": R._Page._move_totals = lambda self: None
if m=="repeat":
    orig=R._Page._lock
    def _lock(self, flushes):
        orig(self, flushes); return list(flushes)
    R._Page._lock=_lock
if m=="doubt": L.DOUBT=L.DOUBT.replace("in_doubt + (SELECT count(*) FROM doubted)","in_doubt")
if m=="end": L.END_PENDING=L.END_PENDING.replace("AND status = 'pending'","AND status <> 'sent'")
if m=="move": L.MOVE=L.MOVE.replace("1, 1, moved.in_doubt::int","1, 1, 0")
if m=="claim":
    C.CLAIM=C.CLAIM.replace("status = 'running'","status <> 'scheduled'")
if m=="retry": B.RETRY=B.RETRY.replace("failed = failed - n","failed = 0")
if m=="accept":
    import functools
    o=T.transition
    def t(previous, report, fenced, mx):
        if not fenced and report.accepted_at is not None: return previous
        return o(previous, report, fenced, mx)
    R.transition=t
if m=="strangers":
    o2=R._Page._reconsider
    src=R.READ
    R.READ=R.READ.replace("ORDER BY id"," ORDER BY id")
import atexit; atexit.register(lambda: print(tb.MET))
test_it = tb.test_the_books_add_up_whatever_happens
