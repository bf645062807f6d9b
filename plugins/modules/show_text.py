#!/usr/bin/python
# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation of an action: there is nothing to do on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: show_text
short_description: Show lines of text to a person
version_added: 0.1.0
author:
  - natlb contributors (@natlb)
description:
  - Prints lines as they are, however the callback plug-in prints results, be it as JSON, as YAML or in one line.
  - With a callback that prints for programs (C(json) and C(jsonl)) the lines are in the result alone.
  - Runs on the controller and opens no connection. The playbooks C(natlb.netfilter.status) and
    C(natlb.netfilter.verify) use it.
options:
  lines:
    description: What to show.
    type: list
    elements: str
    default: []
  problems:
    description: Where there are any, they are shown as well, and the task fails with them.
    type: list
    elements: str
    default: []
attributes:
  action:
    description: Has an action plug-in, which does all of it on the controller.
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
  description: What was shown.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Only the action does something."""
    lists = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(argument_spec={"lines": lists, "problems": lists}, supports_check_mode=True)
    module.fail_json(msg="show_text runs on the controller only; call it as natlb.netfilter.show_text")


if __name__ == "__main__":
    main()
