# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual addresses over several balancers: what the role `failover` declares, checked, and as keepalived takes it.

Every host of the group makes its own configuration of what all of them declare, so all must come to the same. Pure.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Union

from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.errors import ConfigError, ConfigErrors
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.model import values
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.model.reading import Reading

ADDRESSES = "natlb_failover_addresses"
GROUP = "natlb_failover_group"
PEER_ADDRESS = "natlb_failover_peer_address"
UNICAST = "natlb_failover_unicast"
SYNC_ADDRESS = "natlb_failover_sync_address"
#: What RFC 9568, 5.2.7 can say in hundredths of a second, less what a busy host would miss.
_ADVERT_S, _CHECK_S = (0.1, 40.0), (1, 60)
_KEYS = ("addresses", "interface", "router_id", "primary", "track_interfaces", "gateways", "gateway_interface")
_REQUIRED = ("addresses", "interface", "router_id")
#: Of the host that is to have the addresses, and how much less each further one has. 255 is for owners of the address
#: (RFC 9568, 5.2.4), who would take it without asking.
_HIGHEST, _STEP = 250, 10
MOST_HOSTS = _HIGHEST // _STEP

Interface = Union[ipaddress.IPv4Interface, ipaddress.IPv6Interface]
Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


class Shared(NamedTuple):
    """Addresses that move together. `path` is where they are declared."""

    path: str
    addresses: tuple[Interface, ...]
    interface: str
    router_id: int
    #: The host that has them while all are well; None is the first host of the group.
    primary: str | None
    track_interfaces: tuple[str, ...]
    #: Addresses that move along on another interface, and that interface. Backends have them as their gateway.
    gateways: tuple[Interface, ...] = ()
    gateway_interface: str = ""

    @property
    def versions(self) -> list[int]:
        """Families of the addresses."""
        return sorted({address.version for address in self.addresses})

    @property
    def spoken(self) -> int:
        """The family by which hosts speak with each other about all of it."""
        return self.versions[0]

    @property
    def meant(self) -> tuple[Any, ...]:
        """What all hosts have to agree upon."""
        return sorted(map(str, self.addresses)), sorted(map(str, self.gateways)), self.router_id, self.primary

    @property
    def sides(self) -> list[tuple[str, str, tuple[Interface, ...]]]:
        """Its addresses by interface: the key that declares them, the interface, the addresses."""
        return [("addresses", self.interface, self.addresses), ("gateways", self.gateway_interface, self.gateways)]


class Fleet(NamedTuple):
    """The hosts that share addresses, in the order of the inventory, and the variables of all hosts."""

    hosts: Sequence[str]
    hostvars: Mapping[str, Mapping[str, Any]]
    unicast: bool = True


def declared(value: Any, path: str = ADDRESSES) -> list[Shared]:
    """What a host declares. Raises `ConfigErrors` with all that is wrong with it by itself."""
    reading = Reading()
    items = reading.read(values.sequence, value, path, otherwise=[])
    found = reading.each(_shared, [(f"{path}[{number}]", item) for number, item in enumerate(items)])
    if not items and not reading.errors:
        reading.add(path, "is empty", "name an address, or set natlb_failover_state: absent to remove all")
    _without_clashes(found, reading)
    reading.done()
    return found


def _shared(value: Any, path: str) -> Shared:
    reading = Reading()
    given = reading.mapping(value, path, _KEYS, _REQUIRED)
    listed = values.one_or_more(given["addresses"], f"{path}.addresses") if "addresses" in given else []
    addresses = reading.each(_with_prefix, listed)
    if "addresses" in given and not listed:
        reading.add(f"{path}.addresses", "is empty", "write an address with its prefix, such as 192.0.2.10/24")
    interface, router_id, tracked = "", 0, []
    if "interface" in given:
        interface = reading.read(values.interface, given["interface"], f"{path}.interface", otherwise="")
    if "router_id" in given:
        at = f"{path}.router_id"
        router_id = reading.read(values.integer, given["router_id"], at, 1, 255, "a router ID", otherwise=0)
    if "track_interfaces" in given:
        tracked = values.one_or_more(given["track_interfaces"], f"{path}.track_interfaces")
    primary = str(given["primary"]) if "primary" in given else None
    names = reading.each(values.interface, tracked)
    found = Shared(path, tuple(addresses), interface, router_id, primary, tuple(names))
    found = _with_gateways(found, given, reading)
    reading.done()
    return found


