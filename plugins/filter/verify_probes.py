# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter `verify_probes`: the probes for the services of a balancer, and their expected results."""

from __future__ import annotations

DOCUMENTATION = r"""
name: verify_probes
short_description: Make the probes for the services of a balancer
version_added: 0.1.0
description:
  - Takes the result of M(natlb.netfilter.balancer_info). Makes one set of options of M(natlb.netfilter.probe) for every
    address and protocol that a service listens on.
  - Of a range of ports the first one is probed. Services without a serving backend, and SCTP, are left out.
  - Connections are opened and closed; with UDP one datagram is sent. So this works with every server. The counters of
    the balancer say which backends got them. Backends are asked for their names only if O(overrides) says how.
  - With the methods C(source_hash) and C(destination_hash), with affinity or with pins one client gets one backend, so
    no spread is expected.
  - A service with limits for each client gets no more connections than these allow. One with C(snat_ports) gets so many
    that a quarter of these ports is used, since closed connections keep theirs for up to two minutes.
  - The playbook C(natlb.netfilter.verify) uses it.
author:
  - natlb contributors (@natlb)
positional: _input
options:
  _input:
    description: The services, as M(natlb.netfilter.balancer_info) returns them.
    type: list
    elements: dict
    required: true
  address:
    description:
      - The address to probe for services that listen on every address of the balancer, or a list with one of each
        family.
    type: raw
  overrides:
    description:
      - Options of M(natlb.netfilter.probe) by name of service. They replace the default ones.
      - It may name services of other balancers.
      - Two more options are C(names), which maps names of backends to the names in their answers, and C(from), the host
        that opens the connections.
    type: dict
    default: {}
  connections:
    description: How many connections to open, unless O(overrides) says otherwise.
    type: int
    default: 300
  own:
    description:
      - Whether the balancer itself opens the connections, while its change waits for its confirmation.
      - Then services with C(allow_from), C(deny_from), C(interface) or limits of their backends are left out, and so
        are families with an address of RV(natlb.netfilter.balancer_info#module:services[].snat_elsewhere), and networks
        that a service listens on. Of more than 32 probes so many are taken that are spread evenly.
    type: bool
    default: false
seealso:
  - module: natlb.netfilter.probe
  - module: natlb.netfilter.balancer_info
"""

EXAMPLES = r"""
- name: Read the balancer
  natlb.netfilter.balancer_info:
  register: status

- name: Open 300 connections to every service
  natlb.netfilter.probe:
    target: "{{ item.options.target }}"
    protocol: "{{ item.options.protocol }}"
    connections: "{{ item.options.connections }}"
    connect_only: "{{ item.options.connect_only | default(omit) }}"
  loop: "{{ status.services | natlb.netfilter.verify_probes(address=ansible_host) }}"
  delegate_to: client
"""

RETURN = r"""
_value:
  description:
    - For each probe the C(service) (its name), the C(options) of M(natlb.netfilter.probe), C(judge) (the chosen ones of
      C(tolerance), C(significance) and C(max_errors)) and C(names) (of the backends that may answer). C(from) is
      there if it was chosen.
  type: list
  elements: dict
  sample:
    - service: web
      names: [web1, web2]
      options: {target: 192.0.2.10:80, protocol: tcp, connections: 300, connect_only: true}
      judge: {}
"""

import contextlib
import ipaddress
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.errors import ConfigErrors
from ansible_collections.natlb.netfilter.plugins.plugin_utils import probe_options, verdict

#: Options that make backends say who they are.
ASKING = ("identify", "names", "expected", "path", "host", "status")
#: Options that say what is right; the counters are judged by them as well.
JUDGING = ("tolerance", "significance", "max_errors")
#: A refusal of a datagram is waited for, so that many are to be on their way at a time.
UDP_CONCURRENCY = 50
#: Of the ports that a service has for its connections, one of so many is used. Clients need them too, and what was
#: verified a minute ago still has its own.
_PART_OF_PORTS = 4
_LISTEN = re.compile(r"(?P<host>\*|\[[^\]]+\]|[^:]+):(?P<port>\d+)(?:-\d+)?\Z")


def verify_probes(
    services: Any, address: Any = None, overrides: Any = None, connections: Any = 300, own: bool = False
) -> list[dict[str, Any]]:
    """What to probe. Raises AnsibleFilterError where a service listens everywhere and `address` is not known."""
    chosen = overrides or {}
    if not isinstance(chosen, Mapping) or not all(isinstance(value, Mapping) for value in chosen.values()):
        raise AnsibleFilterError(
            "natlb.netfilter.verify_probes: the options are not a mapping by service (write {web: {protocol: http}})"
        )
    try:
        probe_options.check(chosen, "options", lambda _name, _path: None)
    except ConfigErrors as errors:
        raise AnsibleFilterError(
            "\n".join(f"natlb.netfilter.verify_probes: {error}" for error in errors.errors)
        ) from errors
    found = []
    for service in services:
        if not (own and probe_options.not_for_itself(service)):
            places = list(_places(service, address, own))
            asked = {"connections": int(connections), **chosen.get(service["name"], {})}
            found += [_probe(service, place, asked, len(places)) for place in places]
    return found[:: max(1, math.ceil(len(found) / verdict.MOST_OWN))] if own else found


