#!/usr/bin/python
# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read what a NAT load balancer does now."""

from __future__ import annotations

DOCUMENTATION = r"""
module: balancer_info
short_description: Read the current state of a NAT load balancer
version_added: 0.1.0
author:
  - natlb contributors (@natlb)
description:
  - Reads the rules, the counters and the tracked connections of this host's kernel, and compares them with the
    declaration of the last run. Changes nothing.
  - Needs root.
requirements:
  - C(conntrack), to count active connections.
options:
  service:
    description: Read only this service.
    type: str
  pending:
    description:
      - While a change waits for its confirmation, read by what it declares, and not by what was declared before.
      - RV(drift) then says nothing about files, which are written with the confirmation.
    type: bool
    default: false
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

- name: Fail if somebody has changed the rules by hand
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
  description: Whether the kernel also forwards traffic that is not declared, in an address family in use.
  returned: success
  type: bool
agent:
  description: Whether the agent answers. Null where none has to run.
  returned: success
  type: bool
drift:
  description:
    - Whether a run with the options of the last one would change anything, files and kernel settings included.
    - What the agent writes for the next boot, a while after each change of health, does not count.
  returned: success
  type: bool
warnings:
  description: Problems that do not stop a run, each with the name of the host, the reason and a remedy.
  returned: success
  type: list
  elements: str
remarks:
  description: The same without the name of the host, and without the warnings that Ansible adds.
  returned: success
  type: list
  elements: str
egress:
  description: The declared rules for connections of the networks behind this host, in the form of the option.
  returned: success
  type: list
  elements: dict
  sample: [{"source": ["10.0.0.0/24"], "out_interface": "eth0", "snat": "masquerade"}]
conntrack:
  description:
    - The connection tracking table. It has V(count) entries of V(max).
    - The losses since the kernel started are V(drop) (no room), V(early_drop) (another entry was removed to make room)
      and V(insert_failed) (no free source port).
  returned: success
  type: dict
  sample: {"count": 812, "max": 262144, "drop": 0, "early_drop": 0, "insert_failed": 0}
generation:
  description:
    - The number of the last commit to nf_tables, whoever made it. Rules of iptables-legacy do not count.
    - Null if the kernel has no nf_tables.
  returned: success
  type: int
  sample: 4711
services:
  description: The declared services.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The name of the service.
      type: str
    listen:
      description: The addresses and ports that it listens on.
      type: list
      elements: str
    protocol:
      description: Its protocols.
      type: list
      elements: str
    method:
      description: The method that chooses a backend.
      type: str
    affinity:
      description: How many seconds a client keeps its backend. V(0) if affinity is off.
      type: int
    pins:
      description: How many networks are pinned to a backend.
      type: int
    health:
      description: The type of its health checks, such as V(tcp); null if it has none.
      type: str
    redispatch:
      description: Whether an attempt that a backend refuses, or does not answer, takes another backend.
      type: bool
    min_healthy:
      description:
        - How many backends are healthy, and how many the service needs to use them. Empty if it needs only one.
        - For each address family, V(healthy) backends V(of) those that count, how many are V(needed) now, whether it is
          V(below), and V(since) when.
      type: list
      elements: dict
      sample: [{"family": "ip", "healthy": 1, "of": 3, "needed": 3, "below": true, "since": "2026-11-26T01:00:00Z"}]
    takeover:
      description: Whether established TCP connections of another balancer go on here, whoever speaks first.
      type: bool
    takeover_reason:
      description: Why they do not, and what would let them. Null if they do.
      type: str
    mark:
      description: The mark of its packets, such as V(0x10/0xff). Null if it has none.
      type: str
    interface:
      description: The interface that its clients have to come in by. Null for all interfaces.
      type: str
    restricted:
      description: Whether only some networks may use it.
      type: bool
    max_connections_per_client:
      description: How many connections a client may have at a time. V(0) is no limit.
      type: int
    new_connections_per_second:
      description: How many connections a client may open in a second. V(0) is no limit.
      type: int
    snat_connections:
      description:
        - How many connections at a time one backend can have by C(snat_ports). A closed one keeps its port for up to
          two minutes.
        - Null without C(snat_ports).
      type: int
    snat_elsewhere:
      description:
        - The addresses of C(snat) that no interface of this host has, although it is connected to their network.
          Answers to them come to another host, such as the other balancer of a pair, or to none.
        - An address of another network may be routed here, and is not listed.
      type: list
      elements: str
      sample: ["10.0.0.10"]
    known_clients:
      description:
        - How many clients each option knows now, and how many it has room for. docs/engines.md says what happens to
          more. From 80 percent on there is a warning.
        - Null if the option is off, and on iptables for V(max_connections_per_client), which has no limit.
      type: dict
      sample: {"affinity": {"count": 812, "max": 65536}, "max_connections_per_client": null,
        "new_connections_per_second": null}
      contains:
        affinity:
          description: Of the backend with the most clients. On iptables this includes expired clients, whose places are
            reused when necessary.
          type: dict
        max_connections_per_client:
          description: V(count) and V(max).
          type: dict
        new_connections_per_second:
          description: V(count) and V(max).
          type: dict
    backends:
      description: Its backends, with declared values, override and health.
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
          description: Its port. Null if it depends on the port of the client.
          type: int
        shift:
          description: How far its ports are from those of the client. V(0) if they are the same, or if it has one port.
          type: int
        weight:
          description: Its weight. An override replaces the declared one.
          type: int
        state:
          description: Its state. An override replaces the declared one. Health checks do not change it.
          type: str
        backup:
          description: Whether it serves only while no other backend can.
          type: bool
        max_connections:
          description: The most connections that it has at a time. V(0) if it has no limit.
          type: int
        mark:
          description: The mark of packets to it, as declared. Null if it has none of its own.
          type: str
        declared:
          description: V(weight) and V(state) as the last run declared them.
          type: dict
          sample: {"weight": 1, "state": "active"}
        override:
          description:
            - The override of an operator, with V(state) and V(weight) (null is the declared value), V(since) and
              V(reason). Null if there is none.
          type: dict
          sample: {"state": "drained", "weight": null, "since": "2026-11-26T01:00:00Z", "reason": "kernel update"}
        health:
          description: V(up), V(down), V(drain) (the backend asks for no new connections) or V(unchecked).
          type: str
        health_since:
          description: Since when. Empty if that is not known.
          type: str
        health_reason:
          description: The result of the check.
          type: str
          sample: "connect to 10.0.0.4:8080: Connection refused"
        health_history:
          description:
            - The last ten changes of its health, the oldest first, each with V(state), V(since) and V(reason).
            - A backend that was always up since its checks began has none.
          type: list
          elements: dict
          sample: [{"state": "down", "since": "2026-11-26T01:00:00Z",
            "reason": "connect to 10.0.0.4:8080: Connection refused, 3 of 3"}]
        because:
          description:
            - The source that decides. V(declared), V(override), V(health), V(fail_open) if all backends are down and
              stay in rotation nevertheless, or V(min_healthy) if it is healthy, and too few others are.
          type: str
        why:
          description: The same in words, for people. Empty for V(declared).
          type: str
          sample: "down since 2026-11-26T01:00:00Z: connect to 10.0.0.4:8080: Connection refused"
        expected_share:
          description: Its share of the new connections of its address family, with override and health applied.
          type: float
        new_connections:
          description: How many connections it has got since the rules were loaded.
          type: int
        active_connections:
          description: How many connections it has now. Null if they cannot be counted.
          type: int
"""

from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.host import archive

archive.compile_once()

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.errors import NatlbError
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.status.info import info


def main() -> None:
    """Run the module."""
    arguments = {"service": {"type": "str"}, "pending": {"type": "bool", "default": False}}
    module = AnsibleModule(argument_spec=arguments, supports_check_mode=True)
    try:
        found = info(service=module.params["service"], pending=module.params["pending"])
    except NatlbError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, remarks=found.pop("warnings"), **found)


if __name__ == "__main__":
    main()