def _with_gateways(item: Shared, given: Mapping[str, Any], reading: Reading) -> Shared:
    """What moves along on the backends' side."""
    keys = {"gateways", "gateway_interface"}
    for key in sorted(keys - set(given)) if keys & set(given) else ():
        reading.add(f"{item.path}.{key}", "is missing", "gateways and their interface go together")
    if not keys <= set(given):
        return item
    gateways = reading.each(_with_prefix, values.one_or_more(given["gateways"], f"{item.path}.gateways"))
    at = f"{item.path}.gateway_interface"
    interface = reading.read(values.interface, given["gateway_interface"], at, otherwise="")
    if interface and interface == item.interface:
        reading.add(at, f"{interface} is that of the addresses", "write gateways on it among the addresses")
    for address in gateways:
        if item.addresses and address.version not in item.versions:
            problem = f"{address} has no address of its family to move with"
            reading.add(f"{item.path}.gateways", problem, f"add an IPv{address.version} address to addresses")
    return item._replace(gateways=tuple(gateways), gateway_interface=interface)


def _with_prefix(value: Any, path: str) -> Interface:
    address, slash, _length = str(value).partition("/")
    parsed = values.host_address(address, path)
    remedy = f"write the prefix of its network as well, such as {parsed}/{24 if parsed.version == 4 else 64}"
    if not slash:
        raise ConfigError(path, f"{parsed} has no prefix", remedy)
    try:
        found = ipaddress.ip_interface(str(value))
    except ValueError as error:
        raise ConfigError(path, f"{values.shown(value)}: {error}", "write one such as 192.0.2.10/24") from error
    if not found.network.prefixlen:
        raise ConfigError(path, f"{found} says that every address is in its network", remedy)
    if found.ip == found.network.network_address and found.network.num_addresses > 2:
        raise ConfigError(path, f"{found} is a network, not an address", "write an address of that network")
    return found


def _without_clashes(found: Sequence[Shared], reading: Reading) -> None:
    """Router IDs and addresses of one host."""
    for number, item in enumerate(found):
        for other in found[:number]:
            if (item.interface, item.router_id) == (other.interface, other.router_id):
                problem = f"{item.router_id} is that of {other.path} on {item.interface} already"
                reading.add(f"{item.path}.router_id", problem, "give each its own: hosts take them for one another")
            theirs = {address.ip for _key, _interface, addresses in other.sides for address in addresses}
            for key, _interface, addresses in item.sides:
                for twice in sorted(theirs & {address.ip for address in addresses}, key=str):
                    reading.add(f"{item.path}.{key}", f"{twice} is in {other.path} already", "name it once")


def problems(value: Any, name: str, group: Any, fleet: Fleet, everybody: Sequence[str] = ()) -> list[str]:
    """One message for each thing that is wrong with what the host `name` declares, also beside what others declare.

    `everybody` are hosts whose router IDs must not be those of other addresses in one network.
    """
    try:
        shared = declared(value)
    except ConfigErrors as errors:
        return list(map(str, errors.errors))
    found = _of_the_group(name, group, fleet.hosts)
    if found:
        return found
    for item in shared:
        if item.primary is not None and item.primary not in fleet.hosts:
            found.append(f"{item.path}.primary: {item.primary} is not in the group {group} (name one of its hosts)")
        found += _disagreements(item, shared, name, fleet)
        found += _unreachable(item, fleet) if fleet.unicast else []
    return found + [line for other in everybody for line in _clashes(shared, name, other, fleet)]


def wrong_numbers(given: Mapping[str, Any]) -> list[str]:
    """What is wrong with the variables of times and addresses."""
    reading = Reading()
    advert, check = "natlb_failover_advert_interval", "natlb_failover_check_interval"
    if given.get(advert) is not None:
        reading.read(values.duration, given[advert], advert, *_ADVERT_S, ("ms", "s"), otherwise=0.0)
    if given.get(check) is not None:
        reading.read(values.integer, given[check], check, *_CHECK_S, "a number of seconds", otherwise=0)
    if given.get(PEER_ADDRESS) is not None:
        reading.each(values.host_address, values.one_or_more(given[PEER_ADDRESS], PEER_ADDRESS))
    if given.get(SYNC_ADDRESS) is not None:
        reading.read(values.host_address, given[SYNC_ADDRESS], SYNC_ADDRESS, otherwise=None)
    return list(map(str, reading.errors))


