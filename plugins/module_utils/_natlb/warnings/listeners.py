# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Listeners of this host that a frontend hides.

A program that listens on the address of a frontend, or on every address if the service does, gets no more connections
from outside. Neither does a virtual service of IPVS, which sees packets only after local delivery. There is no warning
about a program on every address if the service has one address, or a network but not all addresses: others still reach
the program. Of several
services that hide one listener the most specific is named, and one of each interface before it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from ..host.sockets import Listener, Ports
from ..model.entities import Config, Frontend
from ..model.precedence import in_network, possible
from ..model.spelling import is_everything
from ..packets import family_of

_ANY = {"0.0.0.0": "ip", "::": "ip6"}


def ports(config: Config) -> Ports:
    """The ports of all frontends, as ranges that are apart."""
    found: list[tuple[int, int]] = []
    for low, high in sorted({(f.low, f.high) for service in config.services for f in service.frontends()}):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return tuple(found)


def warnings(config: Config, listeners: Iterable[Listener], local: Collection[str]) -> list[str]:
    """Warnings about listeners that get no connections from outside, since a service takes them."""
    known: Mapping[tuple[str, int], list[Listener]] = _by_port(listeners)
    found: dict[Listener, dict[Frontend, str]] = {}
    for service in config.services:
        for frontend in service.frontends():
            for rivals in _rivals(known, frontend):
                for rival in rivals:
                    if _is_hidden(rival, frontend, local):
                        found.setdefault(rival, {})[frontend] = service.name
    texts = (
        _text(claims[frontend], frontend.interface, rival)
        for rival, claims in found.items()
        for frontend in possible(claims)
    )
    return list(dict.fromkeys(texts))


def _rivals(known: Mapping[tuple[str, int], list[Listener]], frontend: Frontend) -> list[list[Listener]]:
    """The listeners at the ports of a frontend."""
    if frontend.low == frontend.high:
        found = known.get((frontend.protocol, frontend.low))
        return [] if found is None else [found]
    # A range may be long, a host's listeners are few.
    ports = [port for protocol, port in known if protocol == frontend.protocol]
    return [known[frontend.protocol, port] for port in ports if frontend.low <= port <= frontend.high]


def _is_hidden(listener: Listener, frontend: Frontend, local: Collection[str]) -> bool:
    if frontend.is_network:
        return _is_of_network(listener, frontend, local)
    if frontend.address is not None:
        return listener.address == frontend.address
    if listener.address in _ANY:
        return _ANY[listener.address] == frontend.family
    return listener.address in local and family_of(listener.address) == frontend.family


def _is_of_network(listener: Listener, frontend: Frontend, local: Collection[str]) -> bool:
    network = str(frontend.address)
    if listener.address in _ANY:
        return _ANY[listener.address] == frontend.family and is_everything(network)
    is_here = listener.address in local and family_of(listener.address) == frontend.family
    return is_here and in_network(network, listener.address)


def _by_port(listeners: Iterable[Listener]) -> dict[tuple[str, int], list[Listener]]:
    found: dict[tuple[str, int], list[Listener]] = {}
    for listener in listeners:
        if not listener.address.startswith("127.") and listener.address != "::1":
            found.setdefault((listener.protocol, listener.port), []).append(listener)
    for rivals in found.values():
        # A socket for every address of IPv6 is one of IPv4 too, unless its program has another one for that.
        if {rival.address for rival in rivals if rival.by != "IPVS"} & {*_ANY} == {"::"}:
            rivals.append(rivals[0]._replace(address="0.0.0.0", by="a program"))
    return found


def _text(service: str, interface: str | None, listener: Listener) -> str:
    host = f"[{listener.address}]" if ":" in listener.address else listener.address
    where = f" by {interface}" if interface else ""
    shows = "ipvsadm -Ln" if listener.by == "IPVS" else f"ss -lnp{'t' if listener.protocol == 'tcp' else 'u'}"
    return (
        f"service {service}: {listener.by} of this host serves {listener.protocol} {host}:{listener.port} too "
        f"(`{shows}`), but connections from outside{where} go to the service now; stop it, or choose another frontend"
    )
