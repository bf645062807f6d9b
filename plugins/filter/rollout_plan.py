# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter `rollout_plan`: in which order, and how many at a time, balancers are changed."""

from __future__ import annotations

DOCUMENTATION = r"""
name: rollout_plan
short_description: Say in which order balancers are changed
version_added: 0.1.0
description:
  - Balancers that have a virtual address of the role P(natlb.netfilter.failover#role) now come after all others, so
    that a change is tried on standbys first.
  - No batch is larger than O(forks) while balancers are verified. All of a batch wait for the slowest of them with a
    change that nobody has confirmed, and that goes back by itself after a while.
  - The playbook C(natlb.netfilter.deploy) uses it.
author:
  - natlb contributors (@natlb)
positional: _input
options:
  _input:
    description: The variable C(hostvars), with what C(ip -brief address) says registered as C(natlb_run_reached).
    type: dict
    required: true
  hosts:
    description: The balancers that can be reached, in the order of the inventory.
    type: list
    elements: str
    required: true
  serial:
    description: As C(serial) of a play.
    type: raw
    required: true
  forks:
    description: How many hosts Ansible works on at a time.
    type: int
    required: true
"""

EXAMPLES = r"""
- name: Show the order
  ansible.builtin.debug:
    msg: "{{ hostvars | natlb.netfilter.rollout_plan(groups.balancers, [1, '100%'], ansible_forks) }}"
"""

RETURN = r"""
_value:
  description: The C(hosts) in their order, and C(serial).
  type: dict
  sample:
    hosts: [lb2, lb1]
    serial: [1, 5]
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.natlb.netfilter.plugins.plugin_utils import failover

#: Nobody, without the warning that a missing group gives.
NOBODY = "all:!all"


def rollout_plan(hostvars: Mapping[str, Any], hosts: Sequence[str], serial: Any, forks: Any) -> dict[str, Any]:
    """Order and batches."""
    holding = [name for name in hosts if _holds(hostvars[name])]
    ordered = [*(name for name in hosts if name not in holding), *holding]
    verified = any(boolean(hostvars[name].get("natlb_verify_each", True), strict=False) for name in hosts)
    items = list(serial) if isinstance(serial, (list, tuple)) else [serial]
    return {
        "hosts": ordered or NOBODY,
        "serial": [min(_count(item, len(hosts)), int(forks)) for item in items] if verified else items,
    }


def _count(item: Any, hosts: int) -> int:
    """As Ansible counts them."""
    text = str(item)
    return max(1, hosts * int(text[:-1]) // 100) if text.endswith("%") else int(text)


def _holds(variables: Mapping[str, Any]) -> bool:
    told = str((variables.get("natlb_run_reached") or {}).get("stdout") or "")
    return failover.holds(variables.get(failover.ADDRESSES), told)


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {"rollout_plan": rollout_plan}
