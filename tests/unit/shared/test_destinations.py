"""Where webhooks may go: spellings of private places, one by one, and the public ones beside them."""

from __future__ import annotations

import socket
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import WebhookDestinationRefused
from shared.webhooks.destinations import REFUSED_IPV4, is_allowed, resolve

#: Ways to write a place that is not public, or a URL that is more than one place to different readers.
REFUSED_URLS = [
    # loopback
    "https://127.0.0.1/",
    "https://127.1/",
    "https://127.0.1/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.0.0.1/",
    "https://0x7F.1/",
    "https://0177.0.0.1/",
    "https://017700000001/",
    "https://00000177.0x0.0.1/",
    "https://127.255.255.254/",
    "https://localhost/",
    "https://LOCALHOST/",
    "https://0/",
    "https://0.0.0.0/",
    "https://[::1]/",
    "https://[::]/",
    "https://[0:0:0:0:0:0:0:1]/",
    "https://[0000:0000:0000:0000:0000:0000:0000:0001]:443/",
    # IPv4 in IPv6
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[::FFFF:10.0.0.1]/",
    "https://[::ffff:93.184.215.14]/",
    "https://[::127.0.0.1]/",
    "https://[::7f00:1]/",
    "https://[::ffff:0:127.0.0.1]/",
    "https://[64:ff9b::127.0.0.1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[64:ff9b:1::1]/",
    "https://[2002:7f00:1::]/",
    "https://[2002:c0a8:101::1]/",
    "https://[2001:0:4136:e378:8000:63bf:80ff:fffe]/",
    # private, link-local, shared, special
    "https://10.0.0.1/",
    "https://172.16.0.1/",
    "https://172.31.255.255/",
    "https://192.168.1.1/",
    "https://0xc0a80101/",
    "https://3232235777/",
    "https://0300.0250.1.1/",
    "https://169.254.169.254/latest/meta-data/",
    "https://2852039166/",
    "https://0xa9fea9fe/",
    "https://168.63.129.16/",
    "https://100.64.0.1/",
    "https://100.100.100.200/",
    "https://192.0.0.8/",
    "https://198.18.0.1/",
    "https://203.0.113.7/",
    "https://224.0.0.1/",
    "https://240.0.0.1/",
    "https://255.255.255.255/",
    "https://[fe80::1]/",
    "https://[fe80::1%25lo]/",
    "https://[fec0::1]/",
    "https://[fc00::1]/",
    "https://[fd00:ec2::254]/",
    "https://[ff02::1]/",
    "https://[100::1]/",
    "https://[2001:db8::1]/",
    "https://[3fff::1]/",
    "https://[5f00::1]/",
    # one URL, two readings
    "https://93.184.215.14@127.0.0.1/",
    "https://user:password@93.184.215.14/",
    "https://@93.184.215.14/",
    "https://93.184.215.14\\@127.0.0.1/",
    "https://127.0.0.1\\.93.184.215.14/",
    "https://127.0.0.1%2f.example.com/",
    "https://127%2e0%2e0%2e1/",
    "https://%31%32%37.0.0.1/",
    "https://127。0。0。1/",
    "https://①②⑦.0.0.1/",
    "https://[::1/",
    "https://[127.0.0.1]/",
    "https://93.184.215.14:99999/",
    "https:///127.0.0.1/",
    "https://",
    # not https
    "http://93.184.215.14/",
    "//93.184.215.14/",
    "93.184.215.14",
    "ftp://93.184.215.14/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_FLUSHALL",
]


@pytest.mark.parametrize("url", REFUSED_URLS)
def test_a_place_that_is_not_public_is_refused_however_it_is_written(url: str) -> None:
    with pytest.raises(WebhookDestinationRefused):
        resolve(url, allow_http=False, allowed=())


@pytest.mark.parametrize(
    "url",
    [
        "https://93.184.215.14/",
        "https://93.184.215.14:8443/hook?x=1#y",
        "https://1572395790/",
        "HTTPS://8.8.8.8",
        "https://172.15.0.1/",
        "https://172.32.0.1/",
        "https://100.128.0.1/",
        "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/",
    ],
)
def test_a_public_place_is_taken(url: str) -> None:
    assert resolve(url, allow_http=False, allowed=())


def test_one_address_of_many_that_is_not_public_refuses_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, 1, 6, "", (address, 443)) for address in ("93.184.215.14", "10.0.0.1")]

    monkeypatch.setattr("shared.webhooks.destinations.getaddrinfo", found)
    with pytest.raises(WebhookDestinationRefused, match="not public"):
        resolve("https://two-faces.example/", allow_http=False, allowed=())
    inside = (ip_network("10.0.0.0/8"),)
    assert resolve("https://two-faces.example/", allow_http=False, allowed=inside) == [
        ip_address("93.184.215.14"),
        ip_address("10.0.0.1"),
    ]


INSIDE: tuple[IPv4Network | IPv6Network, ...] = (IPv4Network("10.1.0.0/16"), IPv6Network("fd00::/64"))


@pytest.mark.parametrize("url", ["https://10.1.2.3/", "https://0x0a010203/", "https://[fd00::7]/"])
def test_an_allowed_network_is_reached(url: str) -> None:
    assert resolve(url, allow_http=False, allowed=INSIDE)


@pytest.mark.parametrize("url", ["https://10.2.0.1/", "https://[::ffff:10.1.2.3]/", "https://[fd00:0:0:1::7]/"])
def test_what_lies_beside_an_allowed_network_is_not(url: str) -> None:
    with pytest.raises(WebhookDestinationRefused):
        resolve(url, allow_http=False, allowed=INSIDE)


@given(st.ip_addresses(v=4))
def test_of_ipv4_only_what_python_takes_for_global_is_public(address: object) -> None:
    parsed = ip_address(str(address))
    if is_allowed(parsed, ()):
        assert parsed.is_global
        assert not parsed.is_multicast


@given(st.sampled_from(REFUSED_IPV4), st.integers(0, 2**32 - 1))
def test_a_refused_ipv4_address_is_refused_in_every_ipv6_coat(network: IPv4Network, offset: int) -> None:
    address = network[offset % network.num_addresses]
    assert not is_allowed(address, ())
    number = int(address)
    coats = (number, 0xFFFF << 32 | number, 0x0064FF9B << 96 | number, 0x2002 << 112 | number << 80)
    for coat in coats:
        assert not is_allowed(ip_address(coat.to_bytes(16, "big")), ())
