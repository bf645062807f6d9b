# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One controller, many hosts at once: all confirm their change but the one that locks its controller out."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from fault_table import FULL, Row, Rows
from fleet import PORT, Member, fleet

#: Hosts, all of them at once, and how long a change waits. They share the controller's cores: on two busy ones 30 s
#: were not enough for 12 of 49 to be asked again, and those went back; nor were 5 s for all of 4, at a load of 15.
SIZE, ROLLBACK_AFTER_S = (50, 120) if FULL else (5, 10)
BACKENDS = [{"address": "198.51.100.1", "port": 8080}, {"address": "198.51.100.2", "port": 8080}]
WEB = {"name": "web", "listen": "192.0.2.10:80", "backends": BACKENDS}
FORMER = [{**WEB, "listen": "192.0.2.10:79"}]

pytestmark = pytest.mark.skipif(
    bool(os.geteuid()) or shutil.which("nft") is None, reason="needs root, network namespaces and nft"
)


def lockout(member: Member) -> list[dict[str, Any]]:
    """A service that takes the port by which the controller comes in, and gives it to where nobody answers."""
    return [WEB, {"name": "ssh", "listen": f"{member.address}:{PORT}", "backends": BACKENDS}]


def test_one_of_many_goes_back(rows: Rows, tmp_path: Path) -> None:
    row = Row(f"controller with `--forks {SIZE}`, one of {SIZE} hosts locks it out")
    with fleet(SIZE, tmp_path) as hosts:
        unlucky = hosts.members[SIZE // 2]
        unlucky.balance(FORMER)
        before = unlucky.state()
        services = {member.name: lockout(member) if member is unlucky else [WEB] for member in hosts.members}
        printed, took_s = hosts.play(services, SIZE, ROLLBACK_AFTER_S)
        print(f"\n{SIZE} hosts at once: {took_s:.0f} s", end="")
        recap = dict(re.findall(r"^(lb\d+) +: (ok=.*)$", printed, re.MULTILINE))
        assert set(recap) == {member.name for member in hosts.members}, printed
        row.injected = SIZE
        for member in hosts.members:
            good = "failed=0" in recap[member.name] and "changed=1" in recap[member.name]
            row.unrepaired += good == (member is unlucky) or member.waiting()
            state = member.state()
            row.mixed += state != before if member is unlucky else "192.0.2.10 . tcp . 80" not in state
            row.files += member is not unlucky and "/boot:" not in state
        row.seen = _message(printed, unlucky)
        assert "went back to its former rules" in row.seen, printed
    rows["fleet"] = row
    assert row.good, f"{row}\n{printed}"


def _message(printed: str, member: Member) -> str:
    found = re.search(rf"fatal: \[{member.name}\].*?\"msg\": \"([^\"]*)\"", printed, re.DOTALL)
    return found[1] if found else ""
