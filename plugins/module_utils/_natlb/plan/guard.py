# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Refuses services that would take over the port by which this run manages the host."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from ..errors import ConfigError
from ..model.entities import Config, Frontend
from ..model.left_to_the_host import is_wild
from ..model.precedence import in_network, rank
from ..packets import family_of

#: (address, port) of this host's end of an ssh connection.
Endpoint = tuple[str, int]


def endpoints(environments: Sequence[str]) -> list[Endpoint]:
    """The ssh connections that a process came in by, from the environments of it and its parents (NUL-separated).

    sshd leaves SSH_CONNECTION there: client address, client port, server address, server port (ssh(1)).
    """
    found = []
    for environment in environments:
        for entry in environment.split("\0"):
            name, _unused, value = entry.partition("=")
            words = value.split()
            if name == "SSH_CONNECTION" and len(words) == 4 and words[3].isascii() and words[3].isdigit():
                address = _plain(words[2])
                if address is not None:
                    found.append((address, int(words[3])))
    return list(dict.fromkeys(found))


def _plain(address: str) -> str | None:
    """An address without zone; one that sshd shows as IPv4 in IPv6 is IPv4 on the wire. None for no address: sshd
    says UNKNOWN where its input is not a socket."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)


def check(config: Config, managed_by: Sequence[Endpoint]) -> None:
    """Raise `ConfigError` where a service claims one of the endpoints; of several it names the most specific one."""
    for address, port in managed_by:
        claims = {
            frontend: index
            for index, service in enumerate(config.services)
            for frontend in service.frontends()
            if _claims(frontend, address, port)
        }
        if claims:
            index = claims[max(claims, key=rank)]
            raise ConfigError(
                f"services[{index}].listen",
                f"{config.services[index].name} would take over {address} port {port}, by which this run manages the "
                f"host",
                "listen elsewhere, or set allow_management_port: true if there is another way in",
            )


def _claims(frontend: Frontend, address: str, port: int) -> bool:
    return (
        frontend.protocol == "tcp"
        and frontend.family == family_of(address)
        and frontend.low <= port <= frontend.high
        and _is_at(frontend, address)
    )


def _is_at(frontend: Frontend, address: str) -> bool:
    if frontend.address is None:
        return is_wild(address)
    return in_network(frontend.address, address) if frontend.is_network else frontend.address == address
