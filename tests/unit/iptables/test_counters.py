# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose connections a rule had counted that is gone: by its chain, and by what the kernel keeps of the target DNAT."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from _natlb.host.netlink import attribute
from _natlb.host.removed import Rule
from _natlb.iptables import counters
from _natlb.iptables.dispatch import chain_name, cut
from _natlb.model.services import parse_config

LONG = "a-service-with-a-long-name"


def declared(name: str, listen: str, *backends: str) -> dict[str, object]:
    found = [{"address": address, "port": 8080} for address in backends]
    return {"name": name, "listen": listen, "backends": found}


CONFIG = parse_config(
    [
        declared("web", "192.0.2.1:80", "10.0.0.3", "10.0.0.4"),
        declared("six", "[2001:db8::1]:80", "2001:db8:1::3"),
        declared(f"{LONG}-1", "192.0.2.2:80", "10.0.1.3", "10.0.1.9"),
        declared(f"{LONG}-2", "192.0.2.3:80", "10.0.2.3", "10.0.1.9"),
        {"name": "all-ports", "listen": "192.0.2.4:1000-2000", "backends": [{"address": "10.0.0.3"}]},
    ]
)


def dnat(address: str, port: int, is_old: bool = False) -> list[tuple[str, bytes]]:
    """As the kernel told it of iptables-nft 1.8.9, and of a revision of the target before."""
    packed, flags = ipaddress.ip_address(address).packed, 3 if port else 1
    if is_old:
        info = struct.pack("=II4s4s", 1, flags, packed, packed) + struct.pack(">HH", port, port)
    else:
        info = struct.pack("=I16s16s", flags, packed, packed) + struct.pack(">HHH", port, port, 0) + bytes(2)
    return [("target", attribute(1, b"DNAT\0") + attribute(2, struct.pack(">I", 2)) + attribute(3, info))]


def rule(chain: str, expressions: list[tuple[str, bytes]], table: str = "nat") -> Rule:
    return Rule(table, chain, 7, [("counter", b""), *expressions])


WEB = chain_name("web", "tcp")


@pytest.mark.parametrize(
    ("found", "key"),
    [
        (rule(WEB, dnat("10.0.0.4", 8080)), ("web", "10.0.0.4 8080")),
        (rule(WEB, dnat("10.0.0.4", 8080, is_old=True)), ("web", "10.0.0.4 8080")),
        (rule(f"{WEB}.t64.t8", dnat("10.0.0.3", 8080)), ("web", "10.0.0.3 8080")),
        (rule(f"{WEB}.10.0.0.3/8080", dnat("10.0.0.3", 8080)), ("web", "10.0.0.3 8080")),
        (rule(chain_name("six", "tcp"), dnat("2001:db8:1::3", 8080)), ("six", "2001:db8:1::3 8080")),
        (rule(chain_name("all-ports", "tcp"), dnat("10.0.0.3", 0)), ("all-ports", "10.0.0.3")),
        (rule(chain_name(f"{LONG}-1", "tcp"), dnat("10.0.1.3", 8080)), (f"{LONG}-1", "10.0.1.3 8080")),
        (rule(cut(f"{chain_name(f'{LONG}-2', 'tcp')}.t3"), dnat("10.0.2.3", 8080)), (f"{LONG}-2", "10.0.2.3 8080")),
        # It may have been of either.
        (rule(chain_name(f"{LONG}-1", "tcp"), dnat("10.0.1.9", 8080)), None),
        (rule(WEB, dnat("10.0.0.4", 8081)), None),
        (rule(WEB, dnat("10.0.0.4", 0)), None),
        (rule(WEB, dnat("10.0.9.4", 8080)), None),
        (rule("DOCKER", dnat("10.0.0.4", 8080)), None),
        (rule(WEB, dnat("10.0.0.4", 8080), "filter"), None),
        (rule(WEB, [("immediate", b"")]), None),
        (rule(WEB, [("target", attribute(1, b"REDIRECT\0") + attribute(3, bytes(40)))]), None),
        (rule(WEB, [("target", attribute(1, b"DNAT\0") + attribute(3, b"short"))]), None),
    ],
)
def test_whose_rule_it_was(found: Rule, key: tuple[str, str] | None) -> None:
    assert counters.count_removed(CONFIG, [found, found]) == ({key: 14} if key else {})
