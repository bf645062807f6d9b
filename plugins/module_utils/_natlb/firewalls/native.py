# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables with the names of iptables tables, but with content that only nft creates.

`iptables-nft-save` omits look-ups in sets: it prints `ip saddr @good accept` as `-j ACCEPT`. The text of nft does not
help either, since it prints the multiport match of iptables as a set. Therefore the kernel is asked over netlink
whether the table has any set, named or anonymous. iptables creates none.

If a chain is hooked in at another priority than that of iptables, `iptables-nft-save` prints it as empty. A table with
other content that iptables cannot express is reported by iptables itself as incompatible.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..host.nf_tables import BaseChain, sets
from ..iptables.program import default_variant, iptables_variants
from .listing import BUILTIN, is_of_iptables


def native(chains: Iterable[BaseChain]) -> set[tuple[str, str]]:
    """(family, table) of those that iptables-nft cannot list correctly, or that it does not have."""
    known = [chain for chain in chains if is_of_iptables(chain)]
    elsewhere = {chain[:2] for chain in known if chain[3:6] != BUILTIN[chain.table, chain.name]}
    return {key for key in {chain[:2] for chain in known} if key in elsewhere or not _offered() or sets(*key)}


def _offered() -> bool:
    variants = iptables_variants()
    return "nft" in variants if variants else default_variant() == "nft"
