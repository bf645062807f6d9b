# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One family's table of nftables while it is being filled: maps and sets, chains, and what declares them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from ..errors import ConfigError
from ..model.entities import Frontend, Service, protocol_number
from ..model.left_to_the_host import NOT_IN_NETWORKS, NOT_WILD
from ..model.spelling import ports_text
from ..model.territory import APART, Territory
from ..packets import Family
from ..ruleset.sections import Key, Ruleset, Section
from .text import TABLE, Lines

#: Elements that a set of clients may hold, which packets fill.
CLIENTS = 65536
#: Until a client's second SYN has come: after one second with most, after three with old ones (RFC 6298, section 5).
_AGAIN_S = 4


class Table:
    """Sections by kind and name. What is added twice has to be the same."""

    def __init__(self, family: Family, territory: Territory = APART) -> None:
        self.family = family
        #: See `frontends`.
        self.territory = territory
        self.address = "ipv6_addr" if family == "ip6" else "ipv4_addr"
        self.declarations: dict[tuple[str, str], Lines] = {}
        self.elements: dict[tuple[str, str], dict[str, str]] = {}
        self.chains: dict[str, Lines] = {}
        self.headers: dict[str, str] = {}
        #: By a digest of what is in a map of one service its name, for others that have the same.
        self.same: dict[str, str] = {}

    def frontends(self, service: Service) -> list[Frontend]:
        """The frontends of a service in this family, without what others take of them."""
        return [frontend for frontend in self.territory.of(service) if frontend.family == self.family]

    def declare(self, kind: str, name: str, *lines: str) -> dict[str, str]:
        """The elements of a map or set, which is declared at its first use."""
        self.declarations.setdefault((kind, name), list(lines))
        return self.elements.setdefault((kind, name), {})

    def put(self, kind: str, name: str, declaration: Sequence[str], key: str, data: str = "") -> None:
        """Add an element to a map (with `data`) or to a set. Raises `ConfigError` where its key has other data."""
        elements = self.declare(kind, name, *declaration)
        if elements.setdefault(key, data) != data:
            raise ConfigError(f"map {name}", f"{key} would lead to both {elements[key]} and {data}", "declare it once")

    def chain(self, name: str, rules: Lines) -> str:
        """Add a chain, unless there is one of that name. Returns the name."""
        self.chains.setdefault(name, rules)
        return name

    def refuse(self) -> str:
        """The name of the chain that refuses a packet, which is added."""
        return self.chain("refuse", ["meta l4proto tcp reject with tcp reset", "reject"])

    def over_limit(self) -> str:
        """What a TCP client over a limit gets: its SYN is passed over, and refused when it comes again.

        The kernel takes ended connections off its count no more than once a tick. So a client whose last connection has
        just ended may be over its limit at first; a second later, when its SYN comes again, it is so truly. Likewise
        where all backends are full, whose connections the kernel takes off once a second. Where the
        set is full, the rule that should add to it does not match, and the SYN is refused at once.
        """
        client = f"{self.family} saddr . tcp sport"
        lines = [f"typeof {client}", f"size {CLIENTS}", "flags dynamic,timeout", f"timeout {_AGAIN_S}s"]
        self.declare("set", "over_limit", *lines)
        again = f"{client} @over_limit goto {self.refuse()}"
        return self.chain("over_limit", [again, f"add @over_limit {{ {client} }} drop", f"goto {self.refuse()}"])

    def base(self, name: str, header: str, rules: Lines) -> None:
        """Add a base chain; `header` is its hook, priority and policy."""
        self.chains[name] = rules
        self.headers[name] = header

    def sections(self) -> Ruleset:
        """All that was added, with the section of the table itself."""
        found: Ruleset = {Key(self.family, TABLE, "table", TABLE): Section((), ())}
        for (kind, name), declaration in self.declarations.items():
            body = (f"{key} : {data}" if data else key for key, data in self.elements[(kind, name)].items())
            found[Key(self.family, TABLE, kind, name)] = Section(tuple(declaration), tuple(sorted(body)))
        for name, rules in self.chains.items():
            header = (self.headers[name],) if name in self.headers else ()
            found[Key(self.family, TABLE, "chain", name)] = Section(header, tuple(rules))
        return found


