# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs and IPVS on the addresses and ports of services."""

from __future__ import annotations

from typing import Any

import pytest
from _natlb.host.sockets import Listener, parse_ipvs, parse_sockets
from _natlb.model.services import parse_config
from _natlb.warnings.listeners import warnings

TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 020200C0:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   2: 020200C0:0016 640200C0:C001 01 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   3: 020200C0:0051 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
"""
TCP6 = """  sl  local_address                         remote_address                        st
   0: B80D0120000000000000000010000000:0050 00000000000000000000000000000000:0000 0A
"""
UDP = """   sl  local_address rem_address   st
  10: 0100007F:0035 00000000:0000 07
  11: 020200C0:C000 640200C0:0035 01
  12: 020200C0:0035 00000000:0000 07
"""
IPVS = """IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  C0000202:0050 rr
  -> 0A000003:0050      Masq    1      0          0
UDP  [2001:0db8:0000:0000:0000:0000:0000:0010]:0035 wrr
FWM  00000001 rr
"""


def test_what_proc_says() -> None:
    tcp = parse_sockets("tcp", TCP.splitlines())
    assert tcp == [Listener("tcp", "192.0.2.2", 80), Listener("tcp", "0.0.0.0", 22)], "the rest is connections"
    assert parse_sockets("tcp", TCP6.splitlines()) == [Listener("tcp", "2001:db8::10", 80)]
    assert parse_sockets("udp", UDP.splitlines()) == [
        Listener("udp", "127.0.0.1", 53),
        Listener("udp", "192.0.2.2", 53),
    ]
    ipvs = [Listener("tcp", "192.0.2.2", 80, "IPVS"), Listener("udp", "2001:db8::10", 53, "IPVS")]
    assert parse_ipvs(IPVS.splitlines()) == ipvs


@pytest.mark.parametrize(
    ("listen", "address", "hidden"),
    [
        ("192.0.2.2:80", "192.0.2.2", True),
        ("192.0.2.2:70-90", "192.0.2.2", True),
        ("192.0.2.2:81", "192.0.2.2", False),
        ("192.0.2.2:80", "192.0.2.3", False),
        # By the host's other addresses it is still reached.
        ("192.0.2.2:80", "0.0.0.0", False),
        ("*:80", "0.0.0.0", True),
        ("192.0.2.0/30:80", "192.0.2.2", True),
        ("192.0.2.0/31:80", "192.0.2.2", False),
        ("192.0.0.0/8:80", "0.0.0.0", False),
        ("0.0.0.0/0:80", "0.0.0.0", True),
        ("*:80", "192.0.2.2", True),
        ("*:80", "127.0.0.1", False),
        ("*:1-65535", "0.0.0.0", True),
    ],
)
def test_who_is_hidden(listen: str, address: str, hidden: bool) -> None:
    web: dict[str, Any] = {"name": "web", "listen": listen, "backends": [{"address": "10.0.0.3"}]}
    told = warnings(parse_config([web]), [Listener("tcp", address, 80)], {"192.0.2.2", "127.0.0.1"})
    assert len(told) == hidden
    assert all(f"service web: a program of this host serves tcp {address}:80 too" in text for text in told)
    other = warnings(parse_config([web]), [Listener("udp", address, 80)], {"192.0.2.2"})
    assert other == []


@pytest.mark.parametrize(
    ("addresses", "hidden"),
    [(["::"], "0.0.0.0"), (["::", "0.0.0.0"], "0.0.0.0"), (["::1"], ""), (["2001:db8::2"], "")],
)
def test_a_socket_for_both_families(addresses: list[str], hidden: str) -> None:
    web = {"name": "web", "listen": "*:80", "backends": [{"address": "10.0.0.3"}]}
    told = warnings(parse_config([web]), [Listener("tcp", address, 80) for address in addresses], {"2001:db8::2"})
    assert [f"tcp {hidden}:80" in text for text in told] == ([True] if hidden else [])


def test_ipvs_is_named() -> None:
    web = {"name": "web", "listen": "192.0.2.2:80", "backends": [{"address": "10.0.0.3"}]}
    (text,) = warnings(parse_config([web]), parse_ipvs(IPVS.splitlines()), {"192.0.2.2"})
    assert "IPVS of this host serves tcp 192.0.2.2:80 too (`ipvsadm -Ln`)" in text


def test_the_service_that_hides_it_is_named() -> None:
    """Of several that overlap the most specific one, and before it that of an interface."""
    services: list[dict[str, Any]] = [
        {"name": "everywhere", "listen": "*:80", "backends": []},
        {"name": "here", "listen": "192.0.2.2:80", "backends": []},
        {"name": "outside", "listen": "192.0.2.2:80", "interface": "eth0", "backends": []},
    ]
    listener = Listener("tcp", "192.0.2.2", 80)

    def named() -> list[str]:
        return [line.partition(":")[0] for line in warnings(parse_config(services), [listener], {"192.0.2.2"})]

    assert named() == ["service outside", "service here"]
    del services[2]
    assert named() == ["service here"]
