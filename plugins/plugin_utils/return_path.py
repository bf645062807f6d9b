# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with `natlb_return_balancers`, by which a backend tells several balancers apart."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

BALANCERS, BIT, GATEWAY = "natlb_return_balancers", "natlb_return_mark_bit", "natlb_return_gateway"
#: As many as eight bits can number; none of them is 0.
MOST = 255
#: The lowest of the eight bits may be this one at most: marks have 32.
HIGHEST_BIT = 24
_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")


def problems(values: Mapping[str, Any]) -> list[str]:
    """`values` are those of the role's variables that are set, by name; one line for each problem."""
    found = list(_of_bit(values.get(BIT, HIGHEST_BIT)))
    balancers = values.get(BALANCERS) or []
    if not isinstance(balancers, list):
        return [*found, f"{BALANCERS}: is not a list (write one mapping with mac and gateway for each balancer)"]
    if len(balancers) > MOST:
        found.append(f"{BALANCERS}: {len(balancers)} are too many (at most {MOST})")
    macs: list[str] = []
    for index, balancer in enumerate(balancers):
        place = f"{BALANCERS}[{index}]"
        if not isinstance(balancer, dict):
            found.append(f"{place}: is not a mapping (write mac and gateway)")
            continue
        macs += _listed(balancer.get("mac"))
        found += [*_of_macs(place, balancer), *_of_gateways(place, balancer)]
    twice = [mac for mac, count in Counter(macs).items() if count > 1]
    found += [
        f"{BALANCERS}: {mac} is there {macs.count(mac)} times (each packet comes from one balancer)" for mac in twice
    ]
    return found or list(_of_families(values.get(GATEWAY), balancers))


def _of_bit(bit: Any) -> Iterator[str]:
    if bit is not None and not (str(bit).isdecimal() and int(bit) <= HIGHEST_BIT):
        yield f"{BIT}: {bit} is not a number from 0 to {HIGHEST_BIT}"


def _listed(value: Any) -> list[str]:
    items = value if isinstance(value, list) else [] if value is None else [value]
    return [str(item).lower() for item in items]


def _of_macs(place: str, balancer: Mapping[str, Any]) -> Iterator[str]:
    macs = _listed(balancer.get("mac"))
    if not macs:
        yield f"{place}.mac: is missing (write the link-layer address that its packets come from)"
    for mac in macs:
        # The first bit that is sent says whether it is an address of many.
        if mac.isdecimal():
            yield f"{place}.mac: {mac} is a number to YAML (write the address in quotation marks)"
        elif not _MAC.fullmatch(mac) or int(mac[1], 16) % 2:
            yield f"{place}.mac: {mac} is not the link-layer address of a host (write one such as 02:00:5e:00:53:01)"


def _of_gateways(place: str, balancer: Mapping[str, Any]) -> Iterator[str]:
    gateways = _listed(balancer.get("gateway"))
    families = []
    for gateway in gateways:
        try:
            families.append(ipaddress.ip_address(gateway).version)
        except ValueError:
            yield f"{place}.gateway: {gateway} is not an address (write one such as 10.0.0.11)"
    if not gateways or len(set(families)) < len(families):
        yield f"{place}.gateway: {', '.join(gateways) or 'nothing'} is not one address (or one of each family)"


def _of_families(default: Any, balancers: list[dict[str, Any]]) -> Iterator[str]:
    """What is sent to those of one family only, for a connection of the other family, would go past them all. Each
    family has rules if the default has it, which is the first balancer where there is none."""
    places = {f"{BALANCERS}[{index}].gateway": balancer.get("gateway") for index, balancer in enumerate(balancers)}
    if default and places:
        places = {GATEWAY: default, **places}
    families = {place: _families(gateway) for place, gateway in places.items()}
    first = next(iter(families), "")
    for place, found in families.items():
        if found != families[first]:
            yield (
                f"{place}: {' and '.join(found)}, while {first} is {' and '.join(families[first])} (write addresses of"
                " the same families for all)"
            )


def _families(gateway: Any) -> list[str]:
    return sorted({"IPv6" if ":" in address else "IPv4" for address in _listed(gateway)})
