# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What else on this host serves the address and port of a frontend, and is hidden by it.

A program that listens on an address, or on every one where a service does too, gets no connections from outside any
more; nor does a virtual service of IPVS, which looks at packets only once they have been delivered locally. A program
on every address beside a service on one is left unmentioned: other addresses still lead to it.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from ..model.entities import Config, Frontend, family_of

#: net/tcp_states.h, as /proc prints it; an unconnected UDP socket counts as closed.
_LISTENING = {"tcp": "0A", "udp": "07"}
_ANY = {"0.0.0.0": "ip", "::": "ip6"}


class Listener(NamedTuple):
    """`by` is `a program` or `IPVS`."""

    protocol: str
    address: str
    port: int
    by: str = "a program"


def read() -> list[Listener]:
    """Every socket of this network namespace that waits for clients, and the virtual services of IPVS."""
    found: list[Listener] = []
    for protocol in _LISTENING:
        for name in (protocol, f"{protocol}6"):
            found += parse_sockets(protocol, _lines(f"/proc/thread-self/net/{name}"))
    return found + parse_ipvs(_lines("/proc/thread-self/net/ip_vs"))


def _lines(path: str) -> Iterator[str]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            yield from file
    except OSError:
        return


def parse_sockets(protocol: str, lines: Iterable[str]) -> list[Listener]:
    """Of /proc/net/tcp and the like. Listening sockets of TCP come first there, however many connections follow."""
    found = []
    for number, line in enumerate(lines):
        fields = line.split()
        if number == 0 or len(fields) < 4:
            continue
        if fields[3] == _LISTENING[protocol]:
            address, _colon, port = fields[1].partition(":")
            found.append(Listener(protocol, _address(address), int(port, 16)))
        elif protocol == "tcp":
            break
    return found


def _address(text: str) -> str:
    """Words of 32 bits in the byte order of the machine."""
    packed = b"".join(struct.pack("=I", int(text[i : i + 8], 16)) for i in range(0, len(text), 8))
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def parse_ipvs(lines: Iterable[str]) -> list[Listener]:
    """Virtual services of /proc/net/ip_vs, but for those by mark: `TCP  C0000202:0050 rr`, IPv6 in brackets."""
    found = []
    for line in lines:
        fields = line.split()
        if len(fields) > 1 and fields[0] in ("TCP", "UDP", "SCTP") and ":" in fields[1]:
            address, _colon, port = fields[1].rpartition(":")
            if address.startswith("["):
                shown = socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, address.strip("[]")))
            else:
                shown = socket.inet_ntoa(struct.pack(">I", int(address, 16)))
            found.append(Listener(fields[0].lower(), shown, int(port, 16), "IPVS"))
    return found


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
