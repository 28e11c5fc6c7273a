"""Which network addresses are the public internet's."""

from __future__ import annotations

import ipaddress

#: IPv6 that carries an IPv4 address inside, or is routed by what stands inside: NAT64 (RFC 6052,
#: 8215), 6to4, Teredo, IPv4-mapped, -translated and -compatible. None is a server's own address.
_WRAPPED = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2002::/16",
        "2001::/32",
        "::ffff:0:0/96",
        "::ffff:0:0:0/96",
        "::/96",
    )
)
#: What `ipaddress` takes for global in one Python or another, and is not.
_SPECIAL = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "100.64.0.0/10",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "240.0.0.0/4",
        "100::/64",
        "2001:db8::/32",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
    )
)


def is_public(address: str) -> bool:
    """Whether this is the numeric address of a host on the public internet.

    Private, loopback, link-local (a cloud's metadata service among them), shared, multicast,
    reserved, documentation and IPv4-in-IPv6 addresses are not; nor is what is no numeric address.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and (
        ip.scope_id is not None or any(ip in network for network in _WRAPPED)
    ):
        return False
    if any(ip.version == network.version and ip in network for network in _SPECIAL):
        return False
    refused = ip.is_multicast or ip.is_private or ip.is_reserved or ip.is_loopback
    return ip.is_global and not (refused or ip.is_link_local or ip.is_unspecified)
