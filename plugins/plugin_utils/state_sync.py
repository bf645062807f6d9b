# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tracked connections that one balancer copies to another: what the role `failover` declares of it, and what conntrackd
is told. Pure."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.errors import ConfigError, ConfigErrors
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.model import values
from ansible_collections.natlb.netfilter.plugins.plugin_utils import failover
from ansible_collections.natlb.netfilter.plugins.plugin_utils.failover import SYNC_ADDRESS, Address, Fleet, Shared

SYNC = "natlb_failover_sync"
#: conntrackd's unicast has two ends.
HOSTS = 2
_LOOPBACK = ("127.0.0.0/8", "::1")


def problems(value: Any, name: str, group: Any, fleet: Fleet) -> list[str]:
    """One message for each thing that keeps the host `name` from copying its connections to another one.

    `failover.problems` tells of a host that is not in the group.
    """
    if name not in fleet.hosts:
        return []
    try:
        shared = failover.declared(value)
    except ConfigErrors:
        return []
    if len(fleet.hosts) != HOSTS:
        remedy = f"make groups of two hosts, or set {SYNC}: false"
        return [f"{SYNC}: {group} has {len(fleet.hosts)} hosts, and connections are copied between two ({remedy})"]
    alone = [host for host in fleet.hosts if host != name and not _copies(fleet.hostvars.get(host) or {})]
    if alone:
        remedy = "set it in the inventory, for the whole group"
        return [f"{SYNC}: {name} has it, and {alone[0]} has not, so nobody takes the copies ({remedy})"]
    known = {host: _address_of(host, shared, fleet) for host in fleet.hosts}
    missing = [host for host, address in known.items() if address is None]
    if missing:
        return [f"{SYNC_ADDRESS}: {host} has no known address (set it for {host})" for host in missing]
    return list(_wrong_ends(known, name, shared))


def _copies(variables: Mapping[str, Any]) -> bool:
    return bool(boolean(variables.get(SYNC, False), strict=False))


def _wrong_ends(known: Mapping[str, Address | None], name: str, shared: Sequence[Shared]) -> Iterator[str]:
    (peer,) = (host for host in known if host != name)
    own, other = known[name], known[peer]
    if own and other and own.version != other.version:
        yield f"{SYNC_ADDRESS}: {name} has {own}, {peer} has {other} (take addresses of one family)"
    if own == other:
        yield f"{SYNC_ADDRESS}: {name} and {peer} both have {own} (give each its own)"
    if own in _virtual(shared):
        yield f"{SYNC_ADDRESS}: {own} is a virtual address (name one that does not move)"


def _address_of(host: str, shared: Sequence[Shared], fleet: Fleet) -> Address | None:
    """The one that is declared, or the first at which keepalived finds the host."""
    variables = fleet.hostvars.get(host) or {}
    if variables.get(SYNC_ADDRESS):
        with contextlib.suppress(ConfigError):
            return ipaddress.ip_address(str(values.host_address(variables[SYNC_ADDRESS], SYNC_ADDRESS)))
        return None
    found = (failover.peer_address(item, version, variables) for item in shared for version in item.versions)
    return next((address for address in found if address), None)


def _virtual(shared: Sequence[Shared]) -> list[Address]:
    return [address.ip for item in shared for _key, _interface, addresses in item.sides for address in addresses]


def settings(value: Any, name: str, fleet: Fleet, links: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What conntrackd is told on the host `name`, whose `ip -json address` says `links`.

    `family` is IPv4 or IPv6, `source` and `peer` are the two ends, `interface` the one that has the source, or empty.
    Connections from and to `ignored` are this host's own business. `virtual` are the addresses that move.
    """
    shared = failover.declared(value)
    others = [host for host in fleet.hosts if host != name]
    if len(others) != 1 or name not in fleet.hosts:
        raise ConfigError(failover.GROUP, f"{name} is not one of two hosts", "name a group of two that has it")
    (other,) = others
    source, peer = _address_of(name, shared, fleet), _address_of(other, shared, fleet)
    if not source or not peer:
        raise ConfigError(SYNC_ADDRESS, "is not known of both hosts", "set it for each")
    virtual = _virtual(shared)
    ours = [address for address in _fixed(links) if address not in virtual]
    has_it = (link for link in links for one in link.get("addr_info") or [] if one.get("local") == str(source))
    return {
        "family": f"IPv{source.version}",
        "source": str(source),
        "peer": str(peer),
        "interface": str(next(has_it, {}).get("ifname", "")),
        "ignored": [*_LOOPBACK, *dict.fromkeys(map(str, [source, peer, *ours]))],
        "virtual": [str(address.ip) for item in shared for address in item.addresses],
    }


def _fixed(links: Sequence[Mapping[str, Any]]) -> Iterator[Address]:
    """Addresses of the host that are the same tomorrow: others would make a change of every run."""
    for link in links:
        for one in link.get("addr_info") or []:
            if one.get("scope") == "global" and not one.get("dynamic") and one.get("local"):
                yield ipaddress.ip_address(one["local"])
