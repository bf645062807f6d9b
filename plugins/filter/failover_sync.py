# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter `failover_sync`: how one host copies its tracked connections to the other."""

from __future__ import annotations

DOCUMENTATION = r"""
name: failover_sync
short_description: Tell how a balancer copies its tracked connections to another one
version_added: 0.1.0
description:
  - Finds the two ends, the interface, and the addresses whose connections are not copied.
  - The role P(natlb.netfilter.failover#role) uses it. A play has no need to.
author:
  - natlb contributors (@natlb)
positional: _input, host, hosts, hostvars, links
options:
  _input:
    description: The value of C(natlb_failover_addresses).
    type: list
    elements: dict
    required: true
  host:
    description: The host that copies, by its name in the inventory.
    type: str
    required: true
  hosts:
    description: Both hosts that share the addresses.
    type: list
    elements: str
    required: true
  hostvars:
    description: The variable C(hostvars).
    type: dict
    required: true
  links:
    description: What C(ip -json address) says on the host.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Ask the host
  ansible.builtin.command: ip -json address
  register: links
  changed_when: false

- name: Show what conntrackd would be told
  ansible.builtin.debug:
    msg: "{{ natlb_failover_addresses
             | natlb.netfilter.failover_sync(inventory_hostname, groups['balancers'], hostvars,
                                             links.stdout | from_json) }}"
"""

RETURN = r"""
_value:
  description: What conntrackd is told.
  type: dict
  sample:
    family: IPv4
    source: 192.0.2.2
    peer: 192.0.2.3
    interface: eth0
    ignored: [127.0.0.0/8, "::1", 192.0.2.2, 192.0.2.3]
    virtual: [192.0.2.10]
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.natlb.netfilter.plugins.plugin_utils import failover, state_sync
from ansible_collections.natlb.netfilter.plugins.plugin_utils.filter_errors import as_filter


@as_filter
def failover_sync(
    addresses: Any,
    host: str,
    hosts: Sequence[str],
    hostvars: Mapping[str, Any],
    links: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """See `state_sync.settings`."""
    return state_sync.settings(addresses, host, failover.Fleet(hosts, hostvars), links)


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {"failover_sync": failover_sync}
