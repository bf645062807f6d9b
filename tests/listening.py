# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Frontends as tests of who takes a packet write them."""

from __future__ import annotations

from _natlb.model.entities import Frontend

#: Networks one within the other, and one beside them.
NETWORKS = ["0.0.0.0/0", "192.0.2.0/24", "192.0.2.8/29", "192.0.2.10/31", "192.0.2.12/30", "198.51.100.0/25"]


def frontend(listen: str, interface: str | None = None) -> Frontend:
    host, _colon, ports = listen.rpartition(":")
    low, _dash, high = ports.partition("-")
    return Frontend("ip", "tcp", None if host == "*" else host, int(low), int(high or low), interface)
