# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter `verify_verdict`: judges a balancer by its counters and by probes."""

from __future__ import annotations

DOCUMENTATION = r"""
name: verify_verdict
short_description: Judge a balancer by its counters and by probes
version_added: 0.1.0
description:
  - Reads the registered results of the playbook C(natlb.netfilter.verify) for each host of the play. Says how many
    connections each backend got, and what is wrong.
author:
  - natlb contributors (@natlb)
positional: _input
options:
  _input:
    description: The variable C(hostvars).
    type: dict
    required: true
  hosts:
    description: The hosts of the play, such as C(ansible_play_hosts).
    type: list
    elements: str
    required: true
  own:
    description:
      - Whether each balancer has opened the connections itself, while its change waits for its confirmation.
      - Then shares are a problem only where nothing but the rules can have moved them. All else is a doubt.
    type: bool
    default: false
seealso:
  - plugin: natlb.netfilter.verify_probes
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Show the verdict
  natlb.netfilter.show_text:
    lines: "{{ (hostvars | natlb.netfilter.verify_verdict(ansible_play_hosts))[inventory_hostname].lines }}"
"""

RETURN = r"""
_value:
  description: The C(lines) to show, the C(problems), and the C(doubts), which are no fault, by name of the host.
  type: dict
  sample:
    lb1:
      lines: ["web: web1 150, web2 150 (300 of 300 connections to 192.0.2.10:80 succeeded)"]
      problems: []
      doubts: []
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.natlb.netfilter.plugins.plugin_utils import verdict as core


def verify_verdict(hostvars: Any, hosts: Any, own: bool = False) -> dict[str, dict[str, list[str]]]:
    """What was found, by name of the host."""
    if not isinstance(hostvars, Mapping) or isinstance(hosts, str) or not isinstance(hosts, Sequence):
        raise AnsibleFilterError(
            "natlb.netfilter.verify_verdict: write hostvars | natlb.netfilter.verify_verdict(ansible_play_hosts)"
        )
    told = [_host(str(name), hostvars[name], own) for name in hosts]
    found = {}
    for host in told:
        judged = core.verdict(told, host.name, hostvars[host.name].get("natlb_verify_probes"))
        found[host.name] = {
            "lines": [f"{host.name}: {line}" for line in judged.lines],
            "problems": [f"{host.name}: {problem}" for problem in judged.problems],
            "doubts": [f"{host.name}: {doubt}" for doubt in judged.doubts],
        }
    return found


def _host(name: str, variables: Mapping[str, Any], own: bool) -> core.Host:
    results = [variables[key].get("results") or [] for key in ("natlb_verify_answers", "natlb_verify_checks")]
    declared = variables.get("natlb_verify_declared", [])
    return core.host(name, variables["natlb_verify_before"], variables["natlb_read"], *results, declared, own)


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {"verify_verdict": verify_verdict}
