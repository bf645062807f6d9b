# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets of a client that belong to no connection for the kernel: this host would answer them with a reset, where it
has the frontend's address, and send them on untranslated, where it has not."""

from __future__ import annotations

import re
from typing import Any

import pytest
from kernel_lab import segments
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.topology import BACK, CLIENT, CLIENT6, FRONT, OTHER_VIP, VIP, VIP6, WEB, WEB6

SIX = {"listen": f"[{VIP6}]:80", "backends": [{"address": WEB6["web1"]}]}
#: What is declared, and where the client connects to.
LISTENS = [
    ({"listen": f"{VIP}:80"}, f"{VIP}:80"),
    ({"listen": f"{VIP}:9000-9003"}, f"{VIP}:9002"),
    ({"listen": f"{VIP}:80", "interface": "front"}, f"{VIP}:80"),
    ({"listen": f"{VIP}:9000-9003", "interface": "front"}, f"{VIP}:9002"),
    ({"listen": "*:80"}, f"{FRONT}:80"),
    ({"listen": "*:9000-9003", "interface": "front"}, f"{VIP}:9002"),
    (SIX, f"[{VIP6}]:80"),
]
NAMES = ["plain", "range", "interface", "range of an interface", "node", "node of an interface", "ipv6"]


def claim(balancer: Balancer) -> None:
    balancer.host.ip(f"address add {VIP}/32 dev front\naddress add {VIP6}/128 dev front nodad")


@pytest.mark.parametrize("snat", ["none", "masquerade"])
@pytest.mark.parametrize(("keys", "target"), LISTENS, ids=NAMES)
def test_a_late_segment_does_not_end_a_connection(balancer: Balancer, keys: Mapping, target: str, snat: str) -> None:
    claim(balancer)
    balancer.apply([service(snat=snat, **{"backends": webs("web1"), **keys})])
    ipv6 = target.startswith("[")
    balancer.client.call(segments.watch, ipv6=ipv6)
    try:
        ((handle, before),) = balancer.hold(target)
        (*_others, last) = balancer.client.call(segments.seen)
        balancer.client.call(segments.send_late, last, CLIENT6 if ipv6 else CLIENT)
        assert balancer.talk(handle)[:5] == before[:5]
        assert not [item for item in balancer.client.call(segments.seen) if item.flags & segments.RST]
    finally:
        balancer.client.call(segments.unwatch)


FLAGS = [segments.ACK, segments.ACK | segments.FIN, segments.ACK | segments.SYN]
FLAG_NAMES = ["ack", "fin", "syn-ack"]


def answered(host: Any, balancer: Balancer, source: str, target: str, port: int, flags: int) -> bool:
    """Whether the balancer answers such a segment with a reset."""
    # The kernel takes a segment from the middle of a connection for the first of one that it does not know, unless it
    # may not be loose.
    balancer.host.sysctl({"netfilter/nf_conntrack_tcp_loose": 0})
    host.call(segments.watch)
    try:
        host.call(send, (target, port, 50000, 1, 1, segments.ACK, 0), source, flags)
        return any(item[1] == port and item[5] & segments.RST for item in host.call(segments.seen, timeout_s=0.3))
    finally:
        host.call(segments.unwatch)


def send(after: tuple[str, int, int, int, int, int, int], source: str, flags: int) -> None:
    segments.send_late(segments.Segment(*after), source, flags)


@pytest.mark.parametrize("flags", FLAGS, ids=FLAG_NAMES)
def test_what_is_dropped(balancer: Balancer, flags: int) -> None:
    """Only what goes to a frontend, and not the answer to a connection whose first packet took another way."""
    claim(balancer)
    balancer.apply([service(backends=webs("web1"))])
    to_frontend = answered(balancer.client, balancer, CLIENT, VIP, 80, flags)
    assert to_frontend is (flags == segments.ACK | segments.SYN)
    assert answered(balancer.client, balancer, CLIENT, VIP, 8080, flags), "another port"
    assert answered(balancer.client, balancer, CLIENT, FRONT, 80, flags), "another address"


@pytest.mark.parametrize("flags", FLAGS[:2], ids=FLAG_NAMES[:2])
@pytest.mark.parametrize("listen", [f"{BACK}:80", "*:80"])
def test_a_listener_of_this_host_on_another_interface(balancer: Balancer, listen: str, flags: int) -> None:
    """A frontend of one interface leaves what comes in by another one to the host."""
    balancer.apply([service(listen=listen, interface="front", backends=webs("web2"))])
    web1 = balancer.lab.backends["web1"]
    assert answered(web1, balancer, WEB["web1"], BACK, 80, flags)
    assert not answered(balancer.client, balancer, CLIENT, BACK, 80, flags)


@pytest.mark.parametrize("flags", [*FLAGS, segments.RST], ids=[*FLAG_NAMES, "rst"])
@pytest.mark.parametrize("keys", [{}, {"interface": "front"}, {"backends": []}], ids=["plain", "interface", "empty"])
def test_what_nobody_here_has_is_not_sent_on(balancer: Balancer, keys: Mapping, flags: int) -> None:
    balancer.host.ip(f"route add {VIP} via {CLIENT}\nroute add {OTHER_VIP} via {CLIENT}")
    balancer.apply([service(**{"backends": webs("web1"), **keys})], transit="accept")
    watch = "".join(f"ip daddr {vip} tcp dport 80 counter\n" for vip in (VIP, OTHER_VIP))
    rules = f"table ip watch {{\nchain c {{\ntype filter hook postrouting priority 300;\n{watch}}}\n}}\n"
    balancer.host.run("nft", "-f", "-", stdin=rules)
    for vip in (VIP, OTHER_VIP):
        answered(balancer.client, balancer, CLIENT, vip, 80, flags)
    counted = re.findall(r"packets (\d+)", balancer.host.run("nft", "list", "table", "ip", "watch"))
    assert counted == ["1" if flags == segments.ACK | segments.SYN else "0", "1"]
