# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's hosts and wires.

    client --- front --- balancer --- back --- web1 web2 web3 web4
                            |  |
                         isp1  isp2          (only where a test asks for uplinks)

The balancer is made anew for each test, with the same link-layer addresses, so that neighbours find it at once; the
others stay. Its forwarding is off until somebody turns it on.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import server, traffic
from .host import Host, wait_until_running

CLIENT, CLIENT6 = "192.0.2.100", "2001:db8:1::100"
FRONT, FRONT6 = "192.0.2.2", "2001:db8:1::2"
BACK, BACK6 = "10.0.0.1", "2001:db8:2::1"
#: Addresses that the client reaches through the balancer; no interface has them unless a test adds them.
VIP, VIP6 = "192.0.2.10", "2001:db8:1::10"
OTHER_VIP = "192.0.2.11"
#: The client has all of these networks.
CLIENTS, CLIENTS6 = "198.18.0.0/16", "2001:db8:18::/64"
#: The same address behind both uplinks: the name that answers tells the way that was taken.
INTERNET = "203.0.113.200"
#: One is called as VLAN interfaces are: with a dot, which is no separator in the name of a sysctl.
UPLINKS = {"isp1": ("up1", "100.64.1"), "isp2": ("up2.100", "100.64.2")}
#: What an uplink's other end is called.
UPLINK = "wire"

NAMES = ("web1", "web2", "web3", "web4")
#: Ten addresses over the four backends: web1 has .3, .13 and .23, and so on.
HOST_PARTS = {name: [3 + i, 13 + i] + ([23 + i] if i < 2 else []) for i, name in enumerate(NAMES)}
WEB = {name: f"10.0.0.{parts[0]}" for name, parts in HOST_PARTS.items()}
WEB6 = {name: f"2001:db8:2::{parts[0]}" for name, parts in HOST_PARTS.items()}
TEN = [f"10.0.0.{part}" for parts in HOST_PARTS.values() for part in parts]
PORTS = (53, 80, 8080, *range(9000, 9004))
#: Source ports that tests name. The kernel gives them to nobody else: a connection of the test before, which waits to
#: be forgotten, would hold its port for a second.
NAMED_PORTS = "10000-30999,40000-40999"

#: The link-layer addresses of the balancer, whatever it is made of.
MAC = {"front": "02:00:00:00:00:02", "back": "02:00:00:00:01:01"}

_FORWARDING = ("ipv4/ip_forward", "ipv6/conf/all/forwarding")
QUIET = {
    # A new namespace has the machine's setting, and what goes astray is to stay there.
    **dict.fromkeys(_FORWARDING, 0),
    "ipv6/conf/default/accept_dad": 0,
    "ipv6/conf/all/accept_dad": 0,
    # A balancer without rules sends a client to an address on its own network directly. Believed once, that would hold
    # for 300 s, for all balancers of later tests.
    **{f"{family}/conf/{scope}/accept_redirects": 0 for family in ("ipv4", "ipv6") for scope in ("default", "all")},
}
#: As most distributions and all hardening guides set it.
_STRICT = {"ipv4/conf/all/rp_filter": 1, "ipv4/conf/default/rp_filter": 1}
#: What a router has to drop what its own networks leave over of larger ones; nothing is to be concluded from them.
_REFUSED = "route add blackhole 10.0.0.0/8\nroute add unreachable 2001:db8::/32"


def _forget_connections(host: Host) -> None:
    host.run("ss", "--kill", "--tcp", "state", "connected")


