#!/usr/bin/python
# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module `backend`: see DOCUMENTATION."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backend
short_description: Drain a backend of a running balancer, or bring it back
version_added: 0.1.0
author:
  - natlb contributors (@natlb)
description:
  - Says of one backend that it gets no new connections, or another share of them, without a change of the declaration.
    It runs on the balancer.
  - What it says is an override. It stays until it is taken back with O(state=active), until a run of
    M(natlb.netfilter.balancer) declares another state or weight for that backend, or until the backend is not declared
    any more.
  - Health checks can still take the backend out. They bring nothing back that is drained here.
attributes:
  check_mode:
    support: full
    description: Says what it would change, and does not wait.
  diff_mode:
    support: full
    description: Shows the override before and after, and the rules that change.
  platform:
    support: full
    description: Linux hosts that M(natlb.netfilter.balancer) has set up.
    platforms: linux
options:
  backend:
    description: Its name, its address, or C(address:port).
    type: str
    required: true
  service:
    description: The service whose backend it is. By default all services that have it.
    type: str
  state:
    description:
      - V(drained) gives it no new connections. Existing ones go on.
      - V(disabled) takes it out for good. UDP flows choose another backend at once.
      - V(active) takes back what was said. The backend is as declared again, with the declared weight.
    type: str
    choices: [active, drained, disabled]
  weight:
    description: Another weight than the declared one, from 0 to 256.
    type: int
  reason:
    description:
      - Why. It stands in the table of C(natlb status) and in the diff of later runs.
      - A backend that was taken out for several reasons stays out until each of them is taken back, or O(state=active)
        takes back all.
      - The last eight reasons are kept apart. The oldest of more become one, C(earlier reasons).
    type: str
    default: ""
  only_reason:
    description:
      - With O(state=active), take back only what was said with this O(reason). Without such a thing nothing is changed.
      - So automation brings nothing back that an operator has drained.
    type: str
  wait:
    description:
      - With O(state=drained) or O(state=disabled), wait until its connections are gone.
      - Attempts that it has not answered after a second are ended. The client's next packet goes to another backend.
      - While it waits, the controller says every ten seconds, and later less often, how many connections are left.
    type: bool
    default: false
  wait_timeout:
    description:
      - How many seconds to wait at most. Connections that are left then are no failure. RV(active_connections) says how
        many there are.
    type: int
    default: 300
  wait_only:
    description:
      - Give no order, and only wait for the end of its connections, as O(wait) says. It fails where somebody has
        brought the backend back.
    type: bool
    default: false
    version_added: 0.1.0
  close_connections:
    description: End the connections that are left after O(wait_timeout).
    type: bool
    default: false
  min_active:
    description:
      - How many backends of each service have to be left that serve. With fewer the module fails and changes nothing.
        So a roll-out stops in time.
      - The module also fails where a service would fall below its C(min_healthy), and all clients would go to the
        backups. V(0) means it nevertheless.
      - Backends that health checks have taken out do not count. Runs at the same time are judged one after another.
    type: int
    default: 1
  allow_missing:
    description:
      - Where the host has no such backend, or no such service, change nothing and succeed. RV(services) is empty then.
      - It is for fleets whose balancers have different services. A mistyped name is no failure either.
    type: bool
    default: false
seealso:
  - module: natlb.netfilter.balancer
  - module: natlb.netfilter.balancer_info
"""

EXAMPLES = r"""
- name: Take this host out of the rotation of every balancer, and wait for its connections to end
  natlb.netfilter.backend:
    backend: "{{ inventory_hostname }}"
    state: drained
    reason: kernel update
    wait: true
    wait_timeout: 120
  delegate_to: "{{ item }}"
  loop: "{{ groups['balancers'] }}"

- name: Bring it back
  natlb.netfilter.backend:
    backend: "{{ inventory_hostname }}"
    state: active
  delegate_to: "{{ item }}"
  loop: "{{ groups['balancers'] }}"
"""

RETURN = r"""
active_connections:
  description: How many connections the backend has at the end. Null in check mode.
  returned: success
  type: int
waited:
  description: How many seconds were waited.
  returned: success
  type: float
closed:
  description: How many connections were ended at the deadline. They make RV(ignore:changed) true.
  returned: success
  type: int
services:
  description: The services whose backend it is.
  returned: success
  type: list
  elements: str
changed_services:
  description: Those of RV(services) in which the override is another one now.
  returned: success
  type: list
  elements: str
overrides:
  description: What is said of the backend now, for people. Empty where it is as declared.
  returned: success
  type: list
  elements: str
missing:
  description: With O(allow_missing=true), which name the host does not know. Empty where it knows all.
  returned: success
  type: str
"""

from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.host import archive

archive.compile_once()

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.errors import NatlbError
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.plan import draining

ARGUMENTS = {
    "backend": {"type": "str", "required": True},
    "service": {"type": "str"},
    "state": {"type": "str", "choices": ["active", "drained", "disabled"]},
    "weight": {"type": "int"},
    "reason": {"type": "str", "default": ""},
    "only_reason": {"type": "str"},
    "wait": {"type": "bool", "default": False},
    "wait_timeout": {"type": "int", "default": 300},
    "wait_only": {"type": "bool", "default": False},
    "close_connections": {"type": "bool", "default": False},
    "min_active": {"type": "int", "default": 1},
    "allow_missing": {"type": "bool", "default": False},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True, required_one_of=[("state", "weight")])
    try:
        module.exit_json(**draining.backend(**module.params, check=module.check_mode))
    except NatlbError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
