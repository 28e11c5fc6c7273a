from __future__ import annotations

import pytest

from service.addresses import is_public


@pytest.mark.parametrize("address", ["93.184.215.14", "1.1.1.1", "2606:4700:4700::1111"])
def test_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.0.1",
        "192.0.2.1",
        "192.88.99.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "::ffff:93.184.215.14",
        "::ffff:0:127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::93.184.215.14",
        "64:ff9b:1::a00:1",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1",
        "fd00:ec2::254",
        "64:ff9b::a9fe:a9fe",
        "::ffff:a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "::127.0.0.1",
        "0:0:0:0:0:ffff:7f00:1",
        "3fff::1",
        "100::1",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "fe80::1%eth0",
        "2606:4700:4700::1111%eth0",
        "fec0::1",
        "ff02::1",
        # Not numeric addresses, or not in a spelling that means one thing only.
        "localhost",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0x7f.0.0.1",
        "017700000001",
        "127.000.000.001",
        "2852039166",
        "127.0.0.1:443",
        "[::1]",
        "①②⑦.0.0.1",
        "127.1",
        "127.0.0.1.",
        " 127.0.0.1",
        "１２７.0.0.1",
        "",
    ],
)
def test_not_public(address: str) -> None:
    assert not is_public(address)
