# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Client, balancers and backends as network namespaces, and the sender of first packets between them.

    client ==c0==front== balancer 0 ==back==w0== backends
           ==c1==front== balancer 1 ==back==w1==

Each ruleset has a balancer of its own, so that all are there to be measured in turn. The client never listens, and
the backends count and drop what reaches them before anything else happens to it: there is no answer, and each packet
is the first of its connection.

The kernel does everything (sender, both wires, both routing decisions, connection tracking, NAT) in the sender's
system call, on the sender's CPU. So the time of the call, divided by the packets, is what one of them costs.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pathlib
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import layouts
from control_plane import Namespace
from layouts import BACKEND_PORT, PORT, Layout, Service

SOURCE = pathlib.Path(__file__).with_name("syn_sender.c")
#: The balancer's address towards the backends, by family: what they see as their client.
MASQUERADE = {"ip": "10.255.255.1", "ip6": "2001:db8:ff::1"}
#: Sent before the clock starts, so that caches hold what they will hold.
WARM_UP = 300
#: No run may fill more of the tracking table than this.
SHARE_OF_TABLE = 0.5

_MAC = {"client": "02:00:00:00:00:01", "front": "02:00:00:00:00:02", "back": "02:00:00:00:00:03"}
_MAC_BACKENDS = "02:00:00:00:00:04"
#: No address of their own: nothing but the sender's packets is on the wires.
_QUIET = {"ipv6/conf/default/addr_gen_mode": 1, "ipv6/conf/default/accept_dad": 0}
_FORWARDING = {"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1}
_COUNTERS = """
table {family} count {{
  set translated {{ typeof {family} saddr . {family} daddr . tcp dport; counter; }}
  set direct {{ typeof {family} daddr . tcp dport; counter; }}
  counter others {{ }}
  chain arrived {{
    type filter hook prerouting priority raw;
    {family} saddr . {family} daddr . tcp dport @translated drop
    {family} daddr . tcp dport @direct drop
    meta l4proto tcp counter name others
    drop
  }}
}}
"""
_ELEMENT = re.compile(r"(\S+) \. (\d+) counter packets (\d+) bytes")
_OTHERS = re.compile(r"counter others \{\s*packets (\d+) ")


class VoidError(Exception):
    """A run whose packets did not all take the way that they were to take: it has no figure."""


@dataclass(frozen=True)
class Run:
    """Nanoseconds per packet: of all (those to warm up not among them), and of the median batch, which leaves out
    what interrupts and other users of the machine add to some."""

    ns: float
    typical_ns: float


@dataclass(frozen=True, eq=False)
class Balancer:
    """A namespace with one ruleset in it."""

    number: int
    layout: Layout
    services: Sequence[Service]
    namespace: Namespace


class Wires:
    """Everything that is needed to measure; gone when the context ends, however it does."""

    def __enter__(self) -> Wires:
        with contextlib.ExitStack() as stack:
            self._folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self.sender = self._folder / "syn_sender"
            command = ["gcc", "-O2", "-Wall", "-Wextra", "-o", str(self.sender), str(SOURCE)]
            subprocess.run(command, check=True)
            self.client, self.backends = stack.enter_context(Namespace()), stack.enter_context(Namespace())
            for namespace in (self.client, self.backends):
                _sysctls(namespace, _QUIET)
            self.backends.run("nft", "-f", "-", text=_COUNTERS.format(family="ip") + _COUNTERS.format(family="ip6"))
            self._cpus = sorted(os.sched_getaffinity(0))
            stack.callback(os.sched_setaffinity, 0, self._cpus)
            self._stack = stack.pop_all()
        self._numbers = itertools.count()
        return self

    @property
    def cpu(self) -> int:
        """The CPU of the sender."""
        return self._cpus[-1]

    def leave_cpu(self) -> None:
        """From now on the sender has its CPU to itself; whatever else the benchmark does is done on the others."""
        os.sched_setaffinity(0, self._cpus[:-1] or self._cpus)

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    def balancer(self, layout: Layout, services: Sequence[Service]) -> Balancer:
        """A new balancer between the client and the backends, with the services loaded. Threads may ask for several."""
        number = next(self._numbers)
        namespace = self._stack.enter_context(Namespace())
        self._connect(number, namespace)
        layout.load(namespace, services)
        return Balancer(number, layout, services, namespace)

    def _connect(self, number: int, namespace: Namespace) -> None:
        _sysctls(namespace, {"ipv4/conf/all/rp_filter": 0, "ipv4/conf/default/rp_filter": 0, **_QUIET, **_FORWARDING})
        pid = namespace.process.pid
        self.client.run("ip", "-batch", "-", text=_veth(f"c{number}", _MAC["client"], "front", _MAC["front"], pid))
        self.backends.run("ip", "-batch", "-", text=_veth(f"w{number}", _MAC_BACKENDS, "back", _MAC["back"], pid))
        lines = ["link set lo up", "link set front up", "link set back up"]
        lines += [f"address add {MASQUERADE['ip']}/30 dev back", f"address add {MASQUERADE['ip6']}/64 dev back nodad"]
        lines += ["route add 198.19.0.0/16 dev front", "route add 2001:db8:0:19::/64 dev front"]
        for gateway, behind in (("10.255.255.2", "10.0.0.0/16"), ("2001:db8:ff::2", "2001:db8:10::/48")):
            lines.append(f"neighbour add {gateway} lladdr {_MAC_BACKENDS} dev back nud permanent")
            lines.append(f"route add {behind} via {gateway} dev back")
        namespace.run("ip", "-batch", "-", text="\n".join(lines))

    # -- a run -------------------------------------------------------------------------------------------------

    def measure(self, balancer: Balancer, services: Sequence[Service], packets: int, seed: int) -> Run:
        """Send `packets` first packets to these of the balancer's services in turn. Raises `VoidError` unless every one
        of them reached a backend of its service, translated, on the sender's CPU."""
        layout = balancer.layout
        if layout.backends:
            to = [f"{service.address} {PORT}" for service in services]
            expected = {backend for service in services for backend in layout.translates_to(service)}
        else:
            to = [f"{service.backends[0]} {BACKEND_PORT}" for service in services]
            expected = {service.backends[0] for service in services}
        if packets + WARM_UP > SHARE_OF_TABLE * tracking_room():
            raise VoidError(f"{packets} connections are too many for a tracking table of {tracking_room()}")
        self._expect(layout, expected)
        arguments = [str(self.sender), f"c{balancer.number}", str(self.cpu), str(WARM_UP), str(packets), str(seed)]
        told = json.loads(self.client.run(*arguments, text="\n".join(to)))
        arrived = self._arrived(layout)
        if layout.backends:
            balancer.namespace.run("conntrack", "-F")
        self._verify(layout, len(services), packets, arrived)
        # Each packet is handled twice: by the balancer and by the backends.
        if told["handled"] < 2 * packets:
            raise VoidError(f"{layout.name}: only {told['handled']} of {2 * packets} were handled on the sender's CPU")
        return Run(told["ns"] / packets, told["typical_ns"] / packets)

    def _expect(self, layout: Layout, backends: set[str]) -> None:
        """Counters for these backends at zero, and for nothing else."""
        family, name, source = layout.family, "translated", f"{MASQUERADE[layout.family]} . "
        if layout.shows_client or not layout.backends:
            name, source = "direct", ""
        elements = ", ".join(f"{source}{backend} . {BACKEND_PORT}" for backend in sorted(backends))
        lines = [f"flush set {family} count {known}" for known in ("translated", "direct")]
        lines.append(f"add element {family} count {name} {{ {elements} }}")
        self.backends.run("nft", "-f", "-", text="\n".join(lines))
        self.backends.run("nft", "reset", "counters")

    def _arrived(self, layout: Layout) -> dict[str, int]:
        """Packets by backend, and under "" all others."""
        listing = self.backends.run("nft", "-nn", "list", "table", layout.family, "count")
        others = _OTHERS.search(listing)
        if others is None:
            raise VoidError(f"no counter in the backends' table: {listing[:500]}")
        found = {backend: int(count) for backend, _port, count in _ELEMENT.findall(listing)}
        return {**found, "": int(others[1])}

    def _verify(self, layout: Layout, targets: int, packets: int, arrived: dict[str, int]) -> None:
        others = arrived.pop("")
        total = packets + WARM_UP
        if others or sum(arrived.values()) != total:
            raise VoidError(
                f"{layout.name}: {sum(arrived.values())} of {total} packets arrived as they should, {others} did not"
            )
        if layout.even and targets == 1 and max(arrived.values()) - min(arrived.values()) > 1:
            raise VoidError(f"{layout.name}: the backends should have got even shares: {arrived}")


def ratios(pairs: Mapping[str, Sequence[Layout]], rounds: int, packets: int) -> dict[str, list[float]]:
    """What a first packet costs with one service of the second layout of each pair, to the first one, in each round."""
    found: dict[str, list[float]] = {name: [] for name in pairs}
    with Wires() as wired:
        loaded = {
            name: [wired.balancer(layout, layouts.services(1, layout.family)) for layout in pair]
            for name, pair in pairs.items()
        }
        wired.leave_cpu()
        for number in range(1, rounds + 1):
            for name, pair in loaded.items():
                # Without, with, with, without: what drifts in the meantime meets both.
                order = [*pair, *reversed(pair)]
                # Other clients each time: what remembers those that are forgotten (`max_connections`) takes a second.
                taken = [
                    wired.measure(balancer, balancer.services, packets, len(order) * number + at).typical_ns
                    for at, balancer in enumerate(order)
                ]
                found[name].append((taken[1] + taken[2]) / (taken[0] + taken[3]))
    return found


def _sysctls(namespace: Namespace, values: Mapping[str, int]) -> None:
    """Set `{"ipv4/ip_forward": 1}` and the like, below /proc/sys/net."""
    namespace.run("bash", "-ec", "\n".join(f"echo {value} > /proc/sys/net/{name}" for name, value in values.items()))


def _veth(name: str, mac: str, peer: str, peer_mac: str, pid: int) -> str:
    """Lines of `ip -batch`: a wire into another namespace."""
    return (
        f"link add {name} address {mac} type veth peer name {peer} address {peer_mac} netns {pid}\nlink set {name} up\n"
    )


def tracking_room() -> int:
    """Connections that the tracking table of a namespace may hold; the limit is the machine's."""
    return int(pathlib.Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text())


def tracking_buckets() -> int:
    """Buckets of the one hash table in which all namespaces' connections are."""
    return int(pathlib.Path("/sys/module/nf_conntrack/parameters/hashsize").read_text())
