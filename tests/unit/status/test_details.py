# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `natlb status --details` adds."""

from __future__ import annotations

from _natlb.status import details


def test_takeover_and_marks() -> None:
    plain = {"name": "10.0.0.4", "mark": None}
    web = {
        "name": "web",
        "takeover_reason": None,
        "mark": "0x10/0xff",
        "backends": [{"name": "web1", "mark": "0x20/0xff"}],
    }
    dns = {"name": "dns", "takeover_reason": "there is none for udp (leave it out)", "mark": None, "backends": [plain]}
    assert list(details.lines({"services": [web, dns]})) == [
        "web: takeover on",
        "web: mark 0x10/0xff, web1 0x20/0xff",
        "dns: takeover off: there is none for udp (leave it out)",
    ]
