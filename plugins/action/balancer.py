# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's part of the module balancer: confirms the change over a new connection."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleError
from ansible.module_utils.common.validation import check_type_dict
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.plan import packed
from ansible_collections.natlb.netfilter.plugins.plugin_utils import composition, host_warnings, old_python, variables

MODULE = "natlb.netfilter.balancer"
#: The variable by which the playbook deploy says that it verifies a change before it confirms it.
HELD = "natlb_balancer_held"
CONFIRM = "natlb.netfilter.balancer_confirm"
#: How long to go on asking after the host should have gone back by itself, to learn that it did.
AFTERWARDS_S = 15.0
PAUSE_S = 0.5
#: The verbosity from which on Ansible shows what a module was given.
_SHOWS_ARGUMENTS = 3
NO_ASYNC = (
    "async: this module cannot run in the background, since the controller confirms the change over a new connection "
    "(leave async and poll out; a run that is cut off is carried out or undone by the host itself)"
)


class ActionModule(ActionBase):
    """Runs the module. If the change waits for its confirmation, opens a new connection and confirms it."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the module returns, and `confirmed` where the change had to be."""
        if self._task.async_val:
            return {"failed": True, "msg": NO_ASYNC}
        renamed = variables.renamed_options(self._task.args)
        if renamed:
            return {"failed": True, "msg": "\n".join(renamed)}
        result: dict[str, Any] = super().run(tmp, task_vars)
        try:
            # All that may be unreadable is read before the host changes: a token that is lost undoes the change.
            held = self._held(task_vars or {})
            given = packed.pack(_as_mappings(self._task.args, ("conntrack", "metrics", "networks")))
            result.update(self._execute_module(module_name=MODULE, module_args=given, task_vars=task_vars))
            self._repeat_arguments(result)
            old_python.explain(result)
            token = result.pop("_token", "")
            if token:
                after_s = _seconds(self._task.args["rollback_after"])
                self._confirm(result, token, task_vars, after_s, held)
            if self._task._role is not None:
                variables.translate(result, self._places(result, task_vars or {}))
            host_warnings.add(result, str((task_vars or {}).get("inventory_hostname", "")))
            return result
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)

    def _held(self, task_vars: Mapping[str, Any]) -> bool:
        """Whether somebody verifies the change before it is confirmed."""
        return HELD in task_vars and boolean(self._templar.template(task_vars[HELD]), strict=False)

    def _places(self, result: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, list[str]]:
        """Where the role's user has written what the module was given as one list, if the result speaks of it.

        Nothing is worth a failure here: a removal reads no declaration, and this may be one that cannot be read. A
        message has a number less exact then.
        """
        if not variables.speaks_of_items(result):
            return {}
        names = [name for option in variables.LISTS for name in composition.names(option, task_vars)]
        # Without parts the places say nothing more.
        if variables.ROLES.issuperset(names):
            return {}
        try:
            return composition.all_places({name: self._templar.template(task_vars[name]) for name in names})
        except Exception as error:
            Display().vv(f"the places of services are not known: {error}")
            return {}

    def _repeat_arguments(self, result: dict[str, Any]) -> None:
        """Put the options back that were packed: Ansible shows the arguments of a task with -vvv."""
        repeated = (result.get("invocation") or {}).get("module_args")
        if repeated and repeated.pop(packed.OPTION, None) and Display().verbosity >= _SHOWS_ARGUMENTS:
            repeated.update((name, self._task.args[name]) for name in packed.NESTED if name in self._task.args)

    def _confirm(
        self, result: dict[str, Any], token: str, task_vars: dict[str, Any] | None, after_s: int, held: bool
    ) -> None:
        """Ask until the host answers. A host that answers too late reports the time of its rollback.

        A change that is held goes on waiting: whoever has verified it confirms it, by the token in `pending`. The
        host's time began before the module returned, however long that took to start among many others.
        """
        answer: dict[str, Any] = {"msg": "no answer"}
        give_up = time.monotonic() + after_s + AFTERWARDS_S
        while time.monotonic() < give_up:
            answer = self._ask(token, "hold" if held else "keep", task_vars)
            if not answer.get("unreachable"):
                break
            time.sleep(PAUSE_S)
        answered = not (answer.get("failed") or answer.get("unreachable"))
        result["confirmed"] = answered and not held
        if answered and held:
            result["pending"] = token
        if not answered:
            result["failed"] = True
            result["msg"] = (
                f"the change was not confirmed over a new connection within {after_s} s, "
                f"and the host goes back by itself: {answer.get('msg')}"
            )

    def _ask(self, token: str, verdict: str, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """One attempt, over a connection that did not exist before the change: an old one passes rules that a new one
        does not."""
        try:
            self._connection.reset()
            # The folder that the module ran in belongs to the connection that is gone, and may have gone with it.
            self._connection._shell.tmpdir = None
            answer: dict[str, Any] = self._execute_module(
                module_name=CONFIRM, module_args={"token": token, "verdict": verdict}, task_vars=task_vars
            )
        except AnsibleError as error:
            return {"unreachable": True, "msg": str(error)}
        return answer


def _as_mappings(options: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The options, with those that are text read as Ansible reads a mapping, such as JSON on the command line."""
    found = dict(options)
    for name in names:
        if isinstance(found.get(name), str):
            # What is not a mapping, the parser refuses with the place and a remedy.
            with contextlib.suppress(TypeError):
                found[name] = check_type_dict(found[name])
    return found


def _seconds(value: Any) -> int:
    """A number that the module has taken already, in any of the spellings that it takes: 30, "30", "30.0"."""
    return int(float(value))
