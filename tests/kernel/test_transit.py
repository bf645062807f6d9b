# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host whose forwarding natlb has turned on is a balancer, and no router for everybody."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kernel_lab import multicast, traffic
from kernel_lab.balancer import Balancer, service, webs
from kernel_lab.topology import BACK, CLIENT, CLIENT6, INTERNET, NAMES, VIP, VIP6, WEB, WEB6
from test_egress import INSIDE, by_weight, out, ways

PAST = f"{WEB['web1']}:8080"
PAST6 = f"[{WEB6['web1']}]:8080"
BOTH = service(listen=[f"{VIP}:80", f"[{VIP6}]:80"], backends=[*webs("web1"), {"address": WEB6["web1"], "name": "six"}])


def passes(balancer: Balancer, target: str = PAST, **options: Any) -> bool:
    """Whether the client gets past the service."""
    return not balancer.ask(target, timeout_s=0.3, **options)[0].error


def forwards(balancer: Balancer, name: str = "ipv4/ip_forward") -> bool:
    return bool(int(balancer.host.call(Path.read_text, Path("/proc/sys/net", name))))


@pytest.mark.parametrize("snat", ["masquerade", "none"])
def test_only_what_is_declared(balancer: Balancer, snat: str) -> None:
    assert not passes(balancer)
    assert not passes(balancer, PAST6)
    balancer.apply([{**BOTH, "snat": snat}])
    for protocol in ("tcp", "udp"):
        assert not passes(balancer, protocol=protocol)
        assert not passes(balancer, PAST6, protocol=protocol)
    assert {answer.name for answer in balancer.ask(count=4)} == {"web1"}
    assert {answer.name for answer in balancer.ask(f"[{VIP6}]:80", 4)} == {"web1"}
    assert not balancer.apply([{**BOTH, "snat": snat}]).changed
    found = balancer.info()
    assert (found["forwarding"], found["forwards_transit"], found["drift"]) == (True, False, False)


def test_all_four_backends_and_udp(balancer: Balancer) -> None:
    declared = service(protocol=["tcp", "udp"], snat="none")
    balancer.apply([declared])
    for protocol in ("tcp", "udp"):
        assert balancer.tally(count=8, protocol=protocol) == dict.fromkeys(NAMES, 2)
    assert balancer.lab.backends["web1"].call(traffic.ask, f"{BACK}:80")[0].error == "ConnectionRefusedError"


def test_a_router_for_everybody_where_that_is_asked_for(balancer: Balancer) -> None:
    balancer.apply([BOTH], transit="accept")
    assert passes(balancer)
    assert passes(balancer, PAST6)
    assert balancer.info()["forwards_transit"]
    assert balancer.apply([BOTH]).changed
    assert not passes(balancer)
    assert not balancer.info()["forwards_transit"]


def test_a_router_before_stays_one(balancer: Balancer) -> None:
    balancer.host.sysctl({"ipv4/ip_forward": 1})
    balancer.apply([BOTH])
    assert passes(balancer)
    assert not passes(balancer, PAST6)
    assert balancer.info()["forwards_transit"]
    balancer.remove()
    assert (forwards(balancer), forwards(balancer, "ipv6/conf/all/forwarding")) == (True, False)


def test_an_interface_that_forwarded_by_itself(balancer: Balancer) -> None:
    balancer.host.sysctl({"ipv4/conf/front/forwarding": 1})
    balancer.apply([service()])
    balancer.host.sysctl({"ipv4/conf/back/forwarding": 1})
    assert passes(balancer), "it did so before"


def test_an_interface_that_comes_later(balancer: Balancer) -> None:
    """A bridge of containers or a VPN, with its own address and route; nobody asks whether forwarding is on."""
    balancer.apply([service()])
    isp = balancer.lab.uplinks()["isp1"]
    balancer.host.ip(f"route add {INTERNET}/32 via 100.64.1.1")
    isp.ip(f"route replace {CLIENT}/32 via 100.64.1.2")
    assert not passes(balancer)
    assert passes(balancer, f"{INTERNET}:80")
    assert not balancer.apply([service()]).changed


def test_egress_is_forwarded(balancer: Balancer) -> None:
    ports = {"source": INSIDE, "protocol": "tcp", "destination_ports": [80, "9000-9002"], "out_interface": "front"}
    balancer.apply([service()], [ports])
    assert [not out(balancer, f"{CLIENT}:{port}", timeout_s=0.3)[0].error for port in (80, 9001, 9003)] == [
        True,
        True,
        False,
    ]
    assert not passes(balancer)
    balancer.apply([service()], [{"source": INSIDE, "out_interface": "back"}])
    assert out(balancer, timeout_s=0.3)[0].error, "that is another way out"
    balancer.apply([service()], [{"source": "0.0.0.0/0", "out_interface": "front"}])
    assert out(balancer)[0].name == "client"
    assert not passes(balancer), "everything that leaves, and nothing that comes in"
    balancer.apply([service()], [{"source": [INSIDE, "2001:db8:2::/64"]}])
    assert out(balancer, f"[{CLIENT6}]:80")[0].name == "client"
    assert out(balancer, f"{CLIENT}:9003")[0].name == "client"
    assert not passes(balancer)


