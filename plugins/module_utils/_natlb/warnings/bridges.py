# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backends behind a bridge of this host, if br_netfilter passes its frames through our rules.

The bridge then translates a frame at the port that it came in by, and forwards it itself: never back by that port,
unless the port is in hairpin mode (br_nf_pre_routing_finish in net/bridge/br_netfilter_hooks.c, should_deliver in
br_forward.c). So a backend that connects to its own service, and is chosen itself, gets no answer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ..host import sysctl
from ..host.links import Link
from ..host.routes import Ways
from ..model.entities import Config
from ..packets import Family, family_of

_SYSCTLS: dict[Family, str] = {"ip": "bridge-nf-call-iptables", "ip6": "bridge-nf-call-ip6tables"}
_NAMED = 3


def filtered() -> list[Family]:
    """The families whose bridged packets pass netfilter's hooks. Without the module br_netfilter there is no sysctl."""
    return [family for family, name in _SYSCTLS.items() if sysctl.get(f"net/bridge/{name}") == "1"]


def bridged_backends(
    config: Config, links: Sequence[Link], ways: Ways, families: Collection[Family]
) -> dict[str, dict[str, list[str]]]:
    """For each bridge the services whose backends there may connect to them, and the addresses of these backends."""
    bridges = {link.name for link in links if link.kind == "bridge"}
    found: dict[str, dict[str, list[str]]] = {}
    known: dict[str, str] = {}
    for service in config.services if bridges else ():
        for backend in service.backends:
            if backend.family in families and backend.state == "active" and service.admits(backend.address):
                if backend.address not in known:
                    known[backend.address] = ways.interface(backend.address)
                bridge = known[backend.address]
                if bridge in bridges and service.interface in (None, bridge):
                    found.setdefault(bridge, {}).setdefault(f"service {service.name}", []).append(backend.address)
    return found


def warning(
    bridge: str, services: Mapping[str, Sequence[str]], links: Sequence[Link], ports: Mapping[str, str]
) -> str | None:
    """The warning about a bridge and the backends behind it; None where all of their ports are in hairpin mode."""
    without = [link.name for link in links if link.master == bridge and not link.hairpin]
    addresses = {address for found in services.values() for address in found}
    if all(address in ports for address in addresses):
        without = [name for name in without if name in {ports[address] for address in addresses}]
    if not without:
        return None
    owners = ", ".join([*services][:_NAMED]) + (", …" if len(services) > _NAMED else "")
    named = ", ".join(without[:_NAMED]) + (", …" if len(without) > _NAMED else "")
    names = ", ".join(sorted({_SYSCTLS[family_of(address)] for address in addresses}))
    return (
        f"{owners}: a backend behind the bridge {bridge} that connects to its own service and is chosen itself gets no "
        f"answer: with br_netfilter the bridge translates ({names}), and a bridge does not send a frame back to its "
        f"port; run `bridge link set dev PORT hairpin on` for the ports of backends ({named}), or set these sysctls of "
        f"net.bridge to 0 if nothing else needs them"
    )
