# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lookup `declared`: a declaration that is written in several variables, put together."""

from __future__ import annotations

DOCUMENTATION = r"""
name: declared
short_description: Put a declaration together that is written in several variables
version_added: 0.1.0
description:
  - Finds C(natlb_services) and all variables of the host that begin with C(natlb_services_), and gives their items as
    one list, in the order of the names of these variables. The same for C(natlb_egress).
  - The role P(natlb.netfilter.balancer#role) and the playbooks of this collection use it.
author:
  - natlb contributors (@natlb)
options:
  _terms:
    description: V(services) or V(egress).
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show the names of all services
  ansible.builtin.debug:
    msg: "{{ query('natlb.netfilter.declared', 'services') | map(attribute='name') }}"
"""

RETURN = r"""
_list:
  description: The items of all variables.
  type: list
  elements: dict
"""

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.natlb.netfilter.plugins.plugin_utils import composition
from ansible_collections.natlb.netfilter.plugins.plugin_utils.variables import LISTS, PREFIX


class LookupModule(LookupBase):
    """Reads the variables of the host that a template is for."""

    def run(self, terms: list[Any], variables: Mapping[str, Any] | None = None, **_options: Any) -> list[Any]:
        """The items. Raises AnsibleLookupError where no variable is set, which is not the same as an empty list."""
        found: list[Any] = []
        for option in terms:
            if option not in LISTS:
                raise AnsibleLookupError(f"natlb.netfilter.declared: {option!r} is not one of {', '.join(LISTS)}")
            names = composition.names(option, variables or {})
            if not names:
                raise AnsibleLookupError(f"natlb.netfilter.declared: {PREFIX}{option} is not set")
            values = {name: self._templar.template((variables or {})[name]) for name in names}
            found += composition.compose(option, values).items
        return found
