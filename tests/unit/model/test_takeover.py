# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which services take established connections over, and the rules of both engines for it."""

from __future__ import annotations

from typing import Any

import pytest
from _natlb.iptables import render as by_iptables
from _natlb.model.entities import Config, Service
from _natlb.model.services import parse_config
from _natlb.model.slots import hash_slots, second_slots
from _natlb.model.surroundings import Surroundings
from _natlb.model.takeover import Obstacle, decides, obstacles, taking_over
from _natlb.model.transit import Closed
from _natlb.nftables import render as by_nftables
from _natlb.nftables.layout import lay_out
from _natlb.ruleset.sections import Ruleset
from _natlb.warnings.loose import warning

WEB: dict[str, Any] = {
    "name": "web",
    "listen": "192.0.2.10:80",
    "snat": "none",
    "method": "flow_hash",
    "backends": ["10.0.0.3:8080", "10.0.0.4:8080"],
}
AROUND = Surroundings(closed={"ip": Closed(("eth0", "eth1")), "ip6": Closed(("eth0", "eth1"))})


def config(*changes: dict[str, Any]) -> Config:
    return parse_config([{**WEB, **change} for change in changes])


def names(*changes: dict[str, Any]) -> list[str]:
    return sorted(taking_over(config(*changes).services))


@pytest.mark.parametrize("method", ["source_hash", "flow_hash", "destination_hash"])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"takeover": True},
        {"protocol": ["tcp", "udp"]},
        {"allow_from": "198.51.100.0/24", "new_connections_per_second": 5, "max_connections_per_client": 5},
        {"pins": [{"client": "198.51.100.0/24", "backend": "10.0.0.3"}]},
        # A backend that keeps the port tells each frontend by it; the families have nothing in common.
        {"listen": ["192.0.2.10:80", "192.0.2.10:443"], "backends": ["10.0.0.3"]},
        {"listen": ["192.0.2.10:80", "[2001:db8::10]:80"], "backends": ["10.0.0.3:8080", "[2001:db8:2::3]:8080"]},
        {"backends": [{"address": "10.0.0.3", "state": "drained"}, {"address": "10.0.0.4", "backup": True}]},
    ],
)
def test_by_default_where_it_is_safe(method: str, change: dict[str, Any]) -> None:
    assert names({"method": method, **change}) == ["web"]


@pytest.mark.parametrize(
    "change",
    [
        {"takeover": False},
        {"protocol": "udp"},
        {"snat": "masquerade"},
        {"snat": "10.0.0.21"},
        {"method": "round_robin"},
        {"method": "random"},
        {"method": "least_connections"},
        {"affinity": 60},
        {"backends": [{"address": "10.0.0.3", "max_connections": 5}]},
        {"listen": "*:80"},
        {"listen": "192.0.2.10:80-81"},
        {"interface": "eth0"},
        # Two frontends of one service, and one place behind them.
        {"listen": ["192.0.2.10:80", "192.0.2.11:80"]},
        {"listen": ["192.0.2.10:80", "192.0.2.10:443"]},
    ],
)
def test_not_by_default_where_it_is_not(change: dict[str, Any]) -> None:
    assert names(change) == []


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ({"listen": "192.0.2.11:80"}, []),
        ({"listen": "192.0.2.11:80", "takeover": False}, []),
        ({"listen": "192.0.2.11:80", "method": "random"}, []),
        ({"listen": "*:8080", "backends": "10.0.0.4"}, []),
        ({"listen": "192.0.2.11:8000-8100", "backends": "10.0.0.4"}, []),
        ({"listen": "192.0.2.11:8000-8079", "backends": "10.0.0.4"}, ["web"]),
        ({"listen": "192.0.2.11:80", "backends": "10.0.0.4:8081"}, ["other", "web"]),
        ({"listen": "192.0.2.11:80", "backends": "10.0.0.5:8080"}, ["other", "web"]),
        # Its backends answer the balancer.
        ({"listen": "192.0.2.11:80", "snat": "masquerade"}, ["web"]),
        ({"listen": "192.0.2.10:80", "protocol": "udp"}, ["web"]),
    ],
)
def test_who_shares_a_place_with_another_frontend(other: dict[str, Any], found: list[str]) -> None:
    assert names({}, {"name": "other", **other}) == found


