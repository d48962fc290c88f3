"""One worker of test_rate_limiter.py: a loop that sends whatever the rate limiter allows.

Arguments: the URL of Redis, seconds, the fleet's rate, the mailings with their own rates, and the
most messages per second that this worker can send (0: no such limit). It prints "ready", reads
from stdin when to begin (boottime), and prints the time and mailing of each message sent. Between
slots it waits for 5 ms as the sending loop does.
"""

import ast
import sys
import time

import structlog

from worker.provider.rate_limiter import RateLimiter
from worker.provider.redis_client import FailFastRedis, sending_loop_client
from worker.runtime.clock import boottime

url, seconds = sys.argv[1], float(sys.argv[2])
rate = None if sys.argv[3] == "None" else float(sys.argv[3])
mailings: dict[int, float | None] = ast.literal_eval(sys.argv[4])
max_rate = float(sys.argv[5])
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

limiter = RateLimiter(FailFastRedis(sending_loop_client(url)), rate)
demands = {mailing: (own, 1000) for mailing, own in mailings.items()}
sent: list[tuple[float, int]] = []
print("ready", flush=True)
begin = float(sys.stdin.readline())
while boottime() < begin:
    time.sleep(0.001)
while (now := boottime()) < begin + seconds:
    limiter.refill(demands, now)
    for mailing, own in mailings.items():
        while not max_rate or len(sent) < max_rate * (now - begin):
            deadline = limiter.acquire(mailing, own, now := boottime())
            if not deadline:
                break
            if (at := boottime()) < deadline:
                sent.append((at, mailing))
    time.sleep(0.001 if max_rate else 0.005)
sys.stdout.write("".join(f"{at} {mailing}\n" for at, mailing in sent))
