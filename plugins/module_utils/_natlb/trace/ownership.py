# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether packets for an address come to this host at all, and whether there is a port left to see a client by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..host import iproute, sysctl, tracked
from ..host.tracked import Tracked
from ..model.entities import Backend, Service
from ..model.source_nat import SourceNat
from ..model.spelling import ports_text
from ..model.values import endpoint
from ..packets import Family
from .question import Question
from .steps import Step
from .way import Way

_ASKS = {"ip": "ARP", "ip6": "neighbour discovery"}


def target(question: Question, interface: str) -> Iterator[Step]:
    """What hinders packets for the address that the client asks for; `interface` is where it comes in, if it does."""
    found, _error = iproute.route(question.target)
    if found.get("type") == "broadcast":
        said = f"{question.target} is the broadcast address of {found.get('dev')}, to which nothing is balanced"
        yield Step("target", "stops", said, "choose the address of a host")
    elif interface and _is_silent(question.family, question.target, interface, found):
        said = (
            f"no interface of this host has {question.target}, so it answers no {_ASKS[question.family]} for it on "
            f"{interface}: it gets what is routed to it, and nothing else"
        )
        whole = "; a network: ip route add local NETWORK dev lo" if question.family == "ip" else ""
        yield Step("target", "may", said, f"ip address add {_host(question.target)} dev {interface}{whole}")


def _host(address: str) -> str:
    return f"{address}/{128 if ':' in address else 32}"


def _is_silent(family: Family, address: str, interface: str, route: dict[str, Any]) -> bool:
    """Whether hosts on this link ask for the address, and this one does not answer. `route` is its way to it."""
    if route.get("type") == "local" or route.get("gateway") or route.get("dev") != interface:
        return False
    if sysctl.get(f"net/ipv4/conf/{interface}/proxy_arp_pvlan") == "1" and family == "ip":
        return False
    return address not in iproute.proxies()


def source(question: Question, service: Service, backend: Backend, way: Way) -> Iterator[Step]:
    """What hinders the address and port by which the backend is to see the client."""
    snat = service.source_nat.of(question.client, backend.address)
    if snat.kind == "none" or (snat.kind == "masquerade" and not snat.ports):
        return
    port = backend.port_at(question.port)
    known = tracked.of_backend(question.family, question.protocol, backend.address, port)
    if snat.kind == "address":
        yield from _absent(question, snat.of(question.family), way, known)
    if snat.ports:
        addresses = snat.of(question.family) if snat.kind == "address" else (way.source,)
        yield from used_up(snat, addresses, endpoint(backend.address, port), known)


def _absent(question: Question, addresses: Sequence[str], way: Way, known: Sequence[Tracked]) -> Iterator[Step]:
    """Addresses that the backend asks for in vain. One by which it has answered is one that it finds."""
    found = {item.seen_by[0] for item in known if item.answered}
    missing = [
        address
        for address in addresses
        if address not in found and _is_silent(question.family, address, way.interface, iproute.route(address)[0])
    ]
    if missing:
        said = (
            f"no interface of this host has {' or '.join(missing)}, so nobody answers {_ASKS[question.family]} for it "
            f"on {way.interface}, and answers of the backend do not come here"
        )
        remedy = f"ip address add {_host(missing[0])} dev {way.interface}, or change snat"
        yield Step("source", "stops" if len(missing) == len(addresses) else "may", said, remedy)


def used_up(snat: SourceNat, addresses: Sequence[str], place: str, known: Sequence[Tracked]) -> Iterator[Step]:
    """Whether a port of `snat_ports` is left for one more connection to this place. Pure."""
    low, high = snat.ports or (0, 0)
    mine = [item for item in known if item.seen_by[0] in addresses and low <= item.seen_by[1] <= high]
    room = (high - low + 1) * len(addresses)
    going_on = len({item.seen_by for item in mine if item.active or item.opening})
    every = len({item.seen_by for item in mine})
    said = f"{every} of {room} ports of {ports_text(low, high)} are taken to {place} (snat_ports)"
    remedy = "widen snat_ports, or name several addresses in snat"
    if going_on >= room:
        yield Step("source", "stops", f"{said}: one more gets no answer", remedy)
    elif every >= room:
        yield Step("source", "may", f"{said}, some by connections that have ended: a kernel may wait for these", remedy)
    else:
        yield Step("source", "ok", said)
