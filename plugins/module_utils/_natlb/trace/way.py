# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Routing of the connection, as the kernel itself would decide it, and what a packet may lose on the way."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import NamedTuple

from ..host import iproute, links, proc, sockets, sysctl
from ..model.marks import Mark
from ..model.values import endpoint
from ..packets import Protocol
from ..warnings import reverse_path
from .question import Question
from .steps import Step

#: What the kernel says to a packet that its reverse path filter drops (EXDEV).
_ASTRAY, _INVALID = "Invalid cross-device link", "Invalid argument"
#: Bytes of a packet that are none of its segment: headers of IP and TCP without options (RFC 6691, section 2).
_HEADERS = {"ip": 40, "ip6": 60}
_FORWARDING = {"ip": "net/ipv4/ip_forward", "ip6": "net/ipv6/conf/all/forwarding"}


class Arrival(NamedTuple):
    """By which interface the client's packets come in; empty where the client is this host itself."""

    interface: str
    steps: list[Step]


def arrival(question: Question, interface: str) -> Arrival:
    """Where no interface is given, clients come in by the one that leads back to them."""
    if question.client in proc.local_addresses():
        said = f"{question.client} is an address of this host: the connection begins here"
        return Arrival("", [Step("arrival", "fact", said)])
    told = "comes in by"
    if not interface:
        back, error = iproute.route(question.client)
        if error:
            remedy = f"add a route to {question.client}, or say by which interface it comes (--interface)"
            return Arrival("", [Step("arrival", "stops", f"no answer finds its way back: {error}", remedy)])
        interface, told = str(back.get("dev", "")), "is expected to come in by"
    here = links.names()
    if interface not in ("lo", *here):
        said = f"this host has no interface {interface}"
        return Arrival("", [Step("arrival", "stops", said, f"name one that it has: {', '.join(here)}")])
    if not links.is_up(interface):
        return Arrival("", [Step("arrival", "stops", f"{interface} is down", f"ip link set {interface} up")])
    return Arrival(interface, [Step("arrival", "ok", f"{question.client} {told} {interface}")])


class Way(NamedTuple):
    """Where a packet goes: `here` where it is for this host. `source` is what the kernel takes as this host's own."""

    interface: str
    source: str
    here: bool
    steps: list[Step]


_NOWHERE = Way("", "", False, [])


def to_backend(question: Question, backend: str, arrives: str, mark: Mark | None = None) -> Way:
    """The way on from the translation to a backend, for a packet with this mark."""
    source, bits = question.client if arrives else "", mark.value if mark else 0
    found, error = iproute.route(backend, source, arrives, bits)
    if error and arrives:
        # Without the filter that looks at where it comes from, and without forwarding, does a route lead there?
        anyhow, no_route = iproute.route(backend, "", "", bits)
        if not no_route and str(anyhow.get("dev", "")):
            return _NOWHERE._replace(steps=[_refused(question, arrives, error)])
    if error:
        return _NOWHERE._replace(steps=[Step("route", "stops", f"none leads to {backend}: {error}", "add a route")])
    own, _error = iproute.route(backend, "", "", bits)
    here = found.get("type") == "local"
    interface, gateway = str(found.get("dev", "")), str(found.get("gateway", ""))
    by = f" by {gateway}" if gateway else ""
    by += f", by its mark {mark}" if mark else ""
    said = f"{backend} is this host itself" if here else f"{backend} is behind {interface}{by}"
    return Way(interface, str(own.get("prefsrc", "")), here, [Step("route", "ok", said)])


def own(address: str, port: int, protocol: Protocol) -> Step:
    """Whether a program of this host itself takes what comes to this address. Nothing else does: a connection is
    translated once, so a service there is not asked."""
    where = endpoint(address, port)
    wild = "::" if ":" in address else "0.0.0.0"
    at = [item for item in sockets.listeners(((port, port),)) if item.protocol == protocol and item.by == "a program"]
    # One of IPv6 may take what comes over IPv4, by that name.
    if any(item.address.removeprefix("::ffff:") in (address, wild, "::") for item in at):
        return Step("backend", "ok", f"a program of this host listens at {where}")
    said = f"no program of this host listens at {where}, and a connection is translated once: no service is asked there"
    return Step("backend", "stops", said, "name the hosts behind that service as backends, or start the program")


