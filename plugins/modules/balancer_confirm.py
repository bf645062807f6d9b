#!/usr/bin/python
# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Confirm a change that otherwise undoes itself."""

from __future__ import annotations

DOCUMENTATION = r"""
module: balancer_confirm
short_description: Confirm a pending change of a NAT load balancer
version_added: 0.1.0
author:
  - natlb contributors (@natlb)
description:
  - The module M(natlb.netfilter.balancer) runs this module over a new connection, after a change with the option
    O(natlb.netfilter.balancer#module:rollback_after). Without it the change undoes itself.
  - A play has no need to call it.
options:
  token:
    description: Token of the pending change.
    type: str
    required: true
  verdict:
    description:
      - V(keep) makes the change final. V(undo) lets the host go back to its former rules now, instead of when the time
        is over. V(hold) gives it two minutes more, for somebody who verifies the change first.
    type: str
    choices: [keep, undo, hold]
    default: keep
attributes:
  check_mode:
    description: Can run in check_mode and return changed status prediction without modifying target.
    support: full
    details: In check mode no change is pending, so nothing is confirmed.
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in check_mode), when in diff mode.
    support: none
seealso:
  - module: natlb.netfilter.balancer
"""

EXAMPLES = r"""
- name: Confirm a change
  natlb.netfilter.balancer_confirm:
    token: 0123456789abcdef
"""

RETURN = r"""
"""

from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.host import archive

archive.compile_once()

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.errors import NatlbError
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.host import store
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.plan import rollback

VERDICTS = {"keep": rollback.confirm, "undo": rollback.undo, "hold": rollback.hold}


def main() -> None:
    """Run the module."""
    # The token is no secret: whoever may write to /run/natlb is root.
    arguments = {
        "token": {"type": "str", "required": True, "no_log": False},
        "verdict": {"type": "str", "choices": [*VERDICTS], "default": "keep"},
    }
    module = AnsibleModule(argument_spec=arguments, supports_check_mode=True)
    try:
        if not module.check_mode:
            VERDICTS[module.params["verdict"]](store.DEFAULT_PATHS, module.params["token"])
    except NatlbError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=module.params["verdict"] == "undo" and not module.check_mode)


if __name__ == "__main__":
    main()
