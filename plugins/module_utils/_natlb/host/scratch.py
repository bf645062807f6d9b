# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A scratch network namespace, in which the kernel validates rules before this host gets them."""

from __future__ import annotations

from ..errors import HostError
from . import processes

#: Exit statuses of our own shell in the namespace: there is one then, and the load, or the listing, was refused in it.
#: unshare(1) itself ends with 1, and with 126 or 127 where it cannot start a program.
_REFUSED = (77, 78)
#: What a user namespace refuses of itself: the socket buffer of netlink cannot be forced there, so that a ruleset of
#: more than a few hundred elements does not fit (EMSGSIZE).
_TOO_LARGE_THERE = "Message too long"


#: What makes one: as root, or in a user namespace.
_FLAGS = (["--net"], ["--user", "--map-root-user", "--net"])


def is_there() -> bool:
    """Whether a new network namespace is to be had."""
    unshare = processes.find("unshare")
    return unshare is not None and any(processes.attempt([unshare, *flags, "true"], "")[0] == 0 for flags in _FLAGS)


def listed(load: str, show: str, text: str) -> str | None:
    """What `show` prints once `load` has read `text`, both constant shell lines, in a new network namespace.

    None where no such namespace is to be had. As root it takes CAP_SYS_ADMIN; in a container without that, a user
    namespace often is to be had. Raises `HostError` where the rules are refused.
    """
    unshare = processes.require("unshare", "util-linux")
    line = f"{load} || exit {_REFUSED[0]}; {show} || exit {_REFUSED[1]}"
    for flags in _FLAGS:
        status, printed, complained = processes.attempt([unshare, *flags, "sh", "-c", line], text)
        if status == 0:
            return printed
        if status in _REFUSED and ("--user" not in flags or _TOO_LARGE_THERE not in complained):
            raise HostError(processes.error_text(load.split(maxsplit=1)[0], status, complained))
    return None
