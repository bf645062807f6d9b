#!/usr/bin/python
# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation of an action: there is nothing to do on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: write_report
short_description: Write a web page about a fleet of balancers
version_added: 0.1.0
author:
  - natlb contributors (@natlb)
description:
  - Writes one web page about what balancers do, to a file on the controller. It needs no other file
    and no network.
  - Runs on the controller and opens no connection. The playbook C(natlb.netfilter.report) uses it.
options:
  balancers:
    description: The results of M(natlb.netfilter.balancer_info), by name of host.
    type: dict
    required: true
  path:
    description: The file. A file that exists is replaced. Its folder has to exist.
    type: path
    required: true
attributes:
  action:
    description: An action plug-in does all of the work on the controller.
    support: full
  check_mode:
    description: In check mode the page is made, and the file is not written.
    support: full
  diff_mode:
    description: Has no diff.
    support: none
seealso:
  - module: natlb.netfilter.balancer_info
"""

EXAMPLES = r"""
- name: Read the balancer
  natlb.netfilter.balancer_info:
  register: status

- name: Write a page about it
  natlb.netfilter.write_report:
    balancers: "{{ {inventory_hostname: status} }}"
    path: natlb-report.html
"""

RETURN = r"""
path:
  description: The absolute path of the file.
  returned: success
  type: str
  sample: /home/kim/natlb-report.html
size:
  description: Its size in bytes.
  returned: success
  type: int
  sample: 31415
"""

from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.host import archive

archive.compile_once()

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Only the action does something."""
    argument_spec = {
        "balancers": {"type": "dict", "required": True},
        "path": {"type": "path", "required": True},
    }
    module = AnsibleModule(argument_spec=argument_spec, supports_check_mode=True)
    module.fail_json(msg="write_report runs on the controller only; call it as natlb.netfilter.write_report")


if __name__ == "__main__":
    main()
