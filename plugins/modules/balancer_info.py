#!/usr/bin/python
# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read what a NAT load balancer does now."""

from __future__ import annotations

DOCUMENTATION = r"""
module: balancer_info
short_description: Read what a NAT load balancer does now
version_added: 0.1.0
author:
  - natlb contributors (@natlb)
description:
  - Reads the rules, the counters and the tracked connections of this host's kernel, and sets them beside what the last
    run declared. Changes nothing.
  - Only root may do that.
requirements:
  - C(conntrack), to count active connections.
options:
  service:
    description: Only this service.
    type: str
attributes:
  check_mode:
    description: Can run in check_mode and return changed status prediction without modifying target.
    support: full
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in check_mode), when in diff mode.
    support: none
seealso:
  - module: natlb.netfilter.balancer
"""

EXAMPLES = r"""
- name: Read the balancer
  natlb.netfilter.balancer_info:
  register: natlb

- name: Fail where somebody has changed the rules by hand
  ansible.builtin.assert:
    that: not natlb.drift
"""

RETURN = r"""
engine:
  description: The engine that holds the rules.
  returned: success
  type: str
  sample: nftables
forwarding:
  description: Whether the kernel forwards packets of every address family in use.
  returned: success
  type: bool
forwards_transit:
  description: Whether the kernel forwards packets of everybody in an address family in use, past what is declared.
  returned: success
  type: bool
drift:
  description: Whether a run with the options of the last one would change anything, files and kernel settings included.
  returned: success
  type: bool
warnings:
  description: What works otherwise than one might think, each with the reason and the name of the host in front.
  returned: success
  type: list
  elements: str
remarks:
  description: The same without the name of the host in front, and without the warnings that Ansible adds.
  returned: success
  type: list
  elements: str
egress:
  description: The declared rules for connections that the networks behind this host open, as a user types them.
  returned: success
  type: list
  elements: dict
  sample: [{"source": ["10.0.0.0/24"], "out_interface": "eth0", "snat": "masquerade"}]
conntrack:
  description:
    - The connection tracking table. V(count) entries of V(max), and what was lost since the kernel started, V(drop) (no
      room), V(early_drop) (another entry was thrown out to make room) and V(insert_failed) (no free source port).
  returned: success
  type: dict
  sample: {"count": 812, "max": 262144, "drop": 0, "early_drop": 0, "insert_failed": 0}
services:
  description: The declared services.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the service.
      type: str
    listen:
      description: Where it listens.
      type: list
      elements: str
    protocol:
      description: Its protocols.
      type: list
      elements: str
    method:
      description: How it chooses a backend.
      type: str
    affinity:
      description: For how many seconds a client stays with its backend.
      type: int
    interface:
      description: The only interface that its clients may come in by; null for all.
      type: str
    restricted:
      description: Whether it has a list of the networks that its clients may come from.
      type: bool
    max_connections_per_client:
      description: How many connections a client may have at a time. V(0) for any number.
      type: int
    new_connections_per_second:
      description: How many connections a client may open in a second. V(0) for any number.
      type: int
    known_clients:
      description:
        - How many clients each of its options knows now, and how many there is room for. What becomes of more is in
          docs/engines.md; from 80 percent on there is a warning.
        - Null where the option is off, and on iptables for V(max_connections_per_client), which has room for any.
      type: dict
      sample: {"affinity": {"count": 812, "max": 65536}, "max_connections_per_client": null,
        "new_connections_per_second": null}
      contains:
        affinity:
          description: Of the backend that has the most of them. On iptables also clients whose time is over, whose
            places are taken when there is need of them.
          type: dict
        max_connections_per_client:
          description: V(count) and V(max).
          type: dict
        new_connections_per_second:
          description: V(count) and V(max).
          type: dict
    backends:
      description: Its backends. Declared values, override and health stand side by side.
      type: list
      elements: dict
      contains:
        name:
          description: Its name.
          type: str
        address:
          description: Its address.
          type: str
        port:
          description: Its port; null where the client's port is kept.
          type: int
        weight:
          description: Its weight, that of an override where there is one.
          type: int
        state:
          description: Its state, that of an override where there is one. What health checks found is not part of it.
          type: str
        backup:
          description: Whether it serves only when no other backend can.
          type: bool
        declared:
          description: V(weight) and V(state) as the last run declared them.
          type: dict
          sample: {"weight": 1, "state": "active"}
        override:
          description:
            - What an operator said on the host, with V(state) and V(weight) (null is as declared), V(since) and
              V(reason). Null where nobody said anything.
          type: dict
          sample: {"state": "drained", "weight": null, "since": "2026-11-26T01:00:00Z", "reason": "kernel update"}
        health:
          description: V(up), V(down), V(drain) (it asks for no new connections) or V(unchecked).
          type: str
        health_since:
          description: Since when; empty where that is not known.
          type: str
        health_reason:
          description: What the check met.
          type: str
          sample: "connect to 10.0.0.4:8080: Connection refused"
        because:
          description:
            - What decides. V(declared), V(override), V(health), or V(fail_open) where all are down and are kept
              in rotation nevertheless.
          type: str
        why:
          description: The same in words, for people. Empty for V(declared).
          type: str
          sample: "down since 2026-11-26T01:00:00Z: connect to 10.0.0.4:8080: Connection refused"
        expected_share:
          description: Its share of the new connections of its address family, with all of this counted in.
          type: float
        new_connections:
          description: How many connections it got since the rules were loaded.
          type: int
        active_connections:
          description: How many it has now; null where they cannot be counted.
          type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.errors import NatlbError
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.status.info import info


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={"service": {"type": "str"}}, supports_check_mode=True)
    try:
        found = info(service=module.params["service"])
    except NatlbError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, remarks=found.pop("warnings"), **found)


if __name__ == "__main__":
    main()
