# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services on `*` and on a network whose connections cannot be told apart once they are on their way to a backend.

Source NAT comes last. By then the original destination and the backend are known, and no longer whether that
destination is an address of this host: `*` has the connection if it is, and the network if it is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..errors import ConfigError
from .entities import Frontend, Service
from .overlaps import Claim, overlaps


def untold(services: Mapping[int, Service], claims: Sequence[Claim]) -> Iterator[ConfigError]:
    """An error for each pair with packets and a backend in common, and another source NAT."""
    if not any(frontend.is_network for frontend, _index in claims):
        return
    concerned = [claim for claim in claims if claim[0].address is None or claim[0].is_network]
    seen = set()
    for pair in overlaps(concerned, meet=_one_is_local):
        (local, one), (network, two) = sorted(pair, key=lambda claim: claim[0].is_network)
        backend = _in_common((services[one], local), (services[two], network))
        if backend and (one, two) not in seen and services[one].source_nat != services[two].source_nat:
            seen.add((one, two))
            yield ConfigError(
                f"services[{two}].snat",
                f"{services[two].name} ({network}) and {services[one].name} (services[{one}], {local}) share the "
                f"backend {backend}, whose connections cannot be told apart for another source NAT",
                "give both the same snat, or one of them another port of that backend",
            )


def _one_is_local(one: Frontend, two: Frontend) -> bool:
    here = (one.address is None) != (two.address is None)
    return here and (one.interface is None or two.interface is None or one.interface == two.interface)


def _in_common(one: tuple[Service, Frontend], two: tuple[Service, Frontend]) -> str:
    """The address of a backend that both have at some port for packets that both would take; empty if there is none."""
    low, high = max(one[1].low, two[1].low), min(one[1].high, two[1].high)
    known: dict[str, list[tuple[int, int]]] = {}
    for backend in one[0].backends:
        known.setdefault(backend.address, []).append(backend.ports_at(low, high))
    for backend in two[0].backends:
        first, last = backend.ports_at(low, high)
        if backend.family == one[1].family and any(a <= last and first <= b for a, b in known.get(backend.address, ())):
            return backend.address
    return ""
