# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter `failover_warnings`: what looks wrong with virtual addresses, and may be meant."""

from __future__ import annotations

DOCUMENTATION = r"""
name: failover_warnings
short_description: Find what looks wrong with virtual addresses
version_added: 0.1.0
description:
  - Compares C(natlb_failover_addresses) with the addresses of a host, and with the services that listen on them.
  - Finds addresses that are in no network of their interface, and those of services with C(snat=none) beside which no
    gateway of the backends moves. Both may be meant, so neither is an error.
  - The role P(natlb.netfilter.failover#role) uses it. A play has no need to.
author:
  - natlb contributors (@natlb)
positional: _input, links
options:
  _input:
    description: The value of C(natlb_failover_addresses).
    type: list
    elements: dict
    required: true
  links:
    description: What C(ip -json address) says on the host.
    type: list
    elements: dict
    required: true
  services:
    description: The declared services.
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
- name: Ask the host
  ansible.builtin.command: ip -json address
  register: links
  changed_when: false

- name: Show the warnings
  ansible.builtin.debug:
    msg: "{{ natlb_failover_addresses | natlb.netfilter.failover_warnings(links.stdout | from_json) }}"
"""

RETURN = r"""
_value:
  description: The warnings.
  type: list
  elements: str
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.natlb.netfilter.plugins.plugin_utils import failover
from ansible_collections.natlb.netfilter.plugins.plugin_utils.filter_errors import as_filter


@as_filter
def failover_warnings(
    addresses: Any, links: Sequence[Mapping[str, Any]], services: Sequence[Mapping[str, Any]] = ()
) -> list[str]:
    """See `failover.outside` and `failover.without_a_way_back`."""
    return [*failover.outside(addresses, links), *failover.without_a_way_back(addresses, services)]


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {"failover_warnings": failover_warnings}
