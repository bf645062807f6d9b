# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel settings that forwarding needs, now and at the next boot."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Callable

from ..host import links, store, sysctl
from ..host.routes import Routes
from ..host.store import Paths
from ..model.entities import Config
from ..model.transit import Closed, dump, parse
from ..packets import Family
from ..ruleset.sections import Key, Ruleset, Section

NAMES = {"ip": "net/ipv4/ip_forward", "ip6": "net/ipv6/conf/all/forwarding"}


#: Gives a kernel setting by its name; None where there is none.
Reader = Callable[[str], "str | None"]


@dataclass(frozen=True)
class Before:
    """What the host was before natlb turned forwarding on, as far as it must go on. Kept until everything is removed.

    `listening` are the interfaces that have learned routes or addresses by router advertisement. `closed` has the
    families that were not forwarded, and the interfaces between which nothing else is to be; `opened` says that the
    last run was to forward for everybody nonetheless.
    """

    listening: tuple[str, ...] = ()
    closed: Mapping[Family, Closed] = field(default_factory=dict)
    opened: bool = False


def read_before(
    kept: Before, families: Collection[Family], routes: Routes, get: Reader, bridges: Callable[[], Iterable[str]]
) -> Before:
    """What this host was before these families were forwarded, as far as it must go on. See `_listening`."""
    closed = {family: item for family, item in kept.closed.items() if family in families}
    for family in families:
        if family not in closed and get(NAMES[family]) == "0":
            seen = _observe(family, sysctl.get_unobserved, bridges())
            # On a host that has lo alone there is nothing to close.
            closed.update({family: seen} if seen.interfaces else {})
    return Before(_listening(kept, routes, get) if "ip6" in families else (), closed)


def _observe(family: Family, get: Reader, bridges: Iterable[str]) -> Closed:
    """The interfaces that there are now."""
    version = "ipv6" if family == "ip6" else "ipv4"
    names = links.names()
    already = [name for name in names if get(f"net/{version}/conf/{name}/forwarding") == "1"]
    return Closed(tuple(names), tuple(already), tuple(sorted(set(bridges) & set(names))))


def released(kept: Before, families: Collection[Family]) -> tuple[dict[str, str], list[str]]:
    """What is to become of families that natlb forwarded and does no longer: settings, and warnings.

    Nobody else can need forwarding that only natlb's own connections had. With an interface that came later somebody
    may: Docker and VPNs find forwarding on, and do not ask for it.
    """
    settings, warnings = {}, []
    for family, closed in kept.closed.items():
        if family in families:
            continue
        later = sorted(set(links.names()) - set(closed.interfaces))
        name = NAMES[family]
        if not later and not kept.opened:
            settings[name] = "0"
            continue
        why = f"{', '.join(later[:3])} were added since" if later else "other traffic was forwarded as well"
        warnings.append(
            f"{name} stays 1: natlb turned it on, but {why}; the host forwards all traffic until you set it to 0"
        )
    return settings, warnings


def _listening(kept: Before, routes: Routes, get: Reader) -> tuple[str, ...]:
    """The interfaces that must go on listening to router advertisements.

    A router believes no other router's advertisements (RFC 4861, section 6.2.8), so in the moment in which IPv6
    forwarding is turned on the kernel drops each default route that it has learned that way, and it lets addresses
    expire; but for interfaces with `accept_ra=2` (rt6_purge_dflt_routers in the kernel's net/ipv6/route.c). Once chosen
    an interface stays, since a router may be silent for a while. 0 is for those where somebody else listens:
    systemd-networkd and NetworkManager do so themselves, and the kernel leaves their routes alone.
    """
    turned_on = get(NAMES["ip6"]) == "0"
    listening = set(kept.listening)
    for interface in {route.interface for route in routes.all if route.advertised} - listening:
        now = get(accept_ra(interface))
        if now == "2" or (now == "1" and turned_on):
            listening.add(interface)
    return tuple(sorted(listening))


def accept_ra(interface: str) -> str:
    return f"net/ipv6/conf/{interface}/accept_ra"


def dump_before(before: Before) -> dict[str, Any]:
    return {"listening": list(before.listening), "closed": dump(before.closed)}


def keep_before(paths: Paths, before: Before) -> None:
    """A second copy, should state.json be lost: nobody can find out later what the host was before the first run.
    Raises `HostError`."""
    path, kept = paths.run / store.BEFORE, dump_before(before)
    if before.closed and store.read_json(path) != kept:
        store.write_text(path, json.dumps(kept))


def parse_before(value: Any) -> Before:
    """From a file that may be damaged: what cannot be read counts as not kept."""
    kept = value if isinstance(value, Mapping) else {}
    listening = kept.get("listening")
    names = listening if isinstance(listening, list) else []
    found = tuple(name for name in names if isinstance(name, str) and name and "/" not in name)
    return Before(found, parse(kept.get("closed")))


def settings(config: Config, before: Before) -> dict[str, str]:
    """Kernel settings for a configuration, by name with slashes, in the order in which they are to be made."""
    return {**{accept_ra(interface): "2" for interface in before.listening}, **switches(config)}


def switches(config: Config) -> dict[str, str]:
    """Those of them without which the kernel forwards nothing, by name."""
    return {NAMES[family]: "1" for family in config.families()}


def is_on(config: Config) -> bool:
    """Whether the kernel forwards packets of each family in use. What `accept_ra` is has no part in that."""
    return all(sysctl.get(name) == value for name, value in switches(config).items())


def interface_of(name: str) -> str | None:
    """The interface that a setting is of; None where it is of the host."""
    found = re.fullmatch(r"net/ipv[46]/conf/(?!all/|default/)([^/]+)/\w+", name)
    return found[1] if found else None


def section(values: Mapping[str, str]) -> Ruleset:
    return {Key("", "", "sysctl", name): Section((), (value,)) for name, value in values.items()}
