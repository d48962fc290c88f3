"""A bare libcurl loop: the machine's speed without database, log and rules.

`python -m dev.bench.baseline URL TOKEN COUNT CONCURRENCY FIRST_ID` posts COUNT messages, with the
same bodies as the product, and prints the seconds that took.
"""

import sys
import time

import pycurl

BODY_TAIL = b',"text":"Hello"}'


def post_messages(url: str, token: str, count: int, concurrency: int, first_id: int) -> float:
    """Post `count` messages, `concurrency` at once; return the seconds it took."""
    multi = pycurl.CurlMulti()
    multi.setopt(pycurl.M_MAXCONNECTS, concurrency)
    idle = []
    for _ in range(concurrency):
        curl = pycurl.Curl()
        curl.setopt(pycurl.POST, 1)
        curl.setopt(pycurl.TCP_NODELAY, 1)
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(
            pycurl.HTTPHEADER,
            [f"Authorization: Bearer {token}", "Content-Type: application/json", "Expect:"],
        )
        curl.setopt(pycurl.WRITEFUNCTION, [].append)
        idle.append(curl)
    started, sent, done = time.monotonic(), 0, 0
    while done < count:
        while idle and sent < count:
            curl, message_id = idle.pop(), first_id + sent
            curl.setopt(pycurl.URL, f"{url}/v1/send/{message_id}")
            curl.setopt(
                pycurl.POSTFIELDS, b'{"id":%d,"phone":79160000000%b' % (message_id, BODY_TAIL)
            )
            multi.add_handle(curl)
            sent += 1
        multi.perform()
        more = 1
        while more:
            more, good, bad = multi.info_read()
            if bad:
                raise RuntimeError(bad[0][2])
            for curl in good:
                if curl.getinfo(pycurl.RESPONSE_CODE) != 200:
                    raise RuntimeError("not accepted")
                multi.remove_handle(curl)
                idle.append(curl)
                done += 1
        if not idle or sent == count:
            multi.select(0.1)
    return time.monotonic() - started


if __name__ == "__main__":
    address, bearer, *numbers = sys.argv[1:]
    print(post_messages(address, bearer, *map(int, numbers)))