def _of_the_group(name: str, group: Any, hosts: Sequence[str]) -> list[str]:
    if not hosts:
        return [f"{GROUP}: the inventory has no group {group} (name the group of all hosts that share the addresses)"]
    if name not in hosts:
        return [f"{GROUP}: {name} is not in the group {group} (add it, or name its own group)"]
    if len(hosts) < 2:
        return [f"{GROUP}: {group} has no other host than {name}, so nobody could take over (add a second balancer)"]
    if len(hosts) > MOST_HOSTS:
        return [f"{GROUP}: {group} has {len(hosts)} hosts (at most {MOST_HOSTS} can share addresses; make more groups)"]
    return []


def _of(name: str, fleet: Fleet) -> list[Shared]:
    """What another host declares. What is wrong with it by itself is told there."""
    with contextlib.suppress(ConfigErrors, KeyError):
        return declared(fleet.hostvars[name][ADDRESSES])
    return []


def _disagreements(item: Shared, shared: Sequence[Shared], name: str, fleet: Fleet) -> Iterator[str]:
    """Hosts of the group that do not declare the same addresses under this router ID."""
    ours = [one for one in shared if one.router_id == item.router_id]
    for other in fleet.hosts:
        theirs = [one for one in _of(other, fleet) if one.router_id == item.router_id] if other != name else ours
        if [one.meant for one in theirs] != [one.meant for one in ours]:
            yield (
                f"{item.path}: {other} declares router ID {item.router_id} with other addresses, another primary, or "
                f"not at all (declare {ADDRESSES} once, for the whole group)"
            )


def _clashes(shared: Sequence[Shared], name: str, other: str, fleet: Fleet) -> Iterator[str]:
    """Router IDs that others use for other addresses of the same network."""
    for theirs in _of(other, fleet) if other != name and other not in fleet.hosts else ():
        for item in shared:
            networks = [address.network for address in theirs.addresses]
            meet = any(
                one.network.version == network.version and one.network.overlaps(network)  # type: ignore[arg-type]
                for one in item.addresses
                for network in networks
            )
            if meet and item.router_id == theirs.router_id:
                yield (
                    f"{item.path}.router_id: {other} uses {item.router_id} for {_listed(theirs)} in the same network "
                    "(give one of them another: hosts take them for one another)"
                )


def _listed(item: Shared) -> str:
    return ", ".join(map(str, item.addresses))


def _unreachable(item: Shared, fleet: Fleet) -> Iterator[str]:
    """Hosts of the group without an address for the others to send to."""
    for host in fleet.hosts:
        if peer_address(item, item.spoken, fleet.hostvars.get(host) or {}) is None:
            yield (
                f"{PEER_ADDRESS}: {host} has no known IPv{item.spoken} address in the network of {_listed(item)} (set "
                f"it for {host}, gather its facts, or set natlb_failover_unicast: false)"
            )


def peer_address(item: Shared, version: int, variables: Mapping[str, Any]) -> Address | None:
    """Where the host with these variables is told that others live: an address of its own, that never moves.

    It is the first of this version: of `natlb_failover_peer_address`, whatever its network; then in the network of one
    of the virtual addresses, of the facts about the interface, and `ansible_host`.
    """
    given = variables.get(PEER_ADDRESS)
    for address in _addresses(given if isinstance(given, (list, tuple)) else [given]):
        if address.version == version:
            return address
    own = {one.ip for one in item.addresses}
    networks = [one.network for one in item.addresses if one.version == version]
    for address in _addresses([*_facts(item, variables), variables.get("ansible_host")]):
        if address not in own and any(address in network for network in networks):
            return address
    return None


def _facts(item: Shared, variables: Mapping[str, Any]) -> list[Any]:
    facts = (variables.get("ansible_facts") or {}).get(item.interface.replace("-", "_").replace(".", "_")) or {}
    four, six = facts.get("ipv4") or {}, facts.get("ipv6") or []
    return [four.get("address"), *(one.get("address") for one in six)]


def _addresses(found: Sequence[Any]) -> Iterator[Address]:
    for value in found:
        with contextlib.suppress(ValueError):
            if isinstance(value, str):
                yield ipaddress.ip_address(value)


