# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets of a backend that belong to no connection for the kernel: they would leave untranslated, and whoever gets one
resets the connection that it was part of."""

from __future__ import annotations

import pytest
from kernel_lab import segments
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.topology import CLIENT, VIP, VIP6, WEB, WEB6

LISTENS = [
    ({"listen": f"{VIP}:80", "backends": webs("web1")}, f"{VIP}:80"),
    ({"listen": f"{VIP}:80", "backends": webs("web1", port=8080)}, f"{VIP}:80"),
    ({"listen": f"{VIP}:9000-9003", "backends": webs("web1")}, f"{VIP}:9002"),
    ({"listen": f"[{VIP6}]:80", "backends": [{"address": WEB6["web1"]}]}, f"[{VIP6}]:80"),
]


@pytest.mark.parametrize("snat", ["none", "masquerade"])
@pytest.mark.parametrize(("keys", "target"), LISTENS, ids=["plain", "other port", "range", "ipv6"])
def test_a_late_segment_does_not_end_a_connection(balancer: Balancer, keys: Mapping, target: str, snat: str) -> None:
    balancer.apply([service(snat=snat, **keys)])
    backend = balancer.lab.backends["web1"]
    ((handle, before),) = balancer.hold(target)
    backend.call(segments.watch, ipv6=":" in before.local)
    try:
        assert balancer.talk(handle)[:5] == before[:5]
        last = [item for item in backend.call(segments.seen) if item.peer_port == before.peer_port][-1]
        backend.call(segments.send_late, last, before.local)
        assert balancer.talk(handle)[:5] == before[:5]
        resets = [item for item in backend.call(segments.seen) if item[5] & segments.RST]
        assert not resets
    finally:
        backend.call(segments.unwatch)


@pytest.mark.parametrize(
    "flags", [segments.ACK, segments.ACK | segments.FIN, segments.RST, segments.ACK | segments.SYN]
)
@pytest.mark.parametrize("port", [80, 8080])
def test_what_is_dropped(balancer: Balancer, flags: int, port: int) -> None:
    """Only what a service may have sent, and not the answer to a connection whose first packet took another way."""
    balancer.apply([service(snat="none", backends=webs("web1"))], transit="accept")
    backend = balancer.lab.backends["web1"]
    balancer.client.call(segments.watch)
    try:
        after = (CLIENT, 50000, port, 1, 1, segments.ACK, 0)
        # The kernel takes a segment from the middle of a connection for the first of one that it does not know, unless
        # it may not be loose.
        balancer.host.sysctl({"netfilter/nf_conntrack_tcp_loose": 0})
        backend.call(_send, after, WEB["web1"], flags)
        arrived = [item for item in balancer.client.call(segments.seen, timeout_s=0.3) if item[1] == port]
        assert bool(arrived) is (port == 8080 or flags == segments.ACK | segments.SYN)
    finally:
        balancer.client.call(segments.unwatch)


def _send(after: tuple[str, int, int, int, int, int, int], source: str, flags: int) -> None:
    segments.send_late(segments.Segment(*after), source, flags)
