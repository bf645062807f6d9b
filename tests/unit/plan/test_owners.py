# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which service a tracked connection is of, where several listen on what its client asked for."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from _natlb.errors import ConfigErrors
from _natlb.host import proc, tracked
from _natlb.host.tracked import Tracked
from _natlb.model.entities import Config, Service
from _natlb.model.precedence import Packet, winner
from _natlb.model.services import parse_config
from _natlb.plan import backend_connections
from _natlb.plan.backend_connections import BackendConnections
from _natlb.plan.stale_flows import Frontends

VIP = "192.0.2.10"
LOCAL = {VIP, "192.0.2.11", "127.0.0.1"}
INTERFACES = (None, "eth0", "eth1")
#: Of a connection both of whose ends are there: translated, answered, not opening, active.
LIVE = (True, True, False, True)


def service(name: str, listen: str, backend: str = "10.0.0.3", **keys: Any) -> dict[str, Any]:
    return {"name": name, "listen": listen, "backends": [backend], **keys}


def anything(chance: random.Random) -> Config:
    found: list[dict[str, Any]] = []
    for number in range(25):
        low = chance.randint(1, 20)
        ports = str(low) if chance.random() < 0.5 else f"{low}-{chance.randint(low, 20)}"
        where = chance.choice(["*", VIP, "192.0.2.12", "0.0.0.0/0", "192.0.2.0/24", "192.0.2.12/30"])
        one = service(f"s{number}", f"{where}:{ports}")
        interface = chance.choice(INTERFACES)
        try:
            parse_config([*found, {**one, **({"interface": interface} if interface else {})}])
        except ConfigErrors:
            continue
        found.append({**one, **({"interface": interface} if interface else {})})
    return parse_config(found)


def test_found_as_a_packet_finds_it() -> None:
    """The first one that is open to the interface is the one that takes the packet; and no other is named in vain."""
    chance = random.Random(3)
    for _round in range(25):
        config = anything(chance)
        owners = {frontend: item.name for item in config.services for frontend in item.frontends()}
        known = Frontends(config, "tcp", LOCAL)
        for port in range(1, 22):
            for address in (VIP, "192.0.2.11", "192.0.2.12", "127.0.0.1"):
                named, every = set(), set()
                for interface in (*INTERFACES, "eth2"):
                    found = known.find("ip", address, port, VIP if interface is None else "198.51.100.9")
                    every |= {item.name for item in found if interface}
                    won = winner(owners, Packet("ip", "tcp", address, port, address in LOCAL, interface))
                    first = next((item.name for item in found if item.interface in (None, interface)), None)
                    assert first == (None if won is None else owners[won])
                    named |= {first} if interface or address in LOCAL else set()
                assert every == named - {None}


@pytest.mark.parametrize("narrow", [f"{VIP}:80", "*:80", f"{VIP}:80-85"])
def test_a_connection_from_before_the_more_specific_one(narrow: str) -> None:
    config = parse_config([service("wide", "*:70-90"), service("narrow", narrow, "10.0.0.4")])
    known = Frontends(config, "tcp", LOCAL)

    def owner(backend: str, port: int = 80) -> list[str]:
        return [item.name for item in known.owners("ip", (VIP, port), (backend, port))]

    assert owner("10.0.0.4") == ["narrow"]
    assert owner("10.0.0.3") == ["wide"], "it began before"
    assert owner("10.0.0.4", 79) == []
    assert owner("10.0.0.5") == []


def test_a_backend_in_common_is_the_more_specific_ones() -> None:
    known = Frontends(parse_config([service("wide", "*:80"), service("narrow", f"{VIP}:80")]), "tcp", LOCAL)
    assert [item.name for item in known.owners("ip", (VIP, 80), ("10.0.0.3", 80))] == ["narrow"]
    assert [item.name for item in known.owners("ip", ("192.0.2.11", 80), ("10.0.0.3", 80))] == ["wide"]


