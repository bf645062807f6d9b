# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter `fleet_differences`: what differs between the balancers of a run."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_differences
short_description: Say what differs between balancers
version_added: 0.1.0
description:
  - Reads what the playbook C(natlb.netfilter.deploy) has registered for each of its hosts. Says what is not the same on
    all of them, and which services would give a client another backend on another balancer.
author:
  - natlb contributors (@natlb)
positional: _input
options:
  _input:
    description: The variable C(hostvars).
    type: dict
    required: true
  hosts:
    description: The balancers, such as C(ansible_play_hosts).
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Say what differs
  natlb.netfilter.show_text:
    lines: "{{ (hostvars | natlb.netfilter.fleet_differences(ansible_play_hosts)).lines }}"
"""

RETURN = r"""
_value:
  description: The C(lines) to show, and the C(problems).
  type: dict
  sample:
    lines: ["engine: nftables on lb1, iptables on lb2"]
    problems: []
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.natlb.netfilter.plugins.plugin_utils import alike


def fleet_differences(hostvars: Mapping[str, Any], hosts: Any) -> dict[str, list[str]]:
    """What differs, and what is wrong with that."""
    # What -e sets is text.
    compared = [name for name in hosts if boolean(hostvars[name].get("natlb_compare_tables", True), strict=False)]
    tables = {name: _tables(hostvars[name]) for name in compared}
    seen = {name: _balancer(hostvars[name]) for name in hosts}
    problems = alike.differences(tables) + alike.engines_that_differ({name: seen[name] for name in compared})
    return {"lines": alike.unlike(seen), "problems": problems}


def _tables(variables: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list((variables.get("natlb_run_checked") or {}).get("tables") or [])


def _balancer(variables: Mapping[str, Any]) -> alike.Balancer:
    told = (variables.get("natlb_balancer_host") or {}).get("stdout_lines") or []
    done = variables.get("natlb_balancer_done") or {}
    return alike.Balancer(
        str(done.get("engine") or ""), _after("kernel", told), _after("nft", told), tuple(_tables(variables))
    )


def _after(word: str, lines: list[str]) -> str:
    return next((line.partition(" ")[2] for line in lines if line.startswith(f"{word} ")), "")


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {"fleet_differences": fleet_differences}
