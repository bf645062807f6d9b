# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who would serve without the backends that are to go, without a host."""

from __future__ import annotations

import pytest
from _natlb.model.services import parse_config
from _natlb.plan.draining import _left


@pytest.mark.parametrize(("backups", "left"), [("together", 1), ("one_for_one", 2), ("first", 1)])
def test_backups_that_join_are_among_those_that_are_left(backups: str, left: int) -> None:
    backends = [{"address": f"10.0.0.{number}", "backup": number > 4} for number in (3, 4, 5, 6)]
    declared = {"name": "web", "listen": "192.0.2.10:80", "backups": backups, "backends": backends}
    (service,) = parse_config([declared]).services
    assert _left(service, "ip", set()) == 2
    assert _left(service, "ip", {("10.0.0.3", None)}) == left
