# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Source NAT of iptables in POSTROUTING: for our own connections and for the networks behind the balancer."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from ..model.entities import Config, Frontend, Service
from ..model.families import family_of
from ..model.outbound import Egress, Uplink, mark_value
from ..model.ranges import number_range
from ..model.slots import interleave
from ..ruleset.names import digest
from .choice import Target, by_chance, by_turn
from .dispatch import chain_name, ports_text
from .service import Tables

#: xt_multiport takes 15 ports in one rule, and a range counts for two (XT_MULTI_PORTS).
_MULTIPORT = 15
#: Without --random-fully: see `nftables/source_nat.py`, _snat_chain.
_MASQUERADE = "-j MASQUERADE"


# -- services ------------------------------------------------------------------------------------------------------


def snat_action(tables: Tables, service: Service, frontend: Frontend, networks: Sequence[str]) -> str:
    """What is done with a frontend's connections, once it is known by their original destination that they are ours.

    That does not show a `*` or an interface; there the backend tells.
    """
    action = _snat(tables, service, networks)
    if frontend.address is not None and frontend.interface is None:
        return action
    ports = ports_text((frontend.low, frontend.high))
    name = chain_name(service.name, frontend.protocol, "out", ports.replace(":", "-"))
    tables.chains["nat", name] = [
        f"-d {backend.address}/{tables.bits} -p {frontend.protocol} -m {frontend.protocol} "
        f"--dport {backend.port or ports} {action}"
        for backend in service.backends
        if backend.family == tables.family
    ]
    return f"-j {name}"


def _snat(tables: Tables, service: Service, networks: Sequence[str]) -> str:
    """The action of a service's `snat`: a target, or a jump to a chain that takes every packet."""
    if service.snat == "masquerade":
        return _MASQUERADE
    addresses = service.snat_of(tables.family)
    if len(addresses) == 1:
        return _snat_to(addresses[0])
    name = chain_name(service.name, "snat")
    if ("nat", name) not in tables.chains and service.snat == "none":
        tables.chains["nat", name] = _hairpin(tables, service, networks)
    elif ("nat", name) not in tables.chains:
        chosen = by_chance(name, [(Target("", _snat_to(address)), 1) for address in addresses])
        tables.chains.update({("nat", chain): rules for chain, rules in chosen.items()})
    return f"-j {name}"


def _snat_to(address: str) -> str:
    return f"-j SNAT --to-source {address}"


def _hairpin(tables: Tables, service: Service, networks: Sequence[str]) -> list[str]:
    """Clients stay visible, but for those whose replies would not pass the balancer; no foreign rule hides them."""
    backends = [backend.address for backend in service.backends if backend.family == tables.family]
    numbers = {address: int(ipaddress.ip_address(address)) for address in backends}
    near: list[str] = []
    covered = set()
    for network in networks:
        if family_of(network) != tables.family:
            continue
        low, high = number_range(network)
        inside = {address for address, number in numbers.items() if low <= number <= high}
        if inside:
            near.append(f"-s {network} -d {network} {_MASQUERADE}")
            covered |= inside
    alone = [a for a in dict.fromkeys(backends) if a not in covered]
    near += [f"-s {a}/{tables.bits} -d {a}/{tables.bits} {_MASQUERADE}" for a in alone]
    # An ACCEPT would leave the source to every other chain of nat behind this; a translation to itself is one for good.
    everything = "::/0" if tables.family == "ip6" else "0.0.0.0/0"
    return [*near, f"-m addrtype --src-type LOCAL {_MASQUERADE}", f"-j NETMAP --to {everything}"]


# -- egress --------------------------------------------------------------------------------------------------------


def add_egress(tables: Tables, config: Config) -> None:
    """Source NAT for networks behind the balancer, after that of the services."""
    rules: list[str] = []
    for item in config.egress:
        if tables.family not in item.families():
            continue
        nat = _snat_to(item.snat_address) if item.snat_address else _MASQUERADE
        if item.uplinks:
            outs = [f"-o {name}" for name in sorted({uplink.interface for uplink in item.uplinks})]
        else:
            outs = [f"-o {item.out_interface}" if item.out_interface else ""]
        rules += _for_item(tables, item, [f"{out} {ports}" for out in outs for ports in port_matches(item)], nat)
    if rules:
        tables.enter("nat", "POSTROUTING", "post", rules)


def _for_item(tables: Tables, item: Egress, matches: Sequence[str], action: str) -> list[str]:
    """Rules for traffic from an item's sources to elsewhere than its sources."""
    sources = item.sources_of(tables.family)
    if item.everything(tables.family):
        return [" ".join(f"{match} {action}".split()) for match in matches]
    if len(sources) == 1:
        return [" ".join(f"-s {sources[0]} ! -d {sources[0]} {match} {action}".split()) for match in matches]
    # A rule holds one `! -d`, so several need a chain that they leave first.
    rules = [f"-d {source} -j RETURN" for source in sources]
    rules += [" ".join(f"-s {source} {match} {action}".split()) for source in sources for match in matches]
    name = chain_name("", "from", digest("\n".join(rules)))
    tables.chains["nat", name] = rules
    return [f"-j {name}"]


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
    for item in config.egress:
        if item.uplinks and tables.family in item.families():
            rules += _for_item(tables, item, port_matches(item), f"-g {_uplink_choice(tables, config, item)}")
            if rules[-1].startswith("-j"):
                rules.append(f"-m connmark ! --mark 0x0/{mask} -j RETURN")
    if not rules:
        return
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
