# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter `play_settings`: variables that apply to a whole run, from wherever they are set."""

from __future__ import annotations

DOCUMENTATION = r"""
name: play_settings
short_description: Find the settings of a whole run in the variables of the hosts
version_added: 0.1.0
description:
  - Ansible chooses the hosts of a play, and how many run at a time, before it knows any host. So it reads such settings
    only from extra variables, and ignores them in an inventory or in group_vars.
  - This filter finds C(natlb_hosts), C(natlb_backend_hosts), C(natlb_serial), C(natlb_max_fail_percentage) and
    C(natlb_gather_facts) in the variables of all hosts. The playbooks of this collection use it.
  - Two hosts with two values of one setting are an error that names both.
author:
  - natlb contributors (@natlb)
positional: _input
options:
  _input:
    description: The variable C(hostvars).
    type: dict
    required: true
  hosts:
    description: The value of the play or of an extra variable. It has priority over the variables of hosts.
    type: raw
  backend_hosts:
    description: The same.
    type: raw
  serial:
    description: The same.
    type: raw
  max_fail_percentage:
    description: The same.
    type: raw
  gather_facts:
    description: The same.
    type: raw
"""

EXAMPLES = r"""
- name: Show the settings of the run
  ansible.builtin.debug:
    msg: "{{ hostvars | natlb.netfilter.play_settings }}"
"""

RETURN = r"""
_value:
  description: All settings, by the name of the variable without C(natlb_), and the pattern C(everybody) of all hosts.
  type: dict
  sample:
    hosts: balancers
    backend_hosts: web
    serial: [1, "10%", "100%"]
    max_fail_percentage: 0
    gather_facts: false
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

#: Nobody, without the warning that a missing group gives.
NOBODY = "all:!all"
#: What holds where nobody says otherwise.
DEFAULTS: dict[str, Any] = {
    "hosts": "balancers",
    "backend_hosts": NOBODY,
    "serial": [1, "10%", "100%"],
    "max_fail_percentage": 0,
    "gather_facts": False,
}


def play_settings(hostvars: Any, **given: Any) -> dict[str, Any]:
    """All settings: `given` where it is not None, else the one value that all hosts which have it agree on, else the
    default. Raises AnsibleFilterError where hosts do not agree."""
    if not isinstance(hostvars, Mapping):
        raise AnsibleFilterError("natlb.netfilter.play_settings: the input is not hostvars (write hostvars | …)")
    found: dict[str, Any] = {}
    said_by: dict[str, str] = {}
    for host in hostvars:
        variables = hostvars[host]
        for name in DEFAULTS:
            variable = f"natlb_{name}"
            if variable not in variables:
                continue
            value = variables[variable]
            if found.setdefault(name, value) != value:
                raise AnsibleFilterError(
                    f"{variable}: is {found[name]!r} for {said_by[name]} and {value!r} for {host}, but there is one "
                    f"value for the whole run (write it in group_vars/all.yml, or give it with --extra-vars)"
                )
            said_by.setdefault(name, host)
    settings = {**DEFAULTS, **found, **{name: value for name, value in given.items() if value is not None}}
    for name in ("hosts", "backend_hosts"):
        if isinstance(settings[name], (list, tuple)):
            settings[name] = ":".join(settings[name])
    both = (settings["hosts"], settings["backend_hosts"])
    settings["everybody"] = ":".join(pattern for pattern in both if pattern != NOBODY)
    return settings


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {"play_settings": play_settings}
