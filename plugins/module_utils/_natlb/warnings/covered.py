# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ranges of ports, and networks, that get no connections, since more specific services take all of them."""

from __future__ import annotations

from ..model.entities import Config, Frontend
from ..model.territory import territory_of


def warnings(config: Config) -> list[str]:
    """A sentence for each such range."""
    whole = territory_of(config)
    empty = {frontend for frontend, parts in whole.parts.items() if not parts}
    return [
        f"service {service.name}: nothing is left of {frontend}: services within {_what(frontend)} "
        f"take all of its ports; take it out of listen, or name ports that no other service has"
        for service in (config.services if empty else ())
        for frontend in service.frontends()
        if frontend in empty
    ]


def _what(frontend: Frontend) -> str:
    return "this network" if frontend.is_network else "this range"
