# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host whose Python is too old is told so, instead of with a traceback."""

from __future__ import annotations

import importlib
import pathlib
import subprocess
import sys
from types import SimpleNamespace
from unittest import mock

import pytest
from ansible.plugins.action import ActionBase
from ansible_collections.natlb.netfilter.plugins.plugin_utils import old_python

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("version", [(3, 8), (3, 7)])
def test_the_core_says_what_it_needs(tmp_path: pathlib.Path, version: tuple[int, int]) -> None:
    """Its first file, read by this Python, which is told that it is an older one."""
    first = ROOT / "plugins" / "module_utils" / "_natlb" / "__init__.py"
    script = f"import sys; sys.version_info = (*{version}, 0, 'final', 0)\n"
    script += "exec(compile(open(sys.argv[1]).read(), sys.argv[1], 'exec'))\nprint('went on')"
    done = subprocess.run(
        [sys.executable, "-c", script, str(first)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"needs Python 3.9 on the host, and {sys.executable} is {version[0]}.{version[1]} (" in done.stdout
    assert "went on" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "result",
    [
        {
            "failed": True,
            "module_stderr": "SyntaxError: future feature annotations is not defined",
            "msg": "MODULE FAILURE",
        },
        {"failed": True, "msg": "ansible-core requires a minimum of Python version 3.8. Current version: 3.7"},
    ],
)
def test_what_cannot_even_start_is_explained(result: dict[str, object]) -> None:
    old_python.explain(result)
    assert result == {"failed": True, "msg": old_python.NEEDED}


def test_other_failures_stay_as_they_are() -> None:
    result = {"failed": True, "msg": "nft: Operation not permitted", "module_stderr": "none"}
    old_python.explain(result)
    assert result == {"failed": True, "msg": "nft: Operation not permitted", "module_stderr": "none"}


#: What Ansible makes of Python 3.6 on a target.
TRACEBACK = {
    "failed": True,
    "msg": "MODULE FAILURE: No start of json char found",
    "module_stderr": "SyntaxError: future feature annotations is not defined",
    "module_stdout": "",
}
#: These open no connection; but the action of `balancer` runs `balancer_confirm` on a host where itself has run.
ON_THE_CONTROLLER = {"validate_declaration", "show_text", "write_report", "balancer_confirm"}
MODULES = {path.stem for path in (ROOT / "plugins" / "modules").glob("*.py")} - ON_THE_CONTROLLER


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_module_that_runs_on_a_host_is_explained(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    action = importlib.import_module(f"ansible_collections.natlb.netfilter.plugins.action.{name}")
    monkeypatch.setattr(ActionBase, "run", lambda *_arguments: {})
    made = action.ActionModule.__new__(action.ActionModule)
    made._task = SimpleNamespace(args={}, _role=None, async_val=0)
    made._connection = mock.Mock()
    run = mock.Mock(return_value=dict(TRACEBACK))
    monkeypatch.setattr(made, "_execute_module", run)
    monkeypatch.setattr(made, "_remove_tmp_path", lambda _path: None)
    result = made.run(task_vars={"inventory_hostname": "lb1"})
    assert result["msg"] == old_python.NEEDED
    assert "module_stderr" not in result
    assert run.call_args.kwargs["module_name"] == f"natlb.netfilter.{name}"
