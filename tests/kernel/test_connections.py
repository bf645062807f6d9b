# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a change does to connections that are under way: UDP leaves a backend that is gone, TCP is never cut."""

from __future__ import annotations

import pytest
from kernel_lab import traffic
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.topology import BACK, CLIENT, VIP, VIP6, WEB6

GONE: list[tuple[str, list[Mapping]]] = [
    ("removed", webs("web1")),
    ("disabled", [*webs("web1"), *webs("web2", state="disabled")]),
]


def flow_to(balancer: Balancer, name: str, target: str = f"{VIP}:80", protocol: str = "udp") -> int:
    """A running flow that this backend serves."""
    for handle, answer in balancer.hold(target, 8, protocol=protocol):
        if answer.name == name:
            return handle
    raise AssertionError(f"{name} got none of eight flows")


@pytest.mark.parametrize("snat", ["masquerade", "none"])
@pytest.mark.parametrize("backends", [item for _name, item in GONE], ids=[name for name, _item in GONE])
def test_a_udp_flow_leaves_a_backend_that_is_gone(balancer: Balancer, snat: str, backends: list[Mapping]) -> None:
    balancer.apply([service(protocol="udp", snat=snat, backends=webs("web1", "web2"))])
    handle = flow_to(balancer, "web2")
    balancer.apply([service(protocol="udp", snat=snat, backends=backends)])
    assert balancer.talk(handle).name == "web1"


def test_a_udp_flow_leaves_over_ipv6(balancer: Balancer) -> None:
    backends = [{"address": WEB6["web1"]}, {"address": WEB6["web2"]}]
    balancer.apply([service(listen=f"[{VIP6}]:80", protocol="udp", backends=backends)])
    handle = flow_to(balancer, "web2", f"[{VIP6}]:80")
    balancer.apply([service(listen=f"[{VIP6}]:80", protocol="udp", backends=backends[:1])])
    assert balancer.talk(handle).name == "web1"


def test_a_udp_flow_follows_a_change_of_port(balancer: Balancer) -> None:
    balancer.apply([service(protocol="udp", backends=webs("web1"))])
    handle = flow_to(balancer, "web1")
    balancer.apply([service(protocol="udp", backends=webs("web1", port=8080))])
    assert balancer.talk(handle).local_port == 8080


@pytest.mark.parametrize("key", [{"state": "drained"}, {"weight": 0}], ids=str)
def test_a_udp_flow_stays_with_a_drained_backend(balancer: Balancer, key: Mapping) -> None:
    balancer.apply([service(protocol="udp", backends=webs("web1", "web2"))])
    handle = flow_to(balancer, "web2")
    balancer.apply([service(protocol="udp", backends=[*webs("web1"), *webs("web2", **key)])])
    assert balancer.talk(handle).name == "web2"
    assert balancer.tally(count=4, protocol="udp") == {"web1": 4}


def test_only_what_is_stale_is_deleted(balancer: Balancer) -> None:
    """Somebody else draws a port for each new flow, before ours would keep it: the same port means the same tracked
    flow."""
    rules = (
        "table ip other { chain post { type nat hook postrouting priority 90; udp dport != 0 masquerade random; }; }"
    )
    balancer.host.run("nft", "-f", "-", stdin=rules)
    declared = [service(protocol="udp"), service("other", listen=f"{VIP}:53", protocol="udp")]
    balancer.apply(declared)
    ((other, before),) = balancer.hold(f"{VIP}:53", protocol="udp")
    kept = flow_to(balancer, "web1")
    port = balancer.talk(kept).peer_port
    lost = flow_to(balancer, "web4")
    balancer.apply([service(protocol="udp", backends=webs("web1", "web2", "web3")), declared[1]])
    assert balancer.talk(lost).name != "web4"
    assert balancer.talk(kept)[:3] == ("web1", BACK, port)
    assert balancer.talk(other)[:3] == before[:3]


def test_other_peoples_flows_to_a_removed_backend_stay(balancer: Balancer) -> None:
    """A flow that goes straight to the address of a backend is none of ours."""
    balancer.host.sysctl({"ipv4/ip_forward": 1})
    rules = "table ip other { chain post { type nat hook postrouting priority 110; udp dport 53 masquerade random; }; }"
    balancer.host.run("nft", "-f", "-", stdin=rules)
    balancer.apply([service(protocol="udp", listen=f"{VIP}:53", backends=webs("web1", "web2"))])
    ((handle, before),) = balancer.hold("10.0.0.4:53", protocol="udp")
    assert before.name == "web2"
    balancer.apply([service(protocol="udp", listen=f"{VIP}:53", backends=webs("web1"))])
    assert balancer.talk(handle)[:3] == before[:3]


