"""The simulated provider: it speaks the real one's contract, misbehaves on demand, and is the
witness that tests question afterwards about what it received.

A request's way: `http1` reads it, `connection` carries it, `provider` judges and records it
(`witness`), `faults` says how the answer goes wrong, `control` is the door for tests, and
`client` is the other side of that door.
"""
