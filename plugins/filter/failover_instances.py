# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter `failover_instances`: virtual addresses as the instances of VRRP that keepalived runs on one host."""

from __future__ import annotations

DOCUMENTATION = r"""
name: failover_instances
short_description: Make the instances of VRRP that keepalived runs on one host
version_added: 0.1.0
description:
  - Makes one instance for each item of C(natlb_failover_addresses), whatever families its addresses are of.
  - The role P(natlb.netfilter.failover#role) uses it. A play has no need to.
author:
  - natlb contributors (@natlb)
positional: _input, host, hosts, hostvars, unicast
options:
  _input:
    description: The value of C(natlb_failover_addresses).
    type: list
    elements: dict
    required: true
  host:
    description: The host that runs them, by its name in the inventory.
    type: str
    required: true
  hosts:
    description: All hosts that share the addresses, in the order of the inventory.
    type: list
    elements: str
    required: true
  hostvars:
    description: The variable C(hostvars).
    type: dict
    required: true
  unicast:
    description: Whether the hosts send to each other, instead of to a multicast address.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Show what keepalived would run
  ansible.builtin.debug:
    msg: "{{ natlb_failover_addresses
             | natlb.netfilter.failover_instances(inventory_hostname, groups['balancers'], hostvars) }}"
"""

RETURN = r"""
_value:
  description: The instances.
  type: list
  elements: dict
  sample:
    - name: natlb_51_eth0_ipv4
      interface: eth0
      router_id: 51
      priority: 250
      addresses: [192.0.2.10/24]
      along:
        - address: 2001:db8:1::10/64
          interface: eth0
      track_interfaces: []
      source: 192.0.2.2
      peers: [192.0.2.3]
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.natlb.netfilter.plugins.plugin_utils import failover
from ansible_collections.natlb.netfilter.plugins.plugin_utils.filter_errors import as_filter


@as_filter
def failover_instances(
    addresses: Any, host: str, hosts: Sequence[str], hostvars: Mapping[str, Any], unicast: bool = True
) -> list[dict[str, Any]]:
    """See `failover.instances`."""
    return failover.instances(addresses, host, failover.Fleet(hosts, hostvars, unicast))


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {"failover_instances": failover_instances}