def test_uplinks_are_forwarded(balancer: Balancer) -> None:
    balancer.lab.uplinks()
    balancer.apply([service(snat="none")], [by_weight(2, 1)])
    assert ways(out(balancer, f"{INTERNET}:80", 6)) == {"isp1": 4, "isp2": 2}
    assert balancer.tally(count=4) == dict.fromkeys(NAMES, 1)
    assert not passes(balancer)


def test_a_bridge_of_ours_forwards_frames(balancer: Balancer) -> None:
    balancer.host.ip("link add br0 type bridge\nlink set br0 up")
    balancer.apply([service()])
    kept = json.loads((balancer.etc / "state.json").read_text())["before"]["closed"]["ip"]
    assert kept == {"interfaces": ["back", "br0", "front"], "forwarding": [], "bridges": ["br0"]}
    argv = ["nft", "list", "ruleset"] if balancer.nftables else [f"iptables-{balancer.variant}-save"]
    rule = 'iifname "br0" oifname "br0" accept' if balancer.nftables else "-i br0 -o br0 -j RETURN"
    assert rule in balancer.host.run(*argv)


def test_a_router_of_multicast_stays_one(balancer: Balancer) -> None:
    """That takes a daemon, and no `ip_forward`."""
    web1 = balancer.lab.backends["web1"]
    balancer.apply([service()])
    balancer.host.call(multicast.route, CLIENT, "front", "back")
    web1.call(multicast.listen, WEB["web1"])
    balancer.client.call(multicast.send, CLIENT)
    came_from = web1.call(multicast.received)
    web1.call(multicast.close)
    balancer.host.call(multicast.close)
    assert came_from == CLIENT
    assert not passes(balancer)


def test_it_holds_after_a_reboot(balancer: Balancer) -> None:
    balancer.apply([service()])
    balancer.lab.reset()
    balancer.host.sysctl({"ipv4/ip_forward": 1})
    balancer.host.run("sh", str(balancer.etc / "boot"))
    assert not passes(balancer)
    assert balancer.tally(count=4) == dict.fromkeys(NAMES, 1)
    assert not balancer.apply([service()]).changed


def test_forwarding_goes_with_the_last_service(balancer: Balancer) -> None:
    balancer.apply([BOTH])
    outcome = balancer.apply([service()])
    assert (forwards(balancer), forwards(balancer, "ipv6/conf/all/forwarding")) == (True, False)
    assert "net/ipv6/conf/all/forwarding" not in outcome.sysctls
    assert not balancer.apply([service()]).changed
    shown = balancer.remove(check=True)
    assert "ip_forward" in shown.diff
    outcome = balancer.remove()
    assert (forwards(balancer), outcome.warnings) == (False, [])
    assert not balancer.remove().changed
    balancer.apply([service()])
    assert not passes(balancer), "a second beginning is like the first"


@pytest.mark.parametrize("why", ["later", "asked for"])
def test_forwarding_stays_where_somebody_else_may_need_it(balancer: Balancer, why: str) -> None:
    balancer.apply([service()], transit="accept" if why == "asked for" else "drop")
    if why == "later":
        balancer.host.ip("link add later type bridge")
    (warning,) = balancer.remove().warnings
    assert "net/ipv4/ip_forward stays 1" in warning
    assert "later were added since" in warning or why == "asked for"
    assert forwards(balancer)
    assert not balancer.remove().changed


@pytest.mark.parametrize("on", ["before", "afterwards"])
def test_forwarding_that_is_not_ours_to_look_after(balancer: Balancer, on: str) -> None:
    balancer.host.sysctl({"ipv4/ip_forward": int(on == "before")})
    balancer.apply([service()], forwarding=False)
    balancer.host.sysctl({"ipv4/ip_forward": 1})
    assert passes(balancer)
    assert not balancer.apply([service()], forwarding=False).changed
    assert passes(balancer)
    balancer.remove(forwarding=False)
    assert forwards(balancer)


@pytest.mark.parametrize("kept", [None, [], {"ip": 7}, {"ip": {"interfaces": ['x"y', 3, "front; drop"]}}])
def test_a_damaged_memory_opens_and_says_so(balancer: Balancer, kept: Any) -> None:
    balancer.apply([service()])
    path = balancer.etc / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "before": {"closed": kept}}))
    assert balancer.apply([service()]).changed
    assert balancer.info()["forwards_transit"]
