# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter `verify_checks`: the backends that a balancer connects to itself, to find those that do not answer."""

from __future__ import annotations

DOCUMENTATION = r"""
name: verify_checks
short_description: Choose the backends to check after failed probes
version_added: 0.1.0
description:
  - A refused client does not know which backend refused it. So the balancer itself connects once to every serving
    backend of the services whose connections failed.
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
  probes:
    description: The results of a loop over the probes of P(natlb.netfilter.verify_probes#filter).
    type: list
    elements: dict
    required: true
seealso:
  - plugin: natlb.netfilter.verify_probes
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Find the backends that do not answer
  natlb.netfilter.probe:
    target: "{{ item.options.target }}"
    protocol: "{{ item.options.protocol }}"
    connections: 1
    connect_only: true
  loop: "{{ status.services | natlb.netfilter.verify_checks(answers.results) }}"
"""

RETURN = r"""
_value:
  description: For each check the C(service), the C(backend) (its name) and the C(options) of M(natlb.netfilter.probe).
  type: list
  elements: dict
  sample:
    - {service: web, backend: web1, options: {target: 10.0.0.3:8080, protocol: tcp}}
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

#: Of a service with thousands of backends, so many are asked.
MOST = 64


def verify_checks(services: Any, probes: Any) -> list[dict[str, Any]]:
    """One check for each serving backend of a service of which a probe had errors."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for service in services:
        for probe in probes:
            if probe["item"]["service"] == service["name"] and probe.get("errors"):
                for check in _of_service(service, probe["item"]["options"]):
                    found.setdefault((check["service"], *check["options"].values()), check)
    return list(found.values())


def _of_service(service: Mapping[str, Any], options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    port = str(options["target"]).rpartition(":")[2]
    serving = [backend for backend in service["backends"] if backend["expected_share"]]
    for backend in serving[:MOST]:
        address = backend["address"]
        if (":" in address) == str(options["target"]).startswith("["):
            host = f"[{address}]" if ":" in address else address
            yield {
                "service": service["name"],
                "backend": backend["name"],
                "options": {
                    "target": f"{host}:{backend.get('port') or port}",
                    "protocol": "udp" if options["protocol"] == "udp" else "tcp",
                },
            }


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {"verify_checks": verify_checks}
