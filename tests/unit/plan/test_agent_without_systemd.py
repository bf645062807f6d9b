# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host without systemd, whose supervisor runs the agent: whether anybody checks backends is asked at its socket."""

from __future__ import annotations

from pathlib import Path

import pytest
from _natlb.host import observation, unix_socket
from _natlb.host.store import AGENT_SOCKET, Paths
from _natlb.model.services import parse_config
from _natlb.plan import agent_files
from _natlb.plan.request import Request

WEB = {"name": "web", "listen": "192.0.2.10:80", "backends": ["10.0.0.3"], "health": {"type": "tcp"}}


@pytest.fixture
def request_of(tmp_path: Path) -> Request:
    return Request(parse_config([WEB]), "nftables", None, True, True, Paths(tmp_path, tmp_path, tmp_path))


def test_nobody_checks_where_no_agent_runs(request_of: Request) -> None:
    (warning,) = agent_files.warnings(request_of, systemd=False)
    assert "no agent does, so nobody checks backends" in warning
    assert agent_files.warnings(request_of, systemd=True) == []


def test_an_agent_that_runs_checks(request_of: Request) -> None:
    """And the next run sees where it has ended, or begun."""
    path = request_of.paths.run / AGENT_SOCKET
    with observation.watched() as watch:
        assert agent_files.warnings(request_of, systemd=False)
    with unix_socket.listening(path):
        assert agent_files.warnings(request_of, systemd=False) == []
        assert dict(watch.replay()) != watch.seen
    assert agent_files.warnings(request_of, systemd=False), "what it left refuses"
    assert dict(watch.replay()) == watch.seen
