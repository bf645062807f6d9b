# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a change does to connections that are under way: UDP leaves a backend that is gone, TCP is never cut."""

from __future__ import annotations

import pytest
from kernel_lab import traffic
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.topology import BACK, VIP, VIP6, WEB6

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
    rules = "table ip other { chain post { type nat hook postrouting priority 110; udp dport 53 masquerade random; }; }"
    balancer.host.run("nft", "-f", "-", stdin=rules)
    balancer.apply([service(protocol="udp", listen=f"{VIP}:53", backends=webs("web1", "web2"))])
    ((handle, before),) = balancer.hold("10.0.0.4:53", protocol="udp")
    assert before.name == "web2"
    balancer.apply([service(protocol="udp", listen=f"{VIP}:53", backends=webs("web1"))])
    assert balancer.talk(handle)[:3] == before[:3]


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