REDRAWN = "table ip other { chain post { type nat hook postrouting priority 90; udp dport != 0 masquerade random; }; }"


@pytest.mark.parametrize("change", [{}, {"name": "renamed"}, {"max_connections_per_client": 1}], ids=str)
def test_udp_flows_of_services_on_two_interfaces_stay(balancer: Balancer, change: Mapping) -> None:
    """Somebody else draws a port for each new flow: the same port means the same tracked flow."""
    balancer.host.run("nft", "-f", "-", stdin=REDRAWN)
    declared = [
        service("outside", protocol="udp", interface="front", backends=webs("web1")),
        service("inside", protocol="udp", interface="back", backends=webs("web3")),
    ]
    balancer.apply(declared)
    inside = balancer.lab.backends["web2"]
    ((outer, before),) = balancer.hold(protocol="udp")
    ((inner, inner_before),) = inside.call(traffic.hold, f"{VIP}:80", protocol="udp")
    balancer.hold(f"{VIP}:80", 2, protocol="udp")
    assert [found["backends"][0]["active_connections"] for found in balancer.info()["services"]] == [3, 1]
    for _unused in range(3):
        balancer.apply([{**declared[0], **change}, declared[1]])
        assert balancer.talk(outer)[:3] == before[:3]
        assert traffic.Answer(*inside.call(traffic.talk, inner))[:3] == inner_before[:3]


def test_a_backend_of_both_interfaces_is_counted_by_the_way_back(balancer: Balancer) -> None:
    balancer.apply([service(link, interface=link, backends=webs("web1")) for link in ("front", "back")])
    balancer.hold(count=3)
    balancer.lab.backends["web2"].call(traffic.hold, f"{VIP}:80", 2)
    assert [found["backends"][0]["active_connections"] for found in balancer.info()["services"]] == [3, 2]


TIGHTENED: list[Mapping] = [
    {"allow_from": ["192.0.2.0/28", "198.18.0.0/16"]},
    {"interface": "back"},
    {"protocol": "tcp"},
    {"backends": []},
    {"backends": [], "when_empty": "drop"},
]


@pytest.mark.parametrize("keys", TIGHTENED, ids=str)
def test_a_udp_flow_that_is_not_allowed_any_more_ends(balancer: Balancer, keys: Mapping) -> None:
    balancer.apply([service(protocol="udp"), service("other", listen=f"{VIP}:53", protocol="udp")])
    ((handle, _before),) = balancer.hold(protocol="udp")
    ((other, other_before),) = balancer.hold(f"{VIP}:53", protocol="udp")
    balancer.apply([service(**{"protocol": "udp", **keys}), service("other", listen=f"{VIP}:53", protocol="udp")])
    assert not balancer.client.call(traffic.talk, handle, timeout_s=0.3)[0]
    assert balancer.talk(other)[:3] == other_before[:3]


def test_of_many_udp_flows_those_end_that_are_not_allowed_any_more(balancer: Balancer) -> None:
    balancer.host.run("nft", "-f", "-", stdin=REDRAWN)
    balancer.apply([service(protocol="udp", backends=webs("web1"))])
    held = {
        source: balancer.hold(protocol="udp", source=source)[0]
        for source in [f"198.18.{third}.{last}" for third in (0, 1) for last in range(1, 31)]
    }
    balancer.apply([service(protocol="udp", backends=webs("web1"), allow_from="198.18.1.0/24")])
    assert balancer.info()["services"][0]["backends"][0]["active_connections"] == 30
    for source, (handle, before) in held.items():
        if source.startswith("198.18.1."):
            assert balancer.talk(handle)[:3] == before[:3]
    assert not balancer.client.call(traffic.talk, held["198.18.0.9"][0], timeout_s=0.3)[0]


@pytest.mark.parametrize(
    "rules", ["ct zone set 5", 'iifname "front" ct original zone set 5'], ids=["both ways", "one way"]
)
def test_a_udp_flow_in_a_zone_of_others(balancer: Balancer, rules: str) -> None:
    zone = f"table ip other {{ chain pre {{ type filter hook prerouting priority -300; udp dport != 0 {rules}; }}; }}"
    balancer.host.run("nft", "-f", "-", stdin=zone)
    balancer.apply([service(protocol="udp", backends=webs("web1"))])
    ((handle, _before),) = balancer.hold(protocol="udp")
    assert "zone" in balancer.host.run("conntrack", "-L", "-p", "udp")
    balancer.apply([service(protocol="udp", backends=webs("web2"))])
    assert balancer.talk(handle).name == "web2"


