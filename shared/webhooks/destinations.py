"""Where webhooks may go: to public unicast addresses, and to networks that the operator named.

Named one by one, as Smokescreen and the IANA special-purpose address registries do: `is_global` of Python 3.11 is true
for addresses that embed private ones (64:ff9b::7f00:1, 2002:7f00:1::, ::7f00:1), for fec0::1, 192.0.0.8 and 224.0.0.1.
"""

from __future__ import annotations

import ipaddress
import re
from socket import SOCK_STREAM, getaddrinfo
from urllib.parse import SplitResult, urlsplit

from shared.errors import WebhookDestinationRefused
from shared.setting_types import Networks

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

REFUSED_IPV4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by carriers' customers (CGNAT)
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's host, as its virtual machines see it; no registry says so
        "169.254.0.0/16",  # link-local, and the clouds' metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # IETF protocol assignments
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # multicast tunnels (AMT)
        "192.88.99.0/24",  # 6to4 relay anycast
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
#: All that is global unicast lies in here: not loopback, link-local, unique local, site-local, multicast, NAT64, and
#: not the addresses that are IPv4 ones in disguise (mapped, compatible, translated).
GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
REFUSED_IPV6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # IETF protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: leads to the IPv4 address in it
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
#: Names and addresses as they are written in URLs; what a resolver would do with anything else is anybody's guess.
HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")


def is_allowed(address: Address, allowed: Networks) -> bool:
    """Whether deliveries may go to this address: a public unicast one, or one in a network that the operator named."""
    if any(address in network for network in allowed if network.version == address.version):
        return True
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in REFUSED_IPV4)
    return address in GLOBAL_UNICAST and not any(address in network for network in REFUSED_IPV6)


def addresses_of(host: str, port: int | None, allowed: Networks) -> list[Address]:
    """Every address of a host, resolved now; WebhookDestinationRefused when one of them is not allowed, or none is."""
    if not HOST.fullmatch(host):
        raise WebhookDestinationRefused("the URL's host is not a name or an address")
    try:
        found = getaddrinfo(host, port, type=SOCK_STREAM)
        # A scope (`fe80::1%eth0`) is part of what is not allowed.
        addresses = [ipaddress.ip_address(info[4][0]) for info in found]
    except (OSError, UnicodeError, ValueError) as error:
        raise WebhookDestinationRefused("the URL's host cannot be resolved") from error
    if not addresses or not all(is_allowed(address, allowed) for address in addresses):
        raise WebhookDestinationRefused("the URL's host has an address that is not public")
    return list(dict.fromkeys(addresses))


def check_url(url: str, *, allow_http: bool) -> SplitResult:
    """Return the URL's parts.

    WebhookDestinationRefused for one that nothing is sent to, whatever its host resolves to.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise WebhookDestinationRefused("the URL is malformed") from error
    if parts.scheme != "https" and not (allow_http and parts.scheme == "http"):
        raise WebhookDestinationRefused("the URL must begin with https://")
    if not parts.hostname or "@" in parts.netloc or "\\" in url:
        raise WebhookDestinationRefused("the URL needs a host, and takes no user name, password or backslash")
    return parts


def resolve(url: str, *, allow_http: bool, allowed: Networks) -> list[Address]:
    """Every address of the URL's host; WebhookDestinationRefused when the URL or any of them is not allowed."""
    parts = check_url(url, allow_http=allow_http)
    return addresses_of(parts.hostname or "", parts.port, allowed)
