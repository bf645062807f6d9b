# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many clients a listing of nft knows, and from where on that is too many."""

from __future__ import annotations

from typing import Any

import pytest
from _natlb.model import clients
from _natlb.model.entities import Config
from _natlb.model.services import parse_config
from _natlb.nftables.clients import of_nftables

BACKENDS = [{"address": "10.0.0.3"}, {"address": "10.0.0.4"}]
LISTING = """table ip natlb {
    set rate.web/5 {
        typeof ip saddr
        size 20
        flags dynamic,timeout
        timeout 1m
        elements = { 198.18.0.1 limit rate over 5/second burst 5 packets timeout 1m expires 59s, 198.18.0.2 limit rate over 5/second burst 5 packets timeout 1m expires 58s,
                198.18.0.3 limit rate over 5/second burst 5 packets timeout 1m expires 57s }
    }

    set connections.web/2 {
        typeof ip saddr
        size 20    # count 1
        flags dynamic
        elements = { 198.18.0.1 ct count over 2 }
    }

    set affinity.web.10.0.0.3 {
        typeof ip saddr
        size 20
        flags dynamic,timeout
    }

    set affinity.web.10.0.0.4 {
        typeof ip saddr
        size 20
        flags dynamic,timeout
        elements = { 198.18.0.1 timeout 1m expires 59s, 198.18.0.2 timeout 1m expires 59s }
    }

    set backends {
        type ipv4_addr . inet_proto . inet_service
        elements = { 10.0.0.3 . 6 . 80, 10.0.0.4 . 6 . 80 }
    }
}
""".replace("    ", "\t")  # nft prints tabs.  # noqa: E501


def config(**keys: Any) -> Config:
    return parse_config([{"name": "web", "listen": "192.0.2.10:80", "backends": BACKENDS, **keys}])


def test_the_sets_of_a_listing() -> None:
    asked = config(affinity=60, max_connections_per_client=2, new_connections_per_second=5)
    found = of_nftables(asked, LISTING)
    assert clients.shown(asked.services[0], found) == {
        "affinity": {"count": 2, "max": 20},
        "max_connections_per_client": {"count": 1, "max": 20},
        "new_connections_per_second": {"count": 3, "max": 20},
    }


def test_what_is_off_or_not_there_is_null() -> None:
    asked = config(affinity=60)
    assert clients.shown(asked.services[0], of_nftables(asked, "")) == {
        "affinity": None,
        "max_connections_per_client": None,
        "new_connections_per_second": None,
    }
    assert of_nftables(config(), LISTING) == {}


@pytest.mark.parametrize(
    ("count", "beyond", "warned"), [(79, "more", 0), (80, "more", 1), (100, "more", 1), (100, "", 0)]
)
def test_a_warning_from_80_percent_on(count: int, beyond: str, warned: int) -> None:
    assert len(list(clients.warnings({("web", "affinity"): clients.Known(count, 100, beyond)}))) == warned
