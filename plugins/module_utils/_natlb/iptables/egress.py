# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Source NAT of the networks behind the balancer, and the choice of their way out, as rules of iptables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from ..model.entities import Config
from ..model.outbound import Egress, Uplink, mark_value
from ..model.ranges import Range
from ..model.shadowing import Shadowed, shadowed
from ..model.slots import interleave
from ..model.spelling import is_everything
from ..packets import PROTOCOLS, Family
from ..ruleset.names import digest
from .choice import Target, by_turn
from .dispatch import chain_name, ports_text
from .service import Tables
from .source_nat import MASQUERADE, snat_to

#: xt_multiport takes 15 ports in one rule, and a range counts for two (XT_MULTI_PORTS).
_MULTIPORT = 15
#: What is excepted leaves the chain that asks for egress.
_LEAVE = "-j RETURN"


def add_egress(tables: Tables, config: Config) -> None:
    """Source NAT for networks behind the balancer, after that of the services."""
    rules: list[str] = []
    for item in config.egress:
        if tables.family not in item.families():
            continue
        outs = [f"-o {name}" for name in item.ways()] or [""]
        matches = [f"{out} {ports}" for out in outs for ports in port_matches(item)]
        if item.snat == "none":
            rules += _for_item(tables, item, matches, _LEAVE)
            continue
        for found in shadowed(config.services, tables.family, item):
            rules += _for_item(tables, item, *_shadowed(found, item, outs))
        if item.snat_ports:
            rules += _for_item(tables, item, _of_each_protocol(item, outs), _to_ports(item, item.snat_ports))
        if not (item.snat_ports and item.protocol):
            rules += _for_item(tables, item, matches, snat_to(item.snat_address) if item.snat_address else MASQUERADE)
    if rules:
        tables.enter("nat", "POSTROUTING", "post", rules)


def _shadowed(found: Shadowed, item: Egress, outs: Sequence[str]) -> tuple[list[str], str]:
    """The matches for source ports of services, and what becomes of such connections."""
    sports = ",".join(map(ports_text, found.ports))
    ways = [f"{out} {to}" for out in outs for to in (port_matches(item) if item.ports else [f"-p {found.protocol}"])]
    return [f"{way} -m multiport --sports {sports}" for way in ways], _to_ports(item, found.instead)


def _of_each_protocol(item: Egress, outs: Sequence[str]) -> list[str]:
    """The matches of an item for a target with ports, which has to know the protocol."""
    protocols = port_matches(item) if item.protocol else [f"-p {protocol}" for protocol in PROTOCOLS]
    return [f"{out} {protocol}" for out in outs for protocol in protocols]


def _to_ports(item: Egress, ports: Range) -> str:
    text = "-".join(map(str, ports))
    address = f"[{item.snat_address}]" if ":" in (item.snat_address or "") else item.snat_address
    return f"-j SNAT --to-source {address}:{text}" if item.snat_address else f"{MASQUERADE} --to-ports {text}"


def _for_item(tables: Tables, item: Egress, matches: Sequence[str], action: str) -> list[str]:
    """Rules for traffic that an item speaks of."""
    sources, to = item.sources_of(tables.family), destination_matches(item, tables.family)
    if not item.spared(tables.family):
        return _rules([_source_match(source) for source in sources], to, matches, action)
    if len(sources) == 1:
        return _rules([f"-s {sources[0]} ! -d {sources[0]}"], to, matches, action)
    # A rule holds one `! -d`, so several need a chain that they leave first.
    rules = [f"-d {source} -j RETURN" for source in sources]
    rules += _rules([f"-s {source}" for source in sources], to, matches, action)
    name = chain_name("", "from", digest("\n".join(rules)))
    tables.chains["nat", name] = rules
    return [f"-j {name}"]


def _source_match(source: str) -> str:
    return "" if is_everything(source) else f"-s {source}"


def _rules(sources: Sequence[str], to: Sequence[str], matches: Sequence[str], action: str) -> list[str]:
    """A rule for each of them."""
    return [" ".join(" ".join((*found, action)).split()) for found in product(sources, to, matches)]


