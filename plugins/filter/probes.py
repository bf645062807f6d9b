# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter `probes`: what to probe, and what to expect, of the services of a balancer."""

from __future__ import annotations

DOCUMENTATION = r"""
name: probes
short_description: Tell how to probe the services of a balancer
version_added: 0.1.0
description:
  - From what M(natlb.netfilter.balancer_info) returned, makes one set of options for M(natlb.netfilter.probe) of every
    address and protocol that a service listens on.
  - A range of ports is probed at its first one. Services that no backend serves, and SCTP, are left out.
  - A TCP service is probed with HTTP where its port or that of its backends is 80 or 8080, or where its health check is
    of the type C(http).
  - With the method C(source_hash) or an affinity one client meets one backend. So no spread is expected then.
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
  declared:
    description: The services as they were declared, which tells affinity and health checks.
    type: list
    elements: dict
    default: []
  address:
    description: Where to reach the services that listen on every address of the balancer.
    type: str
  overrides:
    description:
      - Options of M(natlb.netfilter.probe) by name of service, which are taken instead.
      - Beside them C(names), which tells by name of backend what it calls itself in its answers.
    type: dict
    default: {}
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
    target: "{{ item.target }}"
    protocol: "{{ item.protocol }}"
    connections: 300
    expected: "{{ item.expected | default(omit) }}"
  loop: "{{ status.services | natlb.netfilter.probes(declared=natlb_services, address=ansible_host) }}"
  delegate_to: client
"""

RETURN = r"""
_value:
  description:
    - Options of M(natlb.netfilter.probe), and beside them C(service) (its name) and C(names) (of the backends that may
      answer).
  type: list
  elements: dict
  sample:
    - service: web
      names: [web1, web2]
      target: 192.0.2.10:80
      protocol: http
      expected: {web1: 3, web2: 1}
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

HTTP_PORTS = (80, 8080)
_LISTEN = re.compile(r"(?P<host>\*|\[[^\]]+\]|[^:]+):(?P<port>\d+)(?:-\d+)?\Z")


def probes(services: Any, declared: Any = None, address: Any = None, overrides: Any = None) -> list[dict[str, Any]]:
    """What to probe. Raises AnsibleFilterError where a service listens everywhere and `address` is not known."""
    by_name = {service.get("name"): service for service in declared or []}
    chosen = overrides or {}
    for name in chosen:
        if name not in {service["name"] for service in services}:
            raise AnsibleFilterError(
                f"natlb.netfilter.probes: there are options for {name}, but no such service (check its spelling)"
            )
    return [
        _renamed(probe, chosen.get(service["name"], {}))
        for service in services
        for probe in _of_service(service, by_name.get(service["name"], {}), address)
    ]


def _renamed(probe: dict[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The probe with what was chosen instead, and backends called what they call themselves."""
    called = chosen.get("names", {})
    if "expected" in probe:
        probe["expected"] = {called.get(name, name): weight for name, weight in probe["expected"].items()}
    names = [called.get(name, name) for name in probe["names"]]
    return {**probe, **chosen, "names": names}


def _of_service(service: Mapping[str, Any], declared: Mapping[str, Any], address: Any) -> Iterator[dict[str, Any]]:
    for listen in service["listen"]:
        host, port = _place(listen, service["name"], address)
        serving = [
            backend
            for backend in service["backends"]
            if backend["expected_share"] and (":" in backend["address"]) == host.startswith("[")
        ]
        for protocol in service.get("protocol") or ["tcp"]:
            if not serving or protocol == "sctp":
                continue
            probe = {
                "service": service["name"],
                "names": [backend["name"] for backend in serving],
                "target": f"{host}:{port}",
                "protocol": "http" if protocol == "tcp" and _speaks_http(port, serving, declared) else protocol,
            }
            if service["method"] != "source_hash" and declared.get("affinity", 0) in (0, "0", "0s", None):
                probe["expected"] = {backend["name"]: backend["weight"] for backend in serving}
            yield probe


def _place(listen: str, name: str, address: Any) -> tuple[str, int]:
    """Host, in brackets where it is IPv6, and port."""
    match = _LISTEN.match(listen)
    if match is None:
        raise AnsibleFilterError(f"natlb.netfilter.probes: {name} listens on {listen!r}, which is not understood")
    host = match.group("host")
    if host == "*":
        if not address:
            raise AnsibleFilterError(
                f"natlb.netfilter.probes: {name} listens on every address (name the one to probe with address=...)"
            )
        host = f"[{address}]" if ":" in str(address) else str(address)
    return host, int(match.group("port"))


def _speaks_http(port: int, serving: list[Mapping[str, Any]], declared: Mapping[str, Any]) -> bool:
    health = declared.get("health")
    ports = {port, *(backend.get("port") for backend in serving)}
    return not ports.isdisjoint(HTTP_PORTS) or (isinstance(health, Mapping) and health.get("type") == "http")


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {"probes": probes}
