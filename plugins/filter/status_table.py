# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter `status_table`: the results of balancer_info as a table."""

from __future__ import annotations

DOCUMENTATION = r"""
name: status_table
short_description: Make a table of the state of balancers
version_added: 0.1.0
description:
  - Turns the results of M(natlb.netfilter.balancer_info) on one or more hosts into the lines of a table.
  - Columns without information (every backend active, every weight 1, no health checks) are left out. No line is
    longer than 100 characters, unless a single word is.
  - Hosts with the same services are shown together, and apart only where they differ. Their counters are summed.
  - The playbook C(natlb.netfilter.status) shows it.
author:
  - natlb contributors (@natlb)
options:
  _input:
    description: The results of the module, by name of host.
    type: dict
    required: true
  marked:
    description: Return a mapping for each line, which says as well how much it matters.
    type: bool
    default: false
seealso:
  - module: natlb.netfilter.balancer_info
  - module: natlb.netfilter.show_text
"""

EXAMPLES = r"""
- name: Read the balancer
  natlb.netfilter.balancer_info:
  register: status

- name: Show its state
  natlb.netfilter.show_text:
    lines: "{{ {inventory_hostname: status} | natlb.netfilter.status_table(marked=true) }}"
"""

RETURN = r"""
_value:
  description:
    - The lines of the table. They are followed by every egress rule and every warning, and for each host by the fill
      level and the losses of its connection tracking table.
    - With O(marked), each is a mapping of C(text) and C(level). The level is V(bad) if something does not work, V(odd)
      if something is not as declared, and empty otherwise.
  type: list
  elements: raw
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.status import table


def status_table(hosts: Any, marked: bool = False) -> list[Any]:
    """Lines for people, of {host: what balancer_info returned}; `marked` with how much each matters."""
    if not isinstance(hosts, Mapping):
        raise AnsibleFilterError(
            "natlb.netfilter.status_table: the input is not a mapping of hosts to what balancer_info returned"
        )
    return [line._asdict() for line in table.marked(hosts)] if marked else table.lines(hosts)


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {"status_table": status_table}
