# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses that balancers announce by BGP: what the role `anycast` declares, checked. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.errors import ConfigError, NatlbError
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.model import values
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.model.entities import Config
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.model.network_lists import UNKNOWN
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.model.reading import Reading
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.model.services import parse_config

PREFIX = "natlb_anycast_"
AS, NEIGHBORS = f"{PREFIX}as", f"{PREFIX}neighbors"
_KEYS, _REQUIRED = ("address", "as", "password", "multihop", "source"), ("address", "as")
#: RFC 6793. 0 is for nobody (RFC 7607).
_MOST_AS = 2**32 - 1


def addresses(value: Any) -> list[str]:
    """The addresses that services listen on, in order; items that are no services are addresses themselves.

    Raises `ConfigErrors`.
    """
    reading = Reading()
    items = value if isinstance(value, list) else [value]
    services = [item for item in items if isinstance(item, Mapping)]
    others = [(f"{PREFIX}addresses[{n}]", item) for n, item in enumerate(items) if not isinstance(item, Mapping)]
    found = {*reading.each(values.host_address, others)}
    # Which lists their clients are in is for the role `balancer` to say.
    config = reading.read(parse_config, services, None, None, None, UNKNOWN, otherwise=Config((), ()))
    reading.done()
    for service in config.services:
        for frontend in service.frontends():
            if frontend.address is not None and not frontend.is_network:
                found.add(ipaddress.ip_address(frontend.address))
    return [str(address) for address in sorted(found, key=lambda address: (address.version, int(address)))]


def problems(given: Mapping[str, Any], unread: Collection[str] = ()) -> list[str]:
    """One line for each thing that is wrong with the variables of the role; those that are not set are left out, and so
    are `unread` ones, of which somebody else tells."""
    missing = [name for name in (AS, NEIGHBORS) if given.get(name) is None]
    unset = [name for name in missing if name not in unread]
    found = [f"{name}: is not set for this host (docs/topologies.md has an example)" for name in unset]
    reading = Reading()
    if AS not in missing:
        reading.read(values.integer, given[AS], AS, 1, _MOST_AS, "a number", otherwise=0)
    for name, low, high in ((f"{PREFIX}hold_time", 3, 65535), (f"{PREFIX}check_interval", 1, 60)):
        if given.get(name) is not None:
            reading.read(values.integer, given[name], name, low, high, "a number of seconds", otherwise=0)
    if given.get(f"{PREFIX}router_id"):
        _router_id(given[f"{PREFIX}router_id"], reading)
    if NEIGHBORS not in missing:
        _neighbors(given[NEIGHBORS], boolean(given.get(f"{PREFIX}bfd", False), strict=False), reading)
    name = f"{PREFIX}addresses"
    if given.get(name) is not None:
        try:
            _announced(addresses(given[name]), given.get(NEIGHBORS), name, reading)
        except NatlbError as error:
            found.append(str(error))
    return found + list(map(str, reading.errors))


def _announced(found: list[str], neighbors: Any, name: str, reading: Reading) -> None:
    if not found:
        reading.add(name, "is empty: no service listens on an address", f"name one, or set {PREFIX}state: absent")
    elif not reading.errors and neighbors is not None:
        told = {ipaddress.ip_address(str(neighbor["address"])).version for neighbor in neighbors}
        for address in found:
            if (version := ipaddress.ip_address(address).version) not in told:
                other = f"name a router that is reached by IPv{version}, or set {name} without this address"
                reading.add(NEIGHBORS, f"no router is told of {address}, as none is reached by IPv{version}", other)
                return


def _router_id(value: Any, reading: Reading) -> None:
    try:
        ipaddress.IPv4Address(str(value))
    except ValueError:
        reading.add(
            f"{PREFIX}router_id", f"{values.shown(value)} is not written as an IPv4 address", "such as 192.0.2.2"
        )


def _neighbors(value: Any, bfd: bool, reading: Reading) -> None:
    items = reading.read(values.sequence, value, NEIGHBORS, otherwise=[])
    if not items and not reading.errors:
        reading.add(NEIGHBORS, "is empty", f"name a router, or set {PREFIX}state: absent to withdraw all")
    known: dict[Any, str] = {}
    for number, item in enumerate(items):
        path = f"{NEIGHBORS}[{number}]"
        address = reading.read(_neighbor, item, path, bfd, otherwise=None)
        if address is not None and known.setdefault(address, path) != path:
            reading.add(f"{path}.address", f"{address} is that of {known[address]}, too", "name each router once")


def _neighbor(value: Any, path: str, bfd: bool) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Its address. Raises `ConfigErrors` where there is none."""
    reading = Reading()
    given = reading.mapping(value, path, _KEYS, _REQUIRED)
    ends = {
        key: reading.read(values.host_address, given[key], f"{path}.{key}", otherwise=None)
        for key in ("address", "source")
        if key in given
    }
    versions = {end.version for end in ends.values() if end is not None}
    if len(versions) > 1:
        reading.add(f"{path}.source", "is of another family than the address", "write one of the same family")
    if bfd and "multihop" in given and "source" not in given:
        reading.add(f"{path}.source", "is missing", "BFD over several hops has to know the address of this host")
    if "as" in given:
        reading.read(values.integer, given["as"], f"{path}.as", 1, _MOST_AS, "a number", otherwise=0)
    if "multihop" in given:
        reading.read(values.integer, given["multihop"], f"{path}.multihop", 1, 255, "a number of hops", otherwise=0)
    if "password" in given:
        reading.read(_password, str(given["password"]), f"{path}.password", otherwise=None)
    reading.done()
    return ends["address"]


def _password(value: str, path: str) -> None:
    """Its value is not shown."""
    if not value:
        raise ConfigError(path, "is empty", "leave the key out, or write one; a template may have come out empty")
    # BIRD has strings in quotes and knows no way to quote a quote.
    if any(sign in value for sign in '"\n'):
        raise ConfigError(path, "has a quotation mark or a line break", "choose one without")
