# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables that bear the names of iptables' own, but hold what only nft makes.

Of a rule that looks something up in a set, `iptables-nft-save` leaves the look-up out: `ip saddr @good accept` is
printed as `-j ACCEPT`. The text of nft does not tell either: it prints the multiport match of iptables as a set. So the
kernel is asked over netlink whether the table has any set, named or not. iptables makes none.

A chain that is hooked in elsewhere than iptables does it, `iptables-nft-save` prints as one that is empty. A table with
other things that iptables cannot say it calls incompatible itself.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

from ..iptables.program import default_variant, iptables_variants
from .listing import BUILTIN, BaseChain, is_of_iptables

_NETLINK_NETFILTER = 12
# include/uapi/linux/netfilter/nfnetlink.h and nf_tables.h
_GET_SETS = 10 << 8 | 10
_SET_TABLE = 1
_FAMILIES = {"ip": 2, "ip6": 10}
# include/uapi/linux/netlink.h
_DUMP = 0x301
_ERROR, _DONE = 2, 3
_TIMEOUT_S = 10.0


def native(chains: Iterable[BaseChain]) -> set[tuple[str, str]]:
    """(family, table) of those that iptables-nft is not to be asked about: it would be wrong, or is not here at all."""
    known = [chain for chain in chains if is_of_iptables(chain)]
    elsewhere = {chain[:2] for chain in known if chain[3:6] != BUILTIN[chain.table, chain.name]}
    return {key for key in {chain[:2] for chain in known} if key in elsewhere or not _offered() or has_sets(*key)}


def _offered() -> bool:
    variants = iptables_variants()
    return "nft" in variants if variants else default_variant() == "nft"


def has_sets(family: str, table: str) -> bool:
    """Whether a table of this network namespace has a set or map. Of a table that is gone since: no."""
    name = table.encode() + b"\0"
    attribute = struct.pack("=HH", 4 + len(name), _SET_TABLE) + name + bytes(-len(name) % 4)
    body = struct.pack("=BBH", _FAMILIES[family], 0, 0) + attribute
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as sock:
            sock.settimeout(_TIMEOUT_S)
            sock.send(struct.pack("=IHHII", 16 + len(body), _GET_SETS, _DUMP, 1, 0) + body)
            # The first message says all that is asked: a set, the end of an empty list, or an error.
            (kind,) = struct.unpack_from("=H", sock.recv(65536), 4)
    except OSError:
        return False
    return kind not in (_ERROR, _DONE)