class FrontendMap(NamedTuple):
    """Which frontends a map or set holds: those of an address (`service`), of `*` (`node`) or of a network, with or
    without an interface. Of an address, those with several ports have maps of their own."""

    kind: Literal["service", "node", "network"]
    interface: bool = False
    spans: bool = False

    @property
    def name(self) -> str:
        """That of the map of the dispatch."""
        return "_".join([self.kind, *["interface"] * self.interface, *["range"] * self.spans])

    def named(self, purpose: str) -> str:
        """That of a map or set of the same frontends for another purpose."""
        other = [] if self.kind == "service" else [self.kind]
        return "_".join([purpose, *other, *["interface"] * self.interface, *["range"] * self.spans])


#: All of them, with the one first that most packets are found in.
FRONTEND_MAPS = (
    FrontendMap("service"),
    FrontendMap("service", spans=True),
    FrontendMap("service", interface=True),
    FrontendMap("service", interface=True, spans=True),
    FrontendMap("node"),
    FrontendMap("node", interface=True),
    FrontendMap("network", interface=True),
    FrontendMap("network"),
)


def map_of(frontend: Frontend) -> FrontendMap:
    """The one that holds a frontend."""
    has_interface = frontend.interface is not None
    if frontend.address is None:
        return FrontendMap("node", has_interface)
    if frontend.is_network:
        return FrontendMap("network", has_interface)
    return FrontendMap("service", has_interface, frontend.spans)


def frontend_map(frontend: Frontend) -> str:
    """The map in which the dispatch finds a frontend."""
    return map_of(frontend).name


def frontend_key(frontend: Frontend, address: str) -> tuple[list[str], str]:
    """The declaration of a map or set in which a frontend is looked up, but for what it leads to, and its key.

    `address` is the type of an address.
    """
    kinds, key = ["inet_proto", "inet_service"], [str(protocol_number(frontend.protocol))]
    key.append(ports_text(frontend.low, frontend.high))
    if frontend.address is not None:
        kinds, key = [address, *kinds], [frontend.address, *key]
    if frontend.interface is not None:
        kinds, key = ["ifname", *kinds], [f'"{frontend.interface}"', *key]
    interval = ["flags interval"] if frontend.address is None or frontend.spans or frontend.is_network else []
    return [f"type {' . '.join(kinds)}", *interval], " . ".join(key)


def frontend_lookups(table: Table, sent_here: bool = False) -> list[tuple[FrontendMap, str, str]]:
    """How a packet is looked up in each map: the map, what is matched first, and the key.

    Of what is `sent_here`, by this host itself, networks have only what is for itself: its own connections to others
    are no clients'.
    """
    family = table.family
    daddr, port = f"{family} daddr", "meta l4proto . th dport"
    local = " ".join(["fib daddr type local", *(f"{daddr} != {net}" for net in NOT_WILD[family]), ""])
    # To a directed broadcast everybody's answer would be translated back.
    unicast = "fib daddr type local" if sent_here else "fib daddr type != broadcast" if family == "ip" else ""
    net = " ".join([*filter(None, [unicast]), *(f"{daddr} != {net}" for net in NOT_IN_NETWORKS[family]), ""])
    keys = {"service": ("", f"{daddr} . {port}"), "node": (local, port), "network": (net, f"{daddr} . {port}")}

    def looked_up(each: FrontendMap) -> tuple[FrontendMap, str, str]:
        match, key = keys[each.kind]
        return each, match, f"meta iifname . {key}" if each.interface else key

    return list(map(looked_up, in_order(table)))


def in_order(table: Table) -> list[FrontendMap]:
    """The maps of frontends in the order to look into them, so that the most specific one is met first. `*`, and then
    networks, are last in any case."""
    found = list(FRONTEND_MAPS)
    if table.territory.prefers(table.family):
        found.sort(key=lambda each: (each.kind == "network", each.kind == "node", not each.interface))
    return found


def plain(network: str) -> str:
    """A network of one address as nft prints it: the address alone."""
    address, _unused, length = network.partition("/")
    return address if length == ("128" if ":" in address else "32") else network