class Lab:
    """All hosts of one test process."""

    def __init__(self) -> None:
        self.switch, self.client, self.balancer = Host("switch"), Host("client"), Host("balancer")
        self.backends = {name: Host(name) for name in NAMES}
        self._uplinks: dict[str, Host] = {}
        self._wires = 0
        self._ports: list[str] = []
        self._wired: list[Host] = []
        self._build()

    def close(self) -> None:
        for host in self.hosts():
            host.close()

    def hosts(self) -> list[Host]:
        return [self.balancer, self.client, *self.backends.values(), *self._uplinks.values(), self.switch]

    def _build(self) -> None:
        for host in self.hosts():
            host.ip("link set lo up")
            host.sysctl(QUIET)
        self.switch.ip(
            "link add front type bridge mcast_snooping 0\nlink set front up\n"
            "link add back type bridge mcast_snooping 0\nlink set back up"
        )
        self._build_client()
        for name, host in self.backends.items():
            self._build_backend(name, host)
        self.switch.call(wait_until_running, [f"port{number}" for number in range(1, self._wires + 1)])
        self._build_balancer()

    def _wire(self, host: Host, link: str, bridge: str, link_address: str) -> None:
        self._wire_all(host, [(link, bridge, link_address)])

    def _wire_all(self, host: Host, links: Sequence[tuple[str, str, str]]) -> None:
        """Links of a host, each by its name, its bridge and its link-layer address. Starts a program for all of them
        on each side: a balancer is made for each test."""
        made, plugged = [], []
        for link, bridge, link_address in links:
            self._wires += 1
            port = f"port{self._wires}"
            if host is self.balancer:
                self._ports.append(port)
            made.append(f"link add {link} address {link_address} type veth peer name {port} netns {self.switch.pid}")
            plugged.append(f"link set {port} master {bridge} up")
        host.ip("\n".join(made))
        self.switch.ip("\n".join(plugged))

    def _build_client(self) -> None:
        self._wire(self.client, "front", "front", "02:00:00:00:00:64")
        self.client.ip(
            f"address add {CLIENT}/24 dev front\naddress add {CLIENT6}/64 dev front nodad\nlink set front up\n"
            f"route add local {CLIENTS} dev lo\nroute add local {CLIENTS6} dev lo\n"
            f"route add default via {FRONT}\nroute add default via {FRONT6}\n"
            # All of .8 to .15, ::10 to ::1f is behind the balancer, on an interface of it or not.
            f"route add 192.0.2.8/29 via {FRONT}\nroute add 2001:db8:1::10/124 via {FRONT6}"
        )
        # tcp_tw_reuse and the wide range: thousands of connections in a row. ip_nonlocal_bind: IPv6 asks for it even
        # where a local route has the address.
        self.client.sysctl(
            {
                "ipv4/ip_local_port_range": "1024 65535",
                "ipv4/ip_local_reserved_ports": NAMED_PORTS,
                "ipv4/tcp_tw_reuse": 1,
                "ipv6/ip_nonlocal_bind": 1,
            }
        )
        self.client.call(server.start, "client", PORTS)

    def _build_backend(self, name: str, host: Host) -> None:
        parts = HOST_PARTS[name]
        self._wire(host, "back", "back", f"02:00:00:00:01:{parts[0]:02x}")
        addresses = [
            f"address add 10.0.0.{part}/24 dev back\naddress add 2001:db8:2::{part}/64 dev back nodad" for part in parts
        ]
        routes = f"link set back up\nroute add default via {BACK}\nroute add default via {BACK6}"
        host.ip("\n".join([*addresses, routes]))
        host.call(server.start, name, PORTS)

    def _build_balancer(self) -> None:
        host = self.balancer
        host.sysctl({**QUIET, **_STRICT})
        self._wire_all(host, [(link, link, MAC[link]) for link in ("front", "back")])
        host.ip(
            f"address add {FRONT}/24 dev front\naddress add {FRONT6}/64 dev front nodad\nlink set front up\n"
            f"address add {BACK}/24 dev back\naddress add {BACK6}/64 dev back nodad\nlink set back up\n"
            f"route add {CLIENTS} via {CLIENT}\nroute add {CLIENTS6} via {CLIENT6}\n{_REFUSED}"
        )
        host.call(wait_until_running, ["front", "back"])
        self.switch.call(wait_until_running, self._ports)

    def reset(self) -> None:
        """A balancer as on the first day, and no connection left open."""
        for host in self.hosts():
            if host is not self.switch:
                host.call(traffic.release)
        self.silence()
        self.balancer.call(server.stop)
        for host in self._wired:
            host.ip(f"link set {UPLINK} down\nlink set {UPLINK} name old{self._wires}")
        self._wired.clear()
        self.succeed()

    def succeed(self) -> None:
        """Another balancer in the place of the one before, which is cut off: it has its addresses, and knows
        nothing."""
        self.vacate()
        self.balancer.renew()
        self._build_balancer()

    def silence(self) -> None:
        """Let client and backends forget their connections.

        What they still repeat of one, such as its end, would be routed by the next balancer, and count there. And a
        backend that takes a connection for open answers a new one of the same ports with an ACK, which the client
        resets: its SYN comes again, and takes another turn.
        """
        for host in (self.client, *self.backends.values()):
            _forget_connections(host)

    def vacate(self) -> None:
        """Cut the balancer off at once (the kernel takes its namespace away in its own time, which is longer), so that
        another can take its place."""
        self.switch.ip("\n".join(f"link set {port} down" for port in self._ports))
        self._ports.clear()

    def tap(self, bridge: str) -> str:
        """A network card for a virtual machine that runs in the namespace of the switch; its name."""
        self._wires += 1
        port = f"port{self._wires}"
        self.switch.ip(f"tuntap add {port} mode tap\nlink set {port} master {bridge} up")
        self._ports.append(port)
        return port

    def uplinks(self) -> dict[str, Host]:
        """Wire the balancer to two providers, each of which says its name at `INTERNET`; made when first asked for."""
        for name, (link, net) in UPLINKS.items():
            if name not in self._uplinks:
                self._uplinks[name] = host = Host(name)
                host.ip(f"link set lo up\naddress add {INTERNET}/32 dev lo")
                host.call(server.start, name, PORTS)
            host = self._uplinks[name]
            self._wired.append(host)
            self.balancer.ip(f"link add {link} type veth peer name {UPLINK} netns {host.pid}")
            self.balancer.ip(f"address add {net}.2/24 dev {link}\nlink set {link} up")
            host.ip(f"address add {net}.1/24 dev {UPLINK}\nlink set {UPLINK} up")
        return self._uplinks