def test_a_service_that_is_asked_about_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes its connections away is one of all that are declared."""
    wide, narrow = parse_config([service("wide", "*:80"), service("narrow", f"{VIP}:80")]).services
    seen = {
        address: Tracked("ip", "tcp", "192.0.2.100", (address, 80), ("10.0.0.3", 80), *LIVE, b"", b"")
        for address in (VIP, "192.0.2.11")
    }
    monkeypatch.setattr(tracked, "of_backend", lambda *_asked: list(seen.values()))
    monkeypatch.setattr(proc, "local_addresses", lambda: LOCAL)

    def counts(one: Service, *declared: Service) -> tuple[int, int]:
        known = BackendConnections(declared)
        places = [place for place, _original in known.active_of([one])]
        assert {place.service for place in places} <= {one.name}
        return known.count([one], "10.0.0.3").active, len(places)

    assert counts(wide, wide, narrow) == (1, 1)
    assert counts(narrow, wide, narrow) == (1, 1)
    assert counts(wide, wide) == (2, 2)


RANGE = f"{VIP}:8000-8010"
TWO_AT_ONE_ADDRESS = {
    "ports of their own": [{"address": "10.0.0.3", "port": 81}, {"address": "10.0.0.3", "port": 82}],
    "a shift and a port of its own": [{"address": "10.0.0.3", "port": "+1000"}, {"address": "10.0.0.3", "port": 9105}],
    "no port and one of its own": [{"address": "10.0.0.3"}, {"address": "10.0.0.3", "port": 9105}],
}


@pytest.mark.parametrize("interface", [None, "eth0"])
@pytest.mark.parametrize("kind", TWO_AT_ONE_ADDRESS)
def test_two_backends_at_one_address_behind_a_range(
    monkeypatch: pytest.MonkeyPatch, kind: str, interface: str | None
) -> None:
    """An order for both has the connections of both, one for either has its own alone."""
    keys = {"interface": interface} if interface else {}
    backends = [{"name": f"b{number}", **item} for number, item in enumerate(TWO_AT_ONE_ADDRESS[kind])]
    (whole,) = parse_config([{"name": "one", "listen": RANGE, "backends": backends, **keys}]).services
    seen = [
        Tracked("ip", "tcp", "192.0.2.100", (VIP, asked), (item.address, item.port_at(asked)), *LIVE, original, b"")
        for item, asked, original in zip(whole.backends, (8002, 8003), (b"0", b"1"), strict=True)
    ]
    monkeypatch.setattr(
        tracked, "of_backend", lambda _f, _p, _a, port: [item for item in seen if port in (None, item.backend[1])]
    )
    monkeypatch.setattr(proc, "local_addresses", lambda: LOCAL)
    ended: list[bytes] = []
    monkeypatch.setattr(tracked, "delete", lambda items: ended.extend(item.original for item in items))
    known = BackendConnections([whole])
    each = [replace(whole, backends=(backend,)) for backend in whole.backends]
    for given, wanted in ((each, [b"0", b"1"]), (each[:1], [b"0"]), (each[1:], [b"1"]), ([whole], [b"0", b"1"])):
        assert known.count(given, "10.0.0.3").active == len(wanted)
        known.end_all(given, "10.0.0.3")
        assert sorted(ended) == wanted
        ended.clear()
        places = {original: place for place, original in known.active_of(given)}
        assert sorted(places) == wanted
        assert all(places[b"%d" % n].port == b.port for n, b in enumerate(whole.backends) if b"%d" % n in places)


def test_it_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look may come each second, and of ten thousand services that would take a tenth of it."""
    declared = parse_config([service("wide", "*:80"), service("narrow", f"{VIP}:80")]).services
    known = BackendConnections(declared)
    monkeypatch.setattr(backend_connections, "Frontends", None)
    monkeypatch.setattr(tracked, "of_backend", lambda *_asked: [])
    assert known.count(declared, "10.0.0.3").active == 0
    assert not list(known.active_of(declared))
    assert known.end_attempts(declared, "10.0.0.3") == 0
