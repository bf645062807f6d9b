# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run, from the user's input to the outcome.

Most runs change nothing, and finish within milliseconds. So they do not even import what they do not need: Ansible
packs this code without compiled files.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any, Callable

from ..host.store import DEFAULT_PATHS, Paths
from ..model.choices import Variant
from . import last_run, rollback, unchanged
from .outcome import Outcome
from .uncollected import uncollected


@uncollected()
def balance(
    services: Any,
    egress: Any = None,
    *,
    check: bool = False,
    paths: Paths = DEFAULT_PATHS,
    iptables_variant: Variant | None = None,
    program: Callable[[], str] | None = None,
    **options: Any,
) -> Outcome:
    """Make this network namespace's NAT be exactly what is declared; with `check`, only say what would change.

    `options` are those of `module_options.Options`; `program` gives the text of the program that the agent is. With
    `rollback_after` the host goes back by itself after so many seconds, unless `rollback.confirm` is called with the
    token of the outcome. Raises `ConfigErrors` for a declaration that cannot be carried out, before anything is
    touched, and `HostError` where the host cannot do it; the kernel then holds the old rules or the new ones, never a
    mix.
    """
    with contextlib.nullcontext() if check else last_run.noted(paths):
        return _balance(services, egress, check, paths, iptables_variant, program, options)


def _balance(
    services: Any,
    egress: Any,
    check: bool,
    paths: Paths,
    iptables_variant: Variant | None,
    program: Callable[[], str] | None,
    options: Mapping[str, Any],
) -> Outcome:
    asked = unchanged.asked({"services": services, "egress": egress, **options, "variant": iptables_variant})
    if unchanged.is_known(paths, asked.key):
        with contextlib.nullcontext() if check else rollback.lock_with_nothing_pending(paths):
            kept = _kept(paths, asked.key)
        if kept:
            return kept
    # What is wrong with a declaration is said before another run is waited for.
    from . import apply, last_declaration, module_options  # noqa: PLC0415

    declared = module_options.Options(services, egress, **options)
    last = last_declaration.read(paths, asked)
    request = declared.request(paths, iptables_variant, check, program, last)
    if check:
        return apply.check(request, declared.state)
    with rollback.lock_with_nothing_pending(paths):
        return apply.carry_out(request, declared.state, asked)[1]


def _kept(paths: Paths, key: str) -> Outcome | None:
    """The outcome of a run that would find nothing to change, where that is certain without one."""
    found = unchanged.outcome(paths, key) if os.geteuid() == 0 else None
    return Outcome(changed=False, diff="", transaction="none", **found) if found else None
