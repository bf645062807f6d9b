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

from collections.abc import Iterable

from ..host.nf_tables import BaseChain, sets
from ..iptables.program import default_variant, iptables_variants
from .listing import BUILTIN, is_of_iptables


def native(chains: Iterable[BaseChain]) -> set[tuple[str, str]]:
    """(family, table) of those that iptables-nft is not to be asked about: it would be wrong, or is not here at all."""
    known = [chain for chain in chains if is_of_iptables(chain)]
    elsewhere = {chain[:2] for chain in known if chain[3:6] != BUILTIN[chain.table, chain.name]}
    return {key for key in {chain[:2] for chain in known} if key in elsewhere or not _offered() or sets(*key)}


def _offered() -> bool:
    variants = iptables_variants()
    return "nft" in variants if variants else default_variant() == "nft"
