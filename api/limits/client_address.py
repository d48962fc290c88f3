"""The address of a client: the connection's, or the one that trusted proxies report."""

from ipaddress import IPv6Address, ip_address

from flask import Request

# A customer of a provider has at least this many IPv6 addresses, and could use each of them.
IPV6_PREFIX_BITS = 64


def client_network(request: Request, trusted_hops: int) -> str:
    """Return the client's IPv4 address, or the network of its IPv6 address.

    `trusted_hops` proxies are in front of the API, each of which appends the address that it sees
    to X-Forwarded-For; entries before those come from the client, and are ignored.
    """
    address = request.remote_addr or ""
    if trusted_hops:
        entries = ",".join(request.headers.getlist("X-Forwarded-For")).split(",")
        if len(entries) >= trusted_hops:
            address = entries[-trusted_hops].strip() or address
    return normalise_address(address)


def normalise_address(text: str) -> str:
    """Return an address without its port, as a network if it is IPv6; `unknown` if it is none."""
    host = text
    if text.startswith("["):
        host = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        host = text.partition(":")[0]
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return "unknown"
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    host_bits = 128 - IPV6_PREFIX_BITS
    return f"{IPv6Address(int(address) >> host_bits << host_bits)}/{IPV6_PREFIX_BITS}"
