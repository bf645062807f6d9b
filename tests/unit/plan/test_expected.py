# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Engines whose programs are yet to be installed plan as those that have them."""

from __future__ import annotations

import pytest
from _natlb.model.services import parse_config
from _natlb.plan.expected import ExpectedIptables, ExpectedNftables

WEB = {"name": "web", "listen": "192.0.2.10:80", "backends": [{"address": "10.0.0.3"}]}


@pytest.mark.parametrize("engine", [ExpectedNftables(), ExpectedIptables()], ids=lambda engine: engine.name)
def test_a_plan_without_any_program(engine: ExpectedNftables | ExpectedIptables) -> None:
    rendered = engine.render(parse_config([WEB]))
    planned = engine.plan(engine.listed(), rendered, rendered)
    assert planned.kind == "replace"
    assert "192.0.2.10" in str(planned.texts)
    assert engine.plan({}, {}, {}).kind == "none"
