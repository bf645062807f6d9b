# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads a host's declaration on the controller, with the parser that runs on the host."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.errors import ConfigErrors
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.plan import declaration
from ansible_collections.natlb.netfilter.plugins.plugin_utils import variables

SERVICES = "natlb_services"


class ActionModule(ActionBase):
    """Opens no connection: a declaration that cannot be carried out is told before any host is touched."""

    _supports_check_mode = True
    _supports_diff = True
    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset({"role"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """All that is wrong with it, one line for each."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        given = dict(task_vars or {})
        problems = variables.unknown(given)
        if self._task.args.get("role") == "balancer":
            problems += self._balancer(given)
        result["changed"] = False
        if problems:
            result["failed"] = True
            result["msg"] = "\n".join(problems)
        return result

    def _balancer(self, given: Mapping[str, Any]) -> list[str]:
        """What is wrong with the variables of the role `balancer`."""
        values: dict[str, Any] = {}
        problems = []
        for option in declaration.OPTIONS:
            name = variables.PREFIX + option
            try:
                if name in given:
                    values[option] = self._templar.template(given[name])
            except AnsibleError as error:
                problems.append(f"{name}: cannot be read: {error}")
        if values.get("state", "present") == "absent":
            return []
        if not problems:
            problems += empty(given, values.get("services"))
        try:
            declaration.check(values)
        except ConfigErrors as errors:
            problems += [variables.in_variables(str(error)) for error in errors.errors]
        return problems


def empty(given: Mapping[str, Any], services: Any) -> list[str]:
    """Nothing to balance is an error unless it is written: it takes away what the host balances now."""
    if services is None:
        return [f"{SERVICES}: {_unset(given)}"]
    if services == [] and isinstance(given[SERVICES], str):
        found = f"the template {given[SERVICES]!r} gives an empty list, which would take every service away"
        return [f"{SERVICES}: {found} (write {SERVICES}: [], or natlb_state: absent, if that is meant)"]
    return []


def _unset(given: Mapping[str, Any]) -> str:
    remedy = f"write {SERVICES}: [] if this host is to balance nothing, natlb_state: absent to take all away"
    if SERVICES in given:
        return f"is set to nothing ({remedy})"
    others = [name for name in given if name.startswith(variables.PREFIX)]
    similar = difflib.get_close_matches(SERVICES, others, n=1, cutoff=0.8)
    hint = f", but {similar[0]} is" if similar else ""
    return f"is not set for this host{hint} ({remedy}{_looked_at(given.get('inventory_dir'))})"


def _looked_at(folder: Any) -> str:
    """A playbook that is called by the name of its collection has no group_vars of the user's beside it."""
    if not folder:
        return ""
    there = [name for name in ("group_vars", "host_vars") if os.path.isdir(os.path.join(str(folder), name))]
    found = " and ".join(there) or "neither group_vars nor host_vars"
    return f"; such variables are read beside the inventory, and in {folder} there are {found}"
