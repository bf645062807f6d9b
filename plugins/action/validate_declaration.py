# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads a host's declaration on the controller, with the parser that runs on the host."""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.errors import ConfigError, ConfigErrors
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.model.reading import NO_VALUE
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.plan import declaration
from ansible_collections.natlb.netfilter.plugins.plugin_utils import (
    alike,
    anycast,
    composition,
    failover,
    playbook_settings,
    return_path,
    state_sync,
    variables,
)

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
        role = self._task.args.get("role")
        if role is None:
            problems += self._settings(given)
        elif role == "balancer":
            found, result["tables"] = self._balancer(given)
            problems += found
        elif role == "return_path":
            problems += self._return_path(given)
        elif role == "failover":
            problems += self._failover(given)
        elif role == "anycast":
            problems += self._anycast(given)
        else:
            problems += self._monitoring(given)
        result["changed"] = False
        if problems:
            result["failed"] = True
            result["msg"] = "\n".join(problems)
        return result

    def _settings(self, given: Mapping[str, Any]) -> list[str]:
        """What is wrong with the settings of the run, wherever in the inventory they are."""
        inventory = [name for group in (given.get("groups") or {}).values() for name in group]
        hostvars = given.get("hostvars") or {}
        found: dict[str, None] = {}
        for variables_of in (given, *(hostvars[name] for name in hostvars)):
            values = {}
            for name in variables.PLAYBOOKS:
                # One that is made from facts of hosts cannot be read yet.
                with contextlib.suppress(AnsibleError):
                    if name in variables_of:
                        values[name] = self._templar.template(variables_of[name])
            found.update(dict.fromkeys(playbook_settings.problems(values, {*inventory})))
        return list(found)

    def _return_path(self, given: Mapping[str, Any]) -> list[str]:
        """What is wrong with the variables of the role `return_path`; the role itself tells the rest."""
        values, _unread = self._templated(given, sorted(variables.OF_RETURN_PATH))
        if values.get(f"{variables.RETURN_PATH}state") == "absent":
            return []
        return _nulls(values) + return_path.problems(values)

    def _monitoring(self, given: Mapping[str, Any]) -> list[str]:
        """What is wrong with the variables of the role `monitoring`."""
        values, problems = self._templated(given, sorted(variables.OF_MONITORING))
        folders = {name: values.get(name) for name in variables.FOLDERS}
        if not problems and not any(folders.values()):
            problems = [f"{' and '.join(folders)}: both are empty, so there is nothing to do (name a folder)"]
        problems += [
            f"{name}: {folder!r} is not an absolute path (begin it with /)"
            for name, folder in folders.items()
            if folder and not str(folder).startswith("/")
        ]
        return problems + _nulls(values)

    def _anycast(self, given: Mapping[str, Any]) -> list[str]:
        """What is wrong with the variables of the role `anycast`."""
        values, found = self._templated(given, sorted(variables.OF_ANYCAST))
        unread = [name for name in variables.OF_ANYCAST if name in given and name not in values]
        state = f"{variables.ANYCAST}state"
        if state in unread or values.get(state) == "absent":
            return found
        return found + _nulls(values) + anycast.problems(values, unread)

    def _failover(self, given: Mapping[str, Any]) -> list[str]:
        """What is wrong with the variables of the role `failover`, also beside those of other hosts."""
        values, problems = self._templated(given, sorted(variables.OF_FAILOVER))
        if problems or values.get(f"{variables.FAILOVER}state") == "absent":
            return problems
        if failover.ADDRESSES not in values:
            return [f"{failover.ADDRESSES}: is not set for this host (docs/failover.md has an example)"]
        problems = _nulls(values) + failover.wrong_numbers(values)
        group = values.get(failover.GROUP)
        hosts = list((given.get("groups") or {}).get(group) or [])
        unicast = boolean(values.get(failover.UNICAST, True), strict=False)
        fleet = failover.Fleet(hosts, given.get("hostvars") or {}, unicast)
        name = str(given.get("inventory_hostname"))
        # The first host of the play looks at all others: if each did, a fleet of a thousand would take minutes.
        everybody = list(given.get("ansible_play_hosts_all") or [])
        others = everybody if everybody[:1] == [name] else []
        problems += failover.problems(values[failover.ADDRESSES], name, group, fleet, others)
        if boolean(values.get(state_sync.SYNC, False), strict=False):
            problems += state_sync.problems(values[failover.ADDRESSES], name, group, fleet)
        return problems

    def _templated(self, given: Mapping[str, Any], names: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
        """The values of those of the variables that are set, and what cannot be read."""
        values: dict[str, Any] = {}
        problems = []
        for name in names:
            try:
                if name in given:
                    values[name] = self._templar.template(given[name])
            except AnsibleError as error:
                problems.append(f"{name}: cannot be read: {error}")
        return values, problems

    def _balancer(self, given: Mapping[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
        """What is wrong with the variables of the role `balancer`, and else the slots of its services."""
        parts = {name for option in variables.LISTS for name in composition.names(option, given)}
        values, problems = self._templated(given, sorted(variables.OF_BALANCER | parts))
        if values.get(f"{variables.PREFIX}state", "present") == "absent":
            return [], []
        if not problems:
            problems += empty(given, values)
        problems += _nulls({name: value for name, value in values.items() if name != SERVICES})
        options = {option: values.get(variables.PREFIX + option) for option in declaration.OPTIONS}
        options["metrics"] = variables.metrics(values)
        for option in variables.LISTS:
            problems += composition.problems(option, given, values)
            options[option] = composition.compose(option, values).items
        try:
            config = declaration.check({option: value for option, value in options.items() if value is not None})
        except ConfigErrors as errors:
            problems += _in_variables(errors.errors, composition.all_places(values))
            return problems, []
        return problems, alike.tables(config)


def _in_variables(errors: Iterable[ConfigError], places: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The place of an error of the core begins with an option, which is a variable without its prefix."""
    for error in errors:
        told = f": {error.problem} ({error.remedy})"
        if error.path.partition("[")[0] in variables.LISTS:
            yield variables.in_variables(error.path, places) + variables.in_variables(told, places)
        else:
            path = error.path.replace("metrics.", "metrics_", 1)
            yield variables.PREFIX + path + variables.in_variables(told, places)


def _nulls(values: Mapping[str, Any]) -> list[str]:
    """A variable that is set to nothing is not one that is left out, but mostly a template that came out empty."""
    remedy = "leave the variable out, or write a value; a template may have come out empty"
    return [f"{name}: {NO_VALUE} ({remedy})" for name in sorted(values) if values[name] is None]


def empty(given: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """Nothing to balance is an error unless it is written: it takes away what the host balances now."""
    services = values.get(SERVICES)
    parts = [name for name in composition.names("services", given) if name != SERVICES]
    if services is None and (SERVICES in given or not parts):
        return [f"{SERVICES}: {_unset(given, parts)}"]
    if services == [] and isinstance(given[SERVICES], str):
        found = f"the template {given[SERVICES]!r} gives an empty list, which would remove "
        found += "all services that it declared" if parts else "every service"
        remedy = _without(parts) if parts else f"write {SERVICES}: [], or natlb_state: absent, if that is meant"
        return [f"{SERVICES}: {found} ({remedy})"]
    return []


def _without(parts: Sequence[str]) -> str:
    """The remedy where `natlb_services` alone does not say what the host balances."""
    return f"if that is meant, leave it out: {parts[0]} declares services as well"


def _unset(given: Mapping[str, Any], parts: Sequence[str]) -> str:
    if parts:
        return f"is set to nothing ({_without(parts)})"
    remedy = f"write {SERVICES}: [] if this host is to balance nothing, natlb_state: absent to remove everything"
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
    return f"; Ansible reads such variables next to the inventory, and {folder} has {found}"