def test_why_a_service_does_not_take_over() -> None:
    found = obstacles(config({}, {"name": "other", "listen": "192.0.2.11:80", "takeover": False}).services)
    assert found["web"] == Obstacle(
        "10.0.0.3:8080 is behind tcp 192.0.2.10:80 and tcp 192.0.2.11:80 (service other), so its packets may be of "
        "either",
        "let each frontend have a port of its own there",
        "other",
    )
    assert str(found["other"]) == "takeover: false is declared (leave it out)"
    (own,) = obstacles(config({"listen": ["192.0.2.10:80", "192.0.2.11:80"]}).services).values()
    assert (own.sharing, "(service" in own.problem) == ("web", False)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"backends": [{"address": "10.0.0.3:8080", "state": "drained"}, "10.0.0.4:8080"]}, True),
        ({"backends": [{"address": "10.0.0.3:8080", "weight": 5}, "10.0.0.4:8080"]}, True),
        ({"backends": ["10.0.0.3:8080", "10.0.0.4:8081"]}, False),
        ({"snat": "masquerade"}, False),
        ({"takeover": False}, False),
        ({"method": "random"}, False),
        ({"listen": "192.0.2.10:81"}, False),
    ],
)
def test_what_may_change_it(change: dict[str, Any], same: bool) -> None:
    (one,), (other,) = config({}).services, config(change).services
    assert (decides(one) == decides(other)) is same


def test_some_services_are_rendered_by_themselves_only_while_the_same_are_taken_over() -> None:
    before = config({}, {"name": "other", "listen": "192.0.2.11:81", "backends": "10.0.0.4:8081"})
    for after, alone in ((before, True), (config({}, {"name": "other", "listen": "192.0.2.11:81"}), False)):
        one, other = before.services[1:], after.services[1:]
        layout = by_nftables.SomeServices(lay_out(before), AROUND)
        assert (layout.after(one, other, after.services) is not None) is alone
        sharing = by_iptables.SomeServices(before.mark_mask, AROUND, by_iptables.Sharing.of(before))
        assert (sharing.after(one, other, after.services) is not None) is alone


def chain(ruleset: Ruleset, table: str, name: str, family: str = "ip") -> list[str]:
    return [line.removeprefix(f"-A {name} ") for line in ruleset[family, table, "chain", name].body]


def test_the_rules_of_nftables() -> None:
    found = by_nftables.render(config({}), AROUND)
    assert chain(found, "natlb", "postrouting")[-1] == (
        "tcp flags & (syn | rst) == 0x0 snat ip to ip saddr . tcp sport map @takeover"
    )
    assert found["ip", "natlb", "map", "takeover"].body == (
        "10.0.0.3 . 8080 : 192.0.2.10 . 80",
        "10.0.0.4 . 8080 : 192.0.2.10 . 80",
    )
    transit = chain(found, "natlb", "transit")
    assert transit.index("tcp flags & (syn | rst) == 0x0 ip saddr . tcp sport @taken_over accept") == len(transit) - 2
    assert found["ip", "natlb", "set", "taken_over"].body == ("10.0.0.3 . 8080", "10.0.0.4 . 8080")


def test_the_rules_of_iptables() -> None:
    found = by_iptables.render(config({}), AROUND)
    assert chain(found, "nat", "NATLB.post")[-1] == "-p tcp -m tcp --tcp-flags SYN,RST NONE -j NATLB..t.tcp"
    assert chain(found, "nat", "NATLB..t.tcp") == [
        "-s 10.0.0.3/32 -p tcp -m tcp --sport 8080 -j SNAT --to-source 192.0.2.10:80",
        "-s 10.0.0.4/32 -p tcp -m tcp --sport 8080 -j SNAT --to-source 192.0.2.10:80",
    ]
    transit = chain(found, "filter", "NATLB.transit")
    assert transit[-2] == "-p tcp -m tcp --tcp-flags SYN,RST NONE -g NATLB..under.way"
    assert transit[-1].endswith(" -j NATLB..transit.in")
    assert chain(found, "filter", "NATLB..under.way") == [
        "-s 10.0.0.3/32 -p tcp -m tcp --sport 8080 -j RETURN",
        "-s 10.0.0.4/32 -p tcp -m tcp --sport 8080 -j RETURN",
        "-j NATLB..transit.in",
    ]


