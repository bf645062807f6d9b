# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A network namespace of its own, in which the kernel is asked about rules before this host has them."""

from __future__ import annotations

from . import kernel
from .errors import HostError

#: Exit statuses of our own shell in the namespace: there is one then, and the load, or the listing, was refused in it.
#: unshare(1) itself ends with 1, and with 126 or 127 where it cannot start a program.
_REFUSED = (77, 78)
#: What a user namespace refuses of itself: the socket buffer of netlink cannot be forced there, so that a ruleset of
#: more than a few hundred elements does not fit (EMSGSIZE).
_TOO_LARGE_THERE = "Message too long"


def _listed(load: str, show: str, text: str) -> str | None:
    """What `show` prints once `load` has read `text`, both constant shell lines, in a new network namespace.

    None where no such namespace is to be had. As root it takes CAP_SYS_ADMIN; in a container without that, a user
    namespace often is to be had. Raises `HostError` where the rules are refused.
    """
    unshare = kernel.require("unshare", "util-linux")
    line = f"{load} || exit {_REFUSED[0]}; {show} || exit {_REFUSED[1]}"
    for flags in (["--net"], ["--user", "--map-root-user", "--net"]):
        status, printed, complained = kernel.attempt([unshare, *flags, "sh", "-c", line], text)
        if status == 0:
            return printed
        if status in _REFUSED and ("--user" not in flags or _TOO_LARGE_THERE not in complained):
            raise HostError(kernel.complaint(load.split(maxsplit=1)[0], status, complained))
    return None


def nft(program: kernel.Nft, text: str) -> str | None:
    """How the kernel lists a ruleset that it has been given; None where no namespace is to be had to ask it in.

    Raises `HostError` where the kernel refuses the ruleset: without a namespace, this host's own.
    """
    listing = _listed("nft -f -", "nft --stateless -nn list ruleset", text)
    if listing is None:
        program.check(text)
    return listing


def iptables(program: kernel.Iptables, family: str, text: str) -> str | None:
    """How the kernel lists the rules that it has been given; see `nft`.

    There is nothing to flush in a new namespace. But where all may go, iptables-nft does not keep a list of the chains
    that it reads of, which takes it half of the time for ten thousand services. Without a namespace nobody but the
    program itself can be asked, which knows less than the kernel.
    """
    listing = _listed(program.program(family, "restore"), program.program(family, "save"), text)
    if listing is None:
        program.test(family, text)
    return listing