def instances(value: Any, name: str, fleet: Fleet) -> list[dict[str, Any]]:
    """What keepalived is to run on the host `name`: one instance for each set of addresses.

    Each has `name`, `interface`, `router_id`, `priority`, `addresses`, `along`, `track_interfaces`, and with unicast
    `source` and `peers`. It speaks for the family of `addresses`; in `along` are the other addresses that move, each
    with its interface. Raises `ConfigErrors`.

    It is one for both families, and not one for each in a group of keepalived's: in a group, one of two hosts that both
    had the addresses gives up those of the other family in silence, and the host that keeps them does not make them
    known again.
    """
    return [
        {
            "name": f"natlb_{item.router_id}_{item.interface}_ipv{item.spoken}",
            "interface": item.interface,
            "router_id": item.router_id,
            "priority": _HIGHEST - _STEP * order(item, fleet.hosts).index(name),
            "addresses": [str(address) for address in item.addresses if address.version == item.spoken],
            "along": _along(item),
            "track_interfaces": _tracked(item),
            **(_peers(item, item.spoken, name, fleet) if fleet.unicast else {}),
        }
        for item in declared(value)
    ]


def _along(item: Shared) -> list[dict[str, str]]:
    """Addresses that advertisements do not name, with their interfaces."""
    others = [address for address in item.addresses if address.version != item.spoken]
    return [
        {"address": str(address), "interface": interface}
        for interface, addresses in ((item.interface, others), (item.gateway_interface, item.gateways))
        for address in addresses
    ]


def _tracked(item: Shared) -> list[str]:
    """Without the link to the backends, whoever has the gateways could serve nobody."""
    further = [item.gateway_interface] if item.gateways else []
    return [*item.track_interfaces, *(name for name in further if name not in item.track_interfaces)]


def order(item: Shared, hosts: Sequence[str]) -> list[str]:
    """Who has the addresses, the first of these that can: the primary, and from there on in the order of the inventory,
    so that the addresses of a host that fails are not all taken by the same one."""
    first = hosts.index(item.primary) if item.primary in hosts else 0
    return [*hosts[first:], *hosts[:first]]


def _peers(item: Shared, version: int, name: str, fleet: Fleet) -> dict[str, Any]:
    known = {host: peer_address(item, version, fleet.hostvars.get(host) or {}) for host in fleet.hosts}
    return {
        "source": str(known[name]),
        "peers": [str(address) for host, address in known.items() if host != name and address is not None],
    }


def holds(value: Any, told: str) -> bool:
    """Whether a host that says `told` (`ip -brief address`) has one of the virtual addresses now."""
    with contextlib.suppress(ConfigErrors):
        ours = {str(address.ip) for item in (declared(value) if value else []) for address in item.addresses}
        return bool(ours & {str(address) for address in _addresses([word.partition("/")[0] for word in told.split()])})
    return False


def outside(value: Any, links: Sequence[Mapping[str, Any]]) -> list[str]:
    """Virtual addresses that are in no network of their interface. `links` is what `ip -json address` says."""
    networks: dict[str, list[Any]] = {
        str(link.get("ifname")): [
            ipaddress.ip_interface(f"{one['local']}/{one['prefixlen']}")
            for one in link.get("addr_info") or []
            if one.get("local")
        ]
        for link in links
    }
    found = []
    sides = [(item.path, *side) for item in declared(value) for side in item.sides]
    for path, key, interface, addresses in sides:
        shared = {address.ip for address in addresses}
        fixed = [one for one in networks.get(interface, []) if one.ip not in shared]
        found += [
            f"{path}.{key}: {address} is in no network of {interface} "
            f"({', '.join(str(one.network) for one in fixed) or 'it has no address of its own'}), so only hosts that "
            "have a route to this balancer reach it (check the address and the interface)"
            for address in addresses
            if not any(one.version == address.version and address.ip in one.network for one in fixed)
        ]
    return found


def without_a_way_back(value: Any, services: Sequence[Mapping[str, Any]]) -> list[str]:
    """Virtual addresses of services with `snat: none` beside which no gateway of the backends moves.

    It may be among the addresses as well, where backends and clients are on one interface: one at which no service
    listens.
    """
    hosts = [(service, _hosts(service.get("listen"))) for service in services]
    listening = {host for _service, found in hosts for host in found}
    told = []
    for item in declared(value):
        shared = {str(address.ip) for address in item.addresses}
        if item.gateways or not shared <= listening:
            continue
        names = [
            str(s.get("name")) for s, found in hosts if found & shared and str(s.get("snat") or "").lower() == "none"
        ]
        if names:
            told.append(
                f"{item.path}: {', '.join(names)} has snat: none, and no gateway moves along with the address, so the "
                "replies of backends may go to the former balancer (add gateways and gateway_interface)"
            )
    return told


def _hosts(listen: Any) -> set[str]:
    listens = listen if isinstance(listen, (list, tuple)) else [listen]
    return {str(one).rpartition(":")[0].strip("[]") for one in listens}