def destination_matches(item: Egress, family: Family) -> list[str]:
    """Matches for an item's destinations, any of which will do."""
    return ["" if is_everything(network) else f"-d {network}" for network in item.destinations_of(family)] or [""]


def port_matches(item: Egress) -> list[str]:
    """Matches for an item's protocol and ports, any of which will do."""
    if item.protocol is None:
        return [""]
    if not item.ports:
        return [f"-p {item.protocol}"]
    lists: list[list[str]] = [[]]
    room = _MULTIPORT
    for ports in item.ports:
        size = 1 if ports[0] == ports[1] else 2
        if size > room:
            lists.append([])
            room = _MULTIPORT
        lists[-1].append(ports_text(ports))
        room -= size
    return [f"-p {item.protocol} -m multiport --dports {','.join(texts)}" for texts in lists]


def add_uplinks(tables: Tables, config: Config) -> None:
    """The choice of a way out for new connections, and the mark that keeps each packet of them on it."""
    rules: list[str] = []
    mask = f"{config.mark_mask:#x}"
    if not any(uplink.family == tables.family for uplink in config.uplinks()):
        return
    for item in config.egress:
        if item.snat == "none" and not item.out_interface and tables.family in item.families():
            # Nor does it take another way.
            rules += _for_item(tables, item, port_matches(item), _LEAVE)
        if item.uplinks and tables.family in item.families():
            rules += _for_item(tables, item, port_matches(item), f"-g {_uplink_choice(tables, config, item)}")
            if rules[-1].startswith("-j"):
                rules.append(f"-m connmark ! --mark 0x0/{mask} -j RETURN")
    ways = chain_name("", "uplinks")
    tables.chains["nat", ways] = rules
    # One that came in by an uplink leaves by it, whoever its sender is.
    unmarked = f"-m connmark --mark 0x0/{mask}"
    tables.enter("nat", "PREROUTING", "pre", [f"-m addrtype ! --dst-type LOCAL {unmarked} -j {ways}"])
    restore = f"-m connmark ! --mark 0x0/{mask} -j CONNMARK --restore-mark --nfmask {mask} --ctmask {mask}"
    arrivals = [
        f"-i {interface} -m conntrack --ctstate NEW {unmarked} "
        f"-j CONNMARK --set-xmark {mark_value(config.mark_mask, index):#x}/{mask}"
        for interface, index in config.arrivals(tables.family).items()
    ]
    tables.enter("mangle", "PREROUTING", "mark", [*arrivals, restore])
    # There a changed mark changes the way of the host's own answers (ip_route_me_harder).
    tables.enter("mangle", "OUTPUT", "answers", [restore])


def _uplink_choice(tables: Tables, config: Config, item: Egress) -> str:
    """The chain in which an item's uplinks take turns by weight.

    It is reached by -g, and goes on by -g: at its end the packet is back where the uplinks were asked for, so no later
    item chooses again. (With several sources it is back in between; there the mark tells.)
    """
    order = interleave([uplink.weight for uplink in item.uplinks])
    targets = [Target("", f"-g {_uplink(tables, config, item.uplinks[index])}") for index in order]
    name = chain_name("", "turns", digest(" ".join(str(target) for target in targets)))
    for chain, rules in by_turn(name, targets).items():
        tables.chains["nat", chain] = rules
    return name


def _uplink(tables: Tables, config: Config, uplink: Uplink) -> str:
    """The chain that marks connection and packet with an uplink's value."""
    index = [known.key for known in config.uplinks()].index(uplink.key)
    value, mask = f"{mark_value(config.mark_mask, index):#x}", f"{config.mark_mask:#x}"
    name = chain_name("", "uplink", value)
    tables.chains["nat", name] = [
        f"-j CONNMARK --set-xmark {value}/{mask}",
        f"-j MARK --set-xmark {value}/{mask}",
    ]
    return name
