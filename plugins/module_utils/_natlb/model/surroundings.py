# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the rules depend on beside the configuration: facts of the host, as one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from ..packets import Family
from .transit import Closed
from .unclaimed import Unclaimed

_NONE: Mapping[Family, Any] = MappingProxyType({})


class Surroundings(NamedTuple):
    """Clients in the networks that are `connected` need hairpin NAT with `snat: none`. Between the interfaces of a
    family in `closed` nothing else is forwarded. Packets to what is `unclaimed`, by family, would go round in circles.
    """

    connected: Sequence[str] = ()
    closed: Mapping[Family, Closed] = _NONE
    unclaimed: Mapping[Family, Unclaimed] = _NONE


#: A host with nothing of that.
NOWHERE = Surroundings()
