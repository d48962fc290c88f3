"""The simulated provider: implements the real one's contract, fails on demand, logs requests.

`http1` parses requests and renders responses, `connection` serves one client, `provider` checks and
records each message (`request_log`), `faults` defines the ways an answer can go wrong, `capacity`
limits the messages served at once, `control` is the HTTP interface for tests and `client` its
client.
"""
