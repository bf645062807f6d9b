# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several balancers behind a router that hashes flows over them.

    client --- router --+-- lb1 --+
                        +-- lb2 --+--- back --- web1 web2 web3 web4
                        +-- lb3 --+

The router is in the place of the lab's balancer, and has its address on the side of the client.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from .balancer import Balancer, Mapping
from .host import Host, wait_until_running
from .topology import QUIET, VIP, VIP6, Lab

NAMES = ("lb1", "lb2", "lb3")
#: The numbers of the router's nexthop groups, of IPv4 and of IPv6.
GROUP, GROUP6 = 100, 600
_ROUTER = {
    "ipv4/ip_forward": 1,
    "ipv6/conf/all/forwarding": 1,
    # By ports as well, or all connections of a client come to one balancer.
    "ipv4/fib_multipath_hash_policy": 1,
    "ipv6/fib_multipath_hash_policy": 1,
}
_STRICT_OFF = {"ipv4/conf/all/rp_filter": 0, "ipv4/conf/default/rp_filter": 0}


class Member(Balancer):
    """One of the balancers. `number` begins with 1."""

    def __init__(self, lab: Lab, number: int, engine: str, folder: Path) -> None:
        self.number, self.name = number, NAMES[number - 1]
        self.mac = f"02:00:00:00:02:{number:02x}"
        self.gateways = [f"10.0.0.{210 + number}", f"2001:db8:2::d{number}"]
        host = Host(self.name)
        host.ip("link set lo up")
        host.sysctl({**QUIET, **_STRICT_OFF})
        lab._wire(host, "back", "back", self.mac)
        router = lab.balancer
        host.ip(f"link add front type veth peer name {self.name} netns {router.pid}")
        router.ip(
            f"address add 100.64.{number}.1/24 dev {self.name}\n"
            f"address add 2001:db8:64:{number}::1/64 dev {self.name} nodad\n"
            f"link set {self.name} up"
        )
        host.ip(
            f"address add 100.64.{number}.2/24 dev front\naddress add 2001:db8:64:{number}::2/64 dev front nodad\n"
            f"address add {self.gateways[0]}/24 dev back\naddress add {self.gateways[1]}/64 dev back nodad\n"
            "link set front up\nlink set back up\n"
            f"route add default via 100.64.{number}.1\nroute add default via 2001:db8:64:{number}::1"
        )
        host.call(wait_until_running, ["front", "back"])
        lab.switch.call(wait_until_running, [f"port{lab._wires}"])
        router.ip(
            f"nexthop add id {number} via 100.64.{number}.2 dev {self.name}\n"
            f"nexthop add id {50 + number} via 2001:db8:64:{number}::2 dev {self.name}"
        )
        folder.mkdir()
        around = SimpleNamespace(balancer=host, client=lab.client, backends=lab.backends, silence=lab.silence)
        super().__init__(cast(Lab, around), engine, folder)

    def go_live(self, services: Sequence[Mapping]) -> None:
        """With rules, and with the setting that connections need that come back to it."""
        self.apply(services)
        self.host.sysctl({"netfilter/nf_conntrack_tcp_be_liberal": 1})


class ScaleOut:
    """The router and its three balancers."""

    def __init__(self, lab: Lab, engine: str, folder: Path, kind: str) -> None:
        self.lab, self.router, self._kind = lab, lab.balancer, kind
        # The balancers have these networks, not the router.
        self.router.ip("address flush dev back\nlink set back down")
        self.router.sysctl({**_ROUTER, **_STRICT_OFF})
        self.members: list[Member] = []
        try:
            for number in (1, 2, 3):
                self.members.append(Member(lab, number, engine, folder / NAMES[number - 1]))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for member in self.members:
            member.host.close()
        # Backends stay, and would send to whoever has had a gateway last.
        for backend in self.lab.backends.values():
            backend.run("sh", "-c", "ip -4 neigh flush dev back; ip -6 neigh flush dev back")

    def share(self, *numbers: int) -> None:
        """These balancers have the addresses from now on; the router replaces its group at once."""
        known = "resilient" if self._kind == "resilient" else "mpath"
        for group, first in ((GROUP, 0), (GROUP6, 50)):
            members = "/".join(str(first + number) for number in numbers)
            # Buckets of a balancer that has gone get another one at once, others once they were idle for that long.
            buckets = " buckets 128 idle_timer 60" if known == "resilient" else ""
            self.router.ip(f"nexthop replace id {group} group {members} type {known}{buckets}")
        self.router.ip(f"route replace {VIP}/32 nhid {GROUP}\nroute replace {VIP6}/128 nhid {GROUP6}")

    def kill(self, number: int) -> None:
        """A balancer is gone, with all that it knew."""
        self.members[number - 1].host.ip("link set front down\nlink set back down")

    def move_gateways(self, number: int, heir: int) -> None:
        """As VRRP moves the virtual addresses of a balancer that is gone, and tells neighbours of it."""
        gone, new = self.members[number - 1], self.members[heir - 1]
        new.host.ip(f"address add {gone.gateways[0]}/24 dev back\naddress add {gone.gateways[1]}/64 dev back nodad")
        for backend in self.lab.backends.values():
            backend.ip("\n".join(f"neigh replace {each} lladdr {new.mac} dev back nud stale" for each in gone.gateways))

    def declared(self) -> list[dict[str, Any]]:
        """What backends are told of them."""
        return [{"mac": member.mac, "gateway": member.gateways} for member in self.members]
