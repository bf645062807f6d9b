# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What else on this host serves the address and port of a frontend, and is hidden by it.

A program that listens on an address, or on every one where a service does too, gets no connections from outside any
more; nor does a virtual service of IPVS, which looks at packets only once they have been delivered locally. A program
on every address beside a service on one is left unmentioned: other addresses still lead to it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from ..host.sockets import Listener, Ports
from ..model.entities import Config, Frontend, family_of

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
    """About listeners that no connection from outside comes to, since a service takes it."""
    known: Mapping[tuple[str, int], list[Listener]] = _by_port(listeners)
    found = []
    for service in config.services:
        for frontend in service.frontends():
            # A range may be long, a host's listeners are few.
            span = range(frontend.low, frontend.high + 1)
            ports = [frontend.low] if len(span) == 1 else [port for _protocol, port in known if port in span]
            for port in dict.fromkeys(ports):
                rivals = known.get((frontend.protocol, port), ())
                hidden = (rival for rival in rivals if _is_hidden(rival, frontend, local))
                found += [_text(service.name, frontend.interface, rival) for rival in hidden]
    return list(dict.fromkeys(found))


def _is_hidden(listener: Listener, frontend: Frontend, local: Collection[str]) -> bool:
    if frontend.address is not None:
        return listener.address == frontend.address
    if listener.address in _ANY:
        return _ANY[listener.address] == frontend.family
    return listener.address in local and family_of(listener.address) == frontend.family


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
