# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the page about a fleet, on the controller."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.natlb.netfilter.plugins.plugin_utils import report_page


class ActionModule(ActionBase):
    """Opens no connection. What it reads is never a template again, whatever users have typed."""

    _supports_check_mode = True
    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset({"balancers", "path"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The path of the file. It always changes, as it has the time in it."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        balancers, path = self._task.args.get("balancers"), self._task.args.get("path")
        if not isinstance(balancers, Mapping):
            raise AnsibleActionFail("balancers: is not a mapping of hosts to what balancer_info returned")
        if not isinstance(path, str) or not path:
            raise AnsibleActionFail("path: is not the path of a file")
        target = os.path.abspath(os.path.expanduser(path))
        text = report_page.page(balancers, datetime.now(UTC))
        if not self._task.check_mode:
            try:
                _write(target, text)
            except OSError as error:
                raise AnsibleActionFail(f"path: {target} cannot be written: {error.strerror}") from error
        result.update(changed=True, path=target, size=len(text.encode()))
        return result


def _write(path: str, text: str) -> None:
    """Whoever reads it while it is written sees the one before."""
    mask = os.umask(0)
    os.umask(mask)
    handle, name = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".natlb-report-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
