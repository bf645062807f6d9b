# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Routes as /proc lists them: which networks are connected, and where an address leads."""

from __future__ import annotations

import pytest
from _natlb.firewalls.forward_path import _way, elsewhere, ways
from _natlb.host.routes import Routes
from _natlb.model.services import parse_config
from _natlb.warnings.addresses import Addressing, warnings

#: As Linux 6.18 lists `blackhole 10.0.0.0/8`, `unreachable 11.0.0.0/8`, `throw 13.0.0.0/8`, `14.0.0.0/8 via inet6 …`,
#: `15.0.0.0/8 dev v0`, `17.0.0.0/8 via 10.0.0.7` and an address in 10.0.0.0/24.
IPV4 = """Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
v0	00000000	0100000A	0003	0	0	0	00000000	0	0	0
*	0000000A	00000000	0001	0	0	0	000000FF	0	0	0
v0	0000000A	00000000	0001	0	0	0	00FFFFFF	0	0	0
*	0000000B	00000000	0201	0	0	0	000000FF	0	0	0
*	0000000D	00000000	0001	0	0	0	000000FF	0	0	0
v0	0000000E	00000000	0003	0	0	0	000000FF	0	0	0
v0	0000000F	00000000	0001	0	0	0	000000FF	0	0	0
v0	00000011	0700000A	0003	0	0	0	000000FF	0	0	0
"""
_NONE = "0" * 32
_REST = "00000400 00000001 00000000"
#: A default route and a prefix by router advertisement, an address of its own, a route by a gateway, and what refuses.
IPV6 = f"""{_NONE} 00 {_NONE} 00 fe8000000000000000000000000000ff {_REST} 00450003       v0
{_NONE} 00 {_NONE} 00 {_NONE} ffffffff 00000001 00000000 00200200       lo
20010db8000100000000000000000000 40 {_NONE} 00 {_NONE} {_REST} 00040001       v0
20010db8000100000000000000000001 80 {_NONE} 00 {_NONE} {_REST} 80200001       v0
20010db8000200000000000000000000 40 {_NONE} 00 20010db80001000000000000000000ff {_REST} 00000003       v0
20010db8000000000000000000000000 20 {_NONE} 00 {_NONE} {_REST} 00200200       lo
fe800000000000000000000000000000 40 {_NONE} 00 {_NONE} {_REST} 00000001       v0
00000000000000000000000000000001 80 {_NONE} 00 {_NONE} {_REST} 80200001       lo
ff000000000000000000000000000000 08 {_NONE} 00 {_NONE} {_REST} 00000001       v0
"""
HERE = Routes(IPV4, IPV6)


def test_connected_networks_are_those_that_a_packet_reaches_without_a_gateway() -> None:
    assert HERE.connected == ["10.0.0.0/24", "15.0.0.0/8", "2001:db8:1::/64"]


@pytest.mark.parametrize(
    ("address", "interfaces"),
    [
        ("10.0.0.3", {"v0"}),
        ("10.9.9.9", set()),
        ("11.0.0.1", set()),
        ("17.0.0.1", {"v0"}),
        ("192.0.2.1", {"v0"}),
        ("2001:db8:1::3", {"v0"}),
        ("2001:db8:9::3", set()),
        ("2001:db9::3", {"v0"}),
    ],
)
def test_where_an_address_leads(address: str, interfaces: set[str]) -> None:
    assert _way(HERE.ways, address) == interfaces


def test_a_route_that_refuses_is_no_network_elsewhere() -> None:
    others = {str(network) for network in elsewhere(HERE.ways, ["up1"]) if network.version == 4}
    assert others == {"10.0.0.0/24", "14.0.0.0/8", "15.0.0.0/8", "17.0.0.0/8"}
    assert ways(HERE.ways, "ip6", None) == {"v0"}


def test_what_the_kernel_learned_by_router_advertisements() -> None:
    learned = {str(route.network): route.interface for route in HERE.all if route.advertised}
    assert learned == {"::/0": "v0", "2001:db8:1::/64": "v0"}


def test_a_listen_address_behind_a_refusing_route_may_well_be_routed_here() -> None:
    here = Addressing(set(), HERE.connected, HERE.ways)
    for address, warned in (("11.0.0.5", 0), ("15.0.0.5", 1)):
        web = {"name": "web", "listen": f"{address}:80", "backends": [{"address": "10.0.0.3"}]}
        assert len(warnings(parse_config([web]), here)) == warned
