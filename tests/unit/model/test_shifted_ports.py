# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backends whose ports are so far from those of the service, and what follows from that elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from _natlb.iptables.service import destination
from _natlb.model.backend_ports import backend_ports
from _natlb.model.entities import Service
from _natlb.model.services import parse_config


def read(listen: Any, port: Any, address: str = "10.0.0.3") -> Service:
    declared = {"name": "web", "listen": listen, "backends": [{"address": address, "port": port}]}
    return parse_config([declared]).services[0]


@pytest.mark.parametrize(
    ("listen", "port", "found"),
    [
        ("192.0.2.10:8000-8010", "9000-9010", (None, 1000)),
        ("192.0.2.10:8000-8010", "+1000", (None, 1000)),
        ("192.0.2.10:8000-8010", "-7999", (None, -7999)),
        ("192.0.2.10:8000-8010", "8000-8010", (None, 0)),
        ("192.0.2.10:8000-8010", "+0", (None, 0)),
        ("192.0.2.10:8000-8010", "9000-9000", (9000, 0)),
        ("192.0.2.10:8000-8010", 9000, (9000, 0)),
        ("192.0.2.10:8000-8010", "9000", (9000, 0)),
        (["192.0.2.10:80-81", "192.0.2.11:80-81"], "90-91", (None, 10)),
        (["192.0.2.10:80", "192.0.2.11:443"], "+8000", (None, 8000)),
        (["192.0.2.10:80", "192.0.2.11:80"], "+8000", (8080, 0)),
        ("*:80", "+8000", (8080, 0)),
    ],
)
def test_what_it_comes_to(listen: Any, port: Any, found: tuple[int | None, int]) -> None:
    service = read(listen, port)
    (backend,) = service.backends
    assert (backend.port, backend.shift) == found
    again = read(listen, backend.given_port) if backend.given_port is not None else service
    assert again == service, "what is kept is read as it was"


def test_a_port_behind_the_address() -> None:
    declared = {"name": "web", "listen": "192.0.2.10:80-81, [2001:db8::10]:80-81"}
    backends = ["10.0.0.3:90-91", "[2001:db8:2::3]:+100"]
    found = parse_config([{**declared, "backends": backends}]).services[0].backends
    assert [(item.address, item.shift) for item in found] == [("10.0.0.3", 10), ("2001:db8:2::3", 100)]


def test_where_packets_of_backends_come_from() -> None:
    service = read(["192.0.2.10:80-89", "192.0.2.11:443"], "+1000")
    assert backend_ports([service], "ip") == {("tcp", "10.0.0.3"): [(1080, 1089), (1443, 1443)]}


def test_one_rule_of_iptables_leads_to_all() -> None:
    service = read(["192.0.2.10:80-89", "192.0.2.11:443"], "+1000")
    assert destination(service, service.backends[0]) == "10.0.0.3:1080-1443/80"
    six = read("[2001:db8::10]:80-89", "90-99", "2001:db8:2::3")
    assert destination(six, six.backends[0]) == "[2001:db8:2::3]:90-99/80"


def test_it_may_have_the_address_of_the_service_at_other_ports() -> None:
    assert read("192.0.2.10:80-89", "+10", "192.0.2.10").backends[0].shift == 10