def test_ipv6() -> None:
    change = {"listen": "[2001:db8::10]:80", "backends": "[2001:db8:2::3]:8080"}
    found = by_nftables.render(config(change))
    assert found["ip6", "natlb", "map", "takeover"].body == ("2001:db8:2::3 . 8080 : 2001:db8::10 . 80",)
    (rule,) = chain(by_iptables.render(config(change)), "nat", "NATLB..t.tcp", "ip6")
    assert rule == "-s 2001:db8:2::3/128 -p tcp -m tcp --sport 8080 -j SNAT --to-source [2001:db8::10]:80"


def fleet(count: int, out: tuple[int, ...] = (), weight: int = 1) -> Service:
    """`out` are drained, and the first one has this weight."""
    found = [
        {"address": f"10.0.0.{n}", "state": "drained" if n in out else "active", "weight": 1 if n > 1 else weight}
        for n in range(1, count + 1)
    ]
    return config({"backends": found}).services[0]


def found_again(before: Service, after: Service) -> float:
    """The share of the slots whose backend the new table finds, at the first time or the second."""
    (old, first), (new, second) = hash_slots(before, "ip"), hash_slots(after, "ip")
    owners = [{new[one].address, new[two].address} for one, two in zip(second, second_slots(after, "ip"), strict=True)]
    size = max(len(first), len(owners))
    return (
        sum(old[first[i * len(first) // size]].address in owners[i * len(owners) // size] for i in range(size)) / size
    )


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [
        (fleet(4), fleet(4), 1),
        (fleet(4), fleet(4, out=(2,)), 1),
        (fleet(4, out=(2,)), fleet(4), 1),
        (fleet(4, out=(2,)), fleet(4, out=(2,)), 1),
        (fleet(4, out=(2,)), fleet(4, out=(3,)), 1),
        (fleet(10), fleet(10, out=(2, 5)), 1),
        (fleet(1), fleet(2), 1),
        (fleet(3), fleet(4), 0.99),
        (fleet(9), fleet(10), 0.98),
        (fleet(49), fleet(50), 0.975),
        (fleet(4), fleet(4, weight=2), 0.99),
        # What began on two backends that the other balancer does not have, or has not told of.
        (fleet(2), fleet(4), 0.8),
        (fleet(4), fleet(3), 0.74),
    ],
)
def test_who_is_found_at_the_second_time(before: Service, after: Service, share: float) -> None:
    assert found_again(before, after) >= share


def test_the_second_one_is_another() -> None:
    for service in (fleet(2), fleet(4, out=(1,)), fleet(20)):
        known, first = hash_slots(service, "ip")
        assert len(known) == len(service.backends)
        assert not any(one == two for one, two in zip(first, second_slots(service, "ip"), strict=True))


@pytest.mark.parametrize("engine", [by_nftables, by_iptables])
def test_what_is_not_used_has_no_rule(engine: Any) -> None:
    off = {"takeover": False, "new_connections_per_second": 5}
    text = str(engine.render(config(off), AROUND))
    assert not any(
        word in text for word in ("takeover", "taken_over", "NATLB..t.", "under.way", "syn == syn", "SYN SYN")
    )
    masquerading = {"snat": "masquerade"}
    assert engine.render(config({"takeover": False, **masquerading})) == engine.render(config(masquerading))


def test_a_limit_of_new_connections_is_for_what_begins() -> None:
    change = {"new_connections_per_second": 5, "protocol": ["tcp", "udp"]}
    found = by_nftables.render(config(change))
    limit = "update @rate.web/5 { ip saddr limit rate over 5/second burst 5 packets } goto refuse"
    assert f"tcp flags & syn == syn {limit}" in chain(found, "natlb", "s.web.tcp")
    assert limit in chain(found, "natlb", "s.web.udp")
    guard = chain(by_iptables.render(config(change)), "nat", "NATLB.web.guard")
    assert [rule.partition(" -m hashlimit")[0] for rule in guard] == ["-p tcp -m tcp --tcp-flags SYN SYN", "! -p tcp"]


def test_a_host_that_takes_nothing_over() -> None:
    assert warning({"web"}).startswith("service web: net/netfilter/nf_conntrack_tcp_loose is 0 here, so established")
    assert warning({"a", "b", "d", "c"}).startswith("service a, b, c and 1 more: ")
