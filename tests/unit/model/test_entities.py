# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Declared objects as objects of Python: what compares as equal counts once in a set."""

from __future__ import annotations

from typing import Any

from _natlb.model.computed import computed
from _natlb.model.entities import Config, Service
from _natlb.model.services import parse_config


def declared(**more: Any) -> Config:
    web = {"name": "web", "listen": "192.0.2.10:80", "backends": ["10.0.0.3"], "allow_from": ["office"], **more}
    return parse_config([web], networks={"office": ["198.51.100.0/24"]})


def test_equal_declarations_count_once() -> None:
    assert len({declared(), declared(), declared(method="random")}) == 2


def test_what_is_computed_can_be_looked_up_at_its_class() -> None:
    """As by help(), which asks a class for all that it has."""
    assert isinstance(Service.line, computed)
    assert declared().services[0].line
