#!/usr/bin/python
# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation of an action: there is nothing to do on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: show_text
short_description: Print lines of text unchanged
version_added: 0.1.0
author:
  - natlb contributors (@natlb)
description:
  - Prints lines unchanged, whatever format the callback plug-in prints results in.
  - With a callback that prints for programs (C(json) and C(jsonl)), only the result holds the lines.
  - Runs on the controller and opens no connection. The playbooks C(natlb.netfilter.status) and
    C(natlb.netfilter.verify) use it.
options:
  lines:
    description:
      - The lines to print. A line may be a mapping of C(text) and C(level). On a terminal, the level V(bad) and V(odd)
        have the colours that Ansible has for errors and for changes.
    type: list
    elements: raw
    default: []
  problems:
    description: Lines that are printed as well. If there are any, the task fails with them.
    type: list
    elements: str
    default: []
attributes:
  action:
    description: An action plug-in does all of the work on the controller.
    support: full
  check_mode:
    description: Does the same in check mode, as it changes nothing.
    support: full
  diff_mode:
    description: Has no diff, as it changes nothing.
    support: none
seealso:
  - plugin: natlb.netfilter.status_table
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Show the table
  natlb.netfilter.show_text:
    lines: "{{ {inventory_hostname: status} | natlb.netfilter.status_table }}"
"""

RETURN = r"""
lines:
  description: The printed lines.
  returned: always
  type: list
  elements: str
"""

from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.host import archive

archive.compile_once()

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Only the action does something."""
    argument_spec = {
        "lines": {"type": "list", "elements": "raw", "default": []},
        "problems": {"type": "list", "elements": "str", "default": []},
    }
    module = AnsibleModule(argument_spec=argument_spec, supports_check_mode=True)
    module.fail_json(msg="show_text runs on the controller only; call it as natlb.netfilter.show_text")


if __name__ == "__main__":
    main()