@pytest.mark.parametrize("state", ["present", "absent"])
def test_a_udp_flow_of_a_service_that_is_removed_ends(balancer: Balancer, state: str) -> None:
    balancer.apply([service(protocol="udp")])
    ((handle, _before),) = balancer.hold(protocol="udp")
    balancer.apply([service("other", listen=f"{VIP}:53")] if state == "present" else [], state=state)
    assert not balancer.client.call(traffic.talk, handle, timeout_s=0.3)[0]


@pytest.mark.parametrize(
    ("before", "after", "seen"),
    [("masquerade", "none", CLIENT), ("none", "masquerade", BACK), ("none", "10.0.0.200", "10.0.0.200")],
)
def test_a_udp_flow_follows_a_change_of_source_nat(balancer: Balancer, before: str, after: str, seen: str) -> None:
    """A sender that never pauses would be seen as another for ever."""
    balancer.host.ip("address add 10.0.0.200/32 dev back")
    balancer.apply([service(protocol="udp", snat=before)])
    ((handle, _before),) = balancer.hold(protocol="udp")
    balancer.apply([service(protocol="udp", snat=after)])
    assert balancer.talk(handle).peer == seen


def test_limits_hold_for_new_udp_flows(balancer: Balancer) -> None:
    """Of flows that are there it would have to be said which of them go: all stay, as those of TCP do."""
    balancer.apply([service(protocol="udp")])
    held = balancer.hold(count=4, protocol="udp")
    balancer.apply([service(protocol="udp", new_connections_per_second=1)])
    assert [balancer.talk(handle)[:3] for handle, _answer in held] == [answer[:3] for _handle, answer in held]


CHANGES: list[list[Mapping]] = [
    [service(backends=webs("web1"))],
    [service(backends=webs("web3", "web4"))],
    [service(backends=[*webs("web1"), *webs("web2", state="disabled")])],
    [service(method="source_hash", backends=webs("web1"))],
    [service(allow_from=["203.0.113.0/24"], backends=webs("web1"))],
    [service(backends=[])],
    [service("renamed", backends=webs("web1", port=8080))],
    [service("other", listen=f"{VIP}:8080")],
]


@pytest.mark.parametrize("snat", ["masquerade", "none"])
def test_tcp_is_never_cut(balancer: Balancer, snat: str) -> None:
    balancer.apply([service(snat=snat, backends=webs("web1", "web2"))])
    held = balancer.hold(count=6)
    for change in CHANGES:
        balancer.apply([{**declared, "snat": snat} for declared in change])
        for handle, before in held:
            assert balancer.talk(handle)[:5] == before[:5], change


def test_tcp_survives_the_removal_of_another_service(balancer: Balancer) -> None:
    balancer.apply([service(backends=webs("web1", "web2")), service("other", listen=f"{VIP}:8080")])
    held = balancer.hold(count=4)
    balancer.apply([service(backends=webs("web1", "web2"))])
    balancer.apply([service(backends=webs("web1", "web2")), service("other", listen=f"{VIP}:8080")])
    assert [balancer.talk(handle)[:5] for handle, _unused in held] == [before[:5] for _unused, before in held]


def test_a_new_connection_follows_the_change_at_once(balancer: Balancer) -> None:
    for name in ("web1", "web2", "web3"):
        balancer.apply([service(backends=webs(name), protocol=["tcp", "udp"])])
        assert balancer.tally(count=3) == {name: 3}
        assert balancer.tally(count=3, protocol="udp") == {name: 3}


def test_a_running_udp_client_finds_a_service_that_comes_later(balancer: Balancer) -> None:
    balancer.apply([service("other", listen=f"{VIP}:53", protocol="udp")])
    balancer.host.ip(f"address add {VIP}/32 dev front")
    lost = balancer.client.call(traffic.ask, f"{VIP}:80", protocol="udp", timeout_s=0.2, first_source_port=40001)
    assert lost[0].error
    balancer.apply([service("other", listen=f"{VIP}:53", protocol="udp"), service(protocol="udp")])
    found = balancer.client.call(traffic.ask, f"{VIP}:80", protocol="udp", first_source_port=40001)
    assert found[0].name, "the flow was tracked before the service was there"
