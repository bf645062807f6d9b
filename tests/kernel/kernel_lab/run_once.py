# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run as a process of its own, as Ansible starts it: it can be killed, or kill itself at a given point.

Run as `python run_once.py MODULE_UTILS ROOT`; standard input is `{"services": …, "egress": …, "options": …}`, and with
`"die": NAME` the process is gone (SIGKILL) the moment the function NAME (`plan.rollback.arm`) has returned. `"set"`
gives values to names of modules first (`{"host.store.LOCK_TIMEOUT_S": 1}`), and `"clock"` makes the wall clock jump by
so many seconds at each look. With `"look": true` nothing is run: the host is read, as the module balancer_info does.
Prints a line of JSON: `{"transaction": …, "token": …, "warnings": […]}`, what was read, or `{"error": …}`.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


def die_after(name: str) -> None:
    module_name, _dot, function_name = name.rpartition(".")
    module = importlib.import_module(f"_natlb.{module_name}")
    function = getattr(module, function_name)

    def deadly(*args: Any, **kwargs: Any) -> None:
        function(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(module, function_name, deadly)


def jump(step_s: float) -> None:
    looks = itertools.count()
    real = time.time
    time.time = lambda: real() + step_s * next(looks)


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    from _natlb.errors import NatlbError  # noqa: PLC0415
    from _natlb.host import store  # noqa: PLC0415
    from _natlb.plan.balance import balance  # noqa: PLC0415
    from _natlb.status.info import info  # noqa: PLC0415

    request = json.load(sys.stdin)
    root = Path(sys.argv[2])
    for name, value in request.get("set", {}).items():
        module_name, _dot, attribute = name.rpartition(".")
        setattr(importlib.import_module(f"_natlb.{module_name}"), attribute, value)
    if "clock" in request:
        jump(request["clock"])
    if "die" in request:
        die_after(request["die"])
    paths = store.Paths(etc=root / "etc", run=root / "run")
    try:
        if request.get("look"):
            print(json.dumps(info(paths=paths, **request.get("options", {}))))
            return
        outcome = balance(
            request["services"],
            request.get("egress"),
            paths=paths,
            **request.get("options", {}),
        )
    except NatlbError as error:
        print(json.dumps({"error": str(error)}))
    else:
        print(json.dumps({"transaction": outcome.transaction, "token": outcome.token, "warnings": outcome.warnings}))


if __name__ == "__main__":
    main()