def loopback(question: Question, way: Way) -> Iterator[Step]:
    """A client whose address is of the loopback interface, and a backend elsewhere."""
    if not ipaddress.ip_address(question.client).is_loopback:
        return
    # It is on where it is on for all interfaces, or for this one (IN_DEV_ORCONF of the kernel).
    names = [f"net/ipv4/conf/{where}/route_localnet" for where in ("all", way.interface)]
    if question.family == "ip" and any(map(sysctl.number, names)):
        return
    said = f"the kernel drops answers to {question.client} that come in by {way.interface}: it is a loopback address"
    instead = f", such as {way.source}" if way.source else ""
    yield Step("answer", "stops", said, f"connect from another address of this host{instead}")


def _is_astray(source: str, interface: str, error: str) -> bool:
    """Whether it is the reverse path filter that refuses a packet.

    Newer kernels (6.18 is one) say only that the packet is invalid, so what the filter compares is compared here.
    """
    if error == _ASTRAY or ":" in source:
        return error == _ASTRAY
    back, _none = iproute.route(source)
    return error == _INVALID and reverse_path.strict(interface) and str(back.get("dev", "")) != interface


def _refused(question: Question, arrives: str, error: str) -> Step:
    if _is_astray(question.client, arrives, error):
        said = (
            f"the reverse path filter of {arrives} drops packets from {question.client}: answers to it would leave by "
            f"another interface"
        )
        remedy = f"add a route to it by {arrives}, or set net.ipv4.conf.{arrives}.rp_filter and that of all to 2 or 0"
        return Step("route", "stops", said, remedy)
    return Step("route", "stops", f"the kernel does not forward it: {error}", "see `ip route get` and `ip rule`")


def forwards(question: Question) -> Step:
    """Whether this host is a router at all."""
    name = _FORWARDING[question.family]
    dotted = name.replace("/", ".")
    if sysctl.get(name) == "1":
        return Step("forwarding", "ok", f"{dotted} = 1")
    return Step("forwarding", "stops", f"{dotted} is not 1: this host forwards no packet", "natlb apply")


def back(question: Question, backend: str, way: Way, arrives: str) -> Iterator[Step]:
    """The way of an answer from the backend to the client."""
    if not arrives or way.here:
        return
    found, error = iproute.route(question.client, backend, way.interface)
    if error and _is_astray(backend, way.interface, error):
        said = f"the reverse path filter of {way.interface} drops answers from {backend}"
        remedy = f"set net.ipv4.conf.{way.interface}.rp_filter and that of all to 2 or 0"
        yield Step("answer", "stops", said, remedy)
    elif error:
        yield Step("answer", "stops", f"no route leads back to {question.client}: {error}", "add a route")
    elif str(found.get("dev", "")) != arrives:
        yield Step("answer", "may", f"it leaves by {found.get('dev')}, not by {arrives} where the client came in")
    else:
        yield Step("answer", "ok", f"it leaves by {arrives}")


def mtu(question: Question, arrives: str, way: Way) -> Iterator[Step]:
    """Large packets, where the next link takes smaller ones than the first."""
    if not arrives or way.here or not way.interface:
        return
    first, second = links.mtu(arrives), links.mtu(way.interface)
    if second < first:
        said = (
            f"packets of more than {second} bytes come in by {arrives} ({first}) and do not fit {way.interface}: "
            f"clients learn that by ICMP alone, which a firewall on their way may drop"
        )
        remedy = "let ICMP pass (fragmentation needed, packet too big)"
        if question.protocol == "tcp":
            remedy += f", or clamp the MSS to {second - _HEADERS[question.family]}"
        yield Step("mtu", "may", said, remedy)
