#!/usr/bin/python
# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check the declaration of a host on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: validate_declaration
short_description: Check the declaration of a host on the controller
version_added: 0.1.0
author:
  - natlb contributors (@natlb)
description:
  - Reads the variables of the roles of this collection with the parser that runs on the hosts. All errors come at once.
  - A variable that begins with C(natlb_), and that no role or playbook of this collection knows, is an error too.
  - Opens no connection, so it runs before any host is changed, and also in check mode.
  - The roles and the playbook C(natlb.netfilter.deploy) run it first. A play has no need to call it.
options:
  role:
    description: The role whose variables are checked. By default only names of variables and settings of playbooks are.
    type: str
    choices: [balancer, return_path, monitoring, failover, anycast]
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
  - module: natlb.netfilter.balancer
"""

EXAMPLES = r"""
- name: Check the declaration of each balancer
  natlb.netfilter.validate_declaration:
    role: balancer
"""

RETURN = r"""
tables:
  description:
    - For each service that listens on an address, C(name), C(method), C(listen) and C(slots), a digest of all that its
      slots are made from. Balancers with the same digest send a client to the same backend.
    - Empty for other roles.
  returned: with O(role=balancer)
  type: list
  elements: dict
  sample: [{"name": "web", "method": "source_hash", "listen": ["tcp 192.0.2.10:80"], "slots": "1b2f6c0de4a59d73"}]
"""

from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.host import archive

archive.compile_once()

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """What runs is the action plugin of the same name; this is here for what is documented."""
    module = AnsibleModule(
        argument_spec={
            "role": {"type": "str", "choices": ["balancer", "return_path", "monitoring", "failover", "anycast"]}
        },
        supports_check_mode=True,
    )
    module.fail_json(msg="this runs on the controller only, by its action plugin")


if __name__ == "__main__":
    main()
