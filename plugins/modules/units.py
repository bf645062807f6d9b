#!/usr/bin/python
# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep files and systemd units on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: units
short_description: Keep files of root's and the systemd units among them, all in one task
version_added: 0.1.0
author:
  - natlb contributors (@natlb)
description:
  - What the roles of this collection leave on a host for its next boot, in one task instead of one for each file and
    unit. On a fleet every task less is time.
  - There is no need to call it in a play.
requirements:
  - systemd, where O(units) is not empty.
options:
  files:
    description: The files. They belong to root.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where the file is. Its folder has to be there.
        type: str
        required: true
      content:
        description: The text it is to have. Without it the file is left as it is, unless O(state=absent).
        type: str
      mode:
        description: Who may use it, in octal digits.
        type: str
        default: "0644"
  units:
    description: The units that are to come up at boot.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the unit.
        type: str
        required: true
      started:
        description: Start it now, unless it is active.
        type: bool
        default: false
      restart_after:
        description: Restart it where one of these files had to be changed.
        type: list
        elements: str
        default: []
      drift:
        description:
          - A program with its arguments that prints what differs from what the unit has put in place, and changes
            nothing. It runs in check mode too. Where it prints anything the unit is restarted.
        type: list
        elements: str
        default: []
  state:
    description: V(absent) stops and disables the units and removes the files.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    description: Can run in check_mode and return changed status prediction without modifying target.
    support: full
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in check_mode), when in diff mode.
    support: full
seealso:
  - module: natlb.netfilter.balancer
"""

EXAMPLES = r"""
- name: Keep routes over a reboot
  natlb.netfilter.units:
    files:
      - path: /usr/local/sbin/routes
        mode: "0755"
        content: "{{ lookup('ansible.builtin.template', 'routes.sh.j2') }}"
      - path: /etc/systemd/system/routes.service
        content: "{{ lookup('ansible.builtin.template', 'routes.service.j2') }}"
    units:
      - name: routes.service
        started: true
        restart_after: [/usr/local/sbin/routes, /etc/systemd/system/routes.service]
"""

RETURN = r"""
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.errors import NatlbError
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.host import units

FILE = {
    "path": {"type": "str", "required": True},
    "content": {"type": "str"},
    "mode": {"type": "str", "default": "0644"},
}
UNIT = {
    "name": {"type": "str", "required": True},
    "started": {"type": "bool", "default": False},
    "restart_after": {"type": "list", "elements": "str", "default": []},
    "drift": {"type": "list", "elements": "str", "default": []},
}
ARGUMENTS = {
    "files": {"type": "list", "elements": "dict", "default": [], "options": FILE},
    "units": {"type": "list", "elements": "dict", "default": [], "options": UNIT},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        files, wanted = units.parse_files(module.params["files"]), units.parse_units(module.params["units"])
        plan = units.make_plan(files, wanted, module.params["state"])
        if not module.check_mode:
            units.carry_out(plan, module.atomic_move)
    except NatlbError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=plan.changed, diff=plan.diff)


if __name__ == "__main__":
    main()