def _places(service: Mapping[str, Any], address: Any, own: bool) -> Iterator[tuple[str, int, str]]:
    away = probe_options.answered_elsewhere(service) if own else {}
    addresses = [str(item) for item in (address if isinstance(address, (list, tuple)) else [address]) if item]
    for listen in service["listen"]:
        if not (own and "/" in listen):
            hosts, port = _hosts(listen, service["name"], addresses)
            hosts = [host for host in hosts if probe_options.family_shown(host) not in away]
            for host, protocol in itertools.product(hosts, service.get("protocol") or ["tcp"]):
                if protocol != "sctp" and _serving(service, host):
                    yield host, port, protocol


def _serving(service: Mapping[str, Any], host: str) -> list[Mapping[str, Any]]:
    """The backends that get connections to an address of this family."""
    return [
        backend
        for backend in service["backends"]
        if backend["expected_share"] and (":" in backend["address"]) == host.startswith("[")
    ]


def _probe(
    service: Mapping[str, Any], place: tuple[str, int, str], chosen: Mapping[str, Any], places: int
) -> dict[str, Any]:
    """The probe of one of so many places of a service."""
    host, port, protocol = place
    serving = _serving(service, host)
    called = chosen.get("names", {})
    options = {key: value for key, value in chosen.items() if key not in ("names", "from", *JUDGING)}
    options = {"target": f"{host}:{port}", "protocol": protocol, **options}
    judge = {key: chosen[key] for key in JUDGING if key in chosen}
    if options["protocol"] == "http" or not {*ASKING}.isdisjoint(chosen) or (protocol == "tcp" and "payload" in chosen):
        if probe_options.spreads(service) and "expected" not in options:
            options["expected"] = {called.get(b["name"], b["name"]): b["weight"] for b in serving}
        options.update(judge if "expected" in options else {k: v for k, v in judge.items() if k == "max_errors"})
    else:
        options["connect_only"] = True
        if options["protocol"] == "udp":
            options.setdefault("concurrency", UDP_CONCURRENCY)
    _within_limits(service, options, places)
    names = [called.get(backend["name"], backend["name"]) for backend in serving]
    found = {"service": service["name"], "names": names, "options": options, "judge": judge}
    return {**found, "from": chosen["from"]} if "from" in chosen else found


def _within_limits(service: Mapping[str, Any], options: dict[str, Any], places: int) -> None:
    """A client that keeps to the limits of a service is not refused by them. Its ports are shared by all places."""
    a_second = service.get("new_connections_per_second")
    room = _room_of_backends(service, str(options["target"]))
    for at_a_time in (service.get("max_connections_per_client"), room):
        if at_a_time:
            options["concurrency"] = min(options.get("concurrency", 10), at_a_time)
    if a_second:
        options["connections"] = min(options["connections"], a_second)
    if service.get("snat_connections"):
        room = service["snat_connections"] / _largest_share(service, str(options["target"]))
        options["connections"] = min(options["connections"], max(1, int(room / (_PART_OF_PORTS * places))))


def _largest_share(service: Mapping[str, Any], host: str) -> float:
    """The part of one client's connections that the backend with the most of them gets: all where it stays at one."""
    serving = _serving(service, host)
    return max(float(backend["expected_share"]) for backend in serving) if probe_options.spreads(service) else 1.0


def _room_of_backends(service: Mapping[str, Any], host: str) -> int:
    """How many connections all backends of the family have at a time; 0 where one of them has no limit."""
    limits = [int(backend.get("max_connections") or 0) for backend in _serving(service, host)]
    return sum(limits) if all(limits) else 0


def _hosts(listen: str, name: str, addresses: Sequence[str]) -> tuple[list[str], int]:
    """Where to probe what a service listens on: hosts, in brackets where they are IPv6, and the port."""
    match = _LISTEN.match(listen)
    if match is None:
        raise AnsibleFilterError(
            f"natlb.netfilter.verify_probes: {name} listens on {listen!r}, which is not understood"
        )
    host, port = match.group("host"), int(match.group("port"))
    if host == "*":
        if not addresses:
            raise AnsibleFilterError(
                f"natlb.netfilter.verify_probes: {name} listens on every address (say which with address=...)"
            )
        return [_written(address) for address in addresses], port
    return _in_network(host.strip("[]"), name, addresses) if "/" in host else [host], port


def _written(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _in_network(network: str, name: str, addresses: Sequence[str]) -> list[str]:
    """The first given address that the network has, or else the first one behind the network's own. Of all addresses of
    a family none is as good as another: none where the given ones are of the other family."""
    found = ipaddress.ip_network(network)
    for address in addresses:
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(address) in found:
                return [_written(address)]
    if found.prefixlen:
        return [_written(str(found.network_address + 1))]
    if not addresses:
        raise AnsibleFilterError(
            f"natlb.netfilter.verify_probes: {name} listens on whatever address (say which with address=...)"
        )
    return []


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {"verify_probes": verify_probes}
