# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `balancer_info` says, against what the clients saw."""

from __future__ import annotations

import pytest
from _natlb.errors import NatlbError
from kernel_lab.balancer import Balancer, Mapping, service, webs, weighted
from kernel_lab.topology import BACK, FRONT, NAMES, VIP, WEB6

#: An address of the backends' network that nobody has.
AWAY = "10.0.0.99"


def counts(balancer: Balancer, name: str, key: str = "new_connections") -> Mapping:
    (found,) = balancer.info(name)["services"]
    return {backend["name"]: backend[key] for backend in found["backends"]}


@pytest.mark.parametrize("method", ["round_robin", "random", "source_hash"])
@pytest.mark.parametrize("listen", [f"{VIP}:80", f"{FRONT}:9000-9003", "*:30080"])
def test_new_connections_are_what_the_client_counts(balancer: Balancer, method: str, listen: str) -> None:
    balancer.apply([service(method=method, listen=listen, backends=weighted_to(8080, web1=3, web2=1))])
    target = listen.replace("*", FRONT).partition("-")[0]
    sources = [f"198.18.0.{i}" for i in range(1, 41)]
    seen = balancer.tally(target, 40, sources=sources)
    assert counts(balancer, "web") == {"web1": seen["web1"], "web2": seen["web2"]}
    assert sum(seen.values()) == 40


def weighted_to(port: int, **weights: int) -> list[Mapping]:
    return [{**backend, "port": port} for backend in weighted(**weights)]


@pytest.mark.parametrize("keys", [{"affinity": 60}, {"allow_from": "198.18.0.0/16"}, {"interface": "front"}], ids=str)
def test_new_connections_with_options(balancer: Balancer, keys: Mapping) -> None:
    balancer.apply([service(protocol=["tcp", "udp"], **keys)])
    sources = [f"198.18.0.{i}" for i in range(1, 13)]
    seen = balancer.tally(count=24, sources=sources) + balancer.tally(count=12, sources=sources, protocol="udp")
    assert counts(balancer, "web") == dict(seen)


def test_active_connections(balancer: Balancer) -> None:
    balancer.apply([service(), service("other", listen=f"{VIP}:8080", protocol=["tcp", "udp"], backends=webs("web1"))])
    balancer.hold(count=6)
    balancer.hold(f"{VIP}:8080", 2)
    balancer.hold(f"{VIP}:8080", 3, protocol="udp")
    active = counts(balancer, "web", "active_connections")
    assert sorted(active.values()) == [1, 1, 2, 2]
    assert set(active) == set(NAMES)
    assert counts(balancer, "other", "active_connections") == {"web1": 5}


def test_the_whole_answer(balancer: Balancer) -> None:
    backends = [*weighted(web1=3, web2=1), *webs("web3", state="drained"), {"address": WEB6["web4"], "backup": True}]
    balancer.apply([service(listen=["*:8080"], backends=backends), service("other", snat=[BACK, AWAY, "198.51.100.7"])])
    answer = balancer.info()
    assert (answer["engine"], answer["forwarding"], answer["drift"]) == (balancer.engine, True, False)
    assert [found["name"] for found in answer["services"]] == ["web", "other"]
    assert [found["snat_elsewhere"] for found in answer["services"]] == [[], [AWAY]], "the last one may be routed here"
    first = answer["services"][0]
    assert (first["listen"], first["method"]) == (["*:8080"], "round_robin")
    assert [backend["expected_share"] for backend in first["backends"]] == [0.75, 0.25, 0, 1]
    assert [backend["state"] for backend in first["backends"]] == ["active", "active", "drained", "active"]
    assert [backend["weight"] for backend in first["backends"]] == [3, 1, 1, 1]


def test_drift_shows(balancer: Balancer) -> None:
    balancer.apply([service()])
    before = balancer.snapshot()
    assert balancer.info()["drift"] is False
    balancer.host.sysctl({"ipv4/ip_forward": 0})
    answer = balancer.info()
    assert (answer["drift"], answer["forwarding"]) == (True, False)
    balancer.host.sysctl({"ipv4/ip_forward": 1})
    if balancer.nftables:
        balancer.host.run("nft", "flush", "chain", "ip", "natlb", "prerouting")
    else:
        balancer.host.run(f"iptables-{balancer.variant}", "-w", "10", "-t", "nat", "-D", "PREROUTING", "1")
    assert balancer.info()["drift"] is True
    balancer.apply([service()])
    assert balancer.info()["drift"] is False
    assert balancer.snapshot() == before, "asking changes nothing"


def test_a_bare_host(balancer: Balancer) -> None:
    before = balancer.snapshot()
    answer = balancer.info()
    assert (answer["services"], answer["drift"]) == ([], False)
    assert balancer.snapshot() == before
    with pytest.raises(NatlbError, match="web"):
        balancer.info("web")


@pytest.mark.engines("iptables-nft", "iptables-legacy")
def test_shares_of_weights_that_slots_could_not_hold(balancer: Balancer) -> None:
    """iptables draws by weight: 300 backends of weights without a common divisor need no table there."""
    backends = [{"address": f"10.7.{i // 200}.{i % 200 + 1}", "weight": 256 - i % 3} for i in range(300)]
    balancer.apply([service(method="random", backends=backends)])
    (found,) = balancer.info()["services"]
    total = sum(backend["weight"] for backend in backends)
    shares = [backend["expected_share"] for backend in found["backends"]]
    assert shares == [round(backend["weight"] / total, 4) for backend in backends]
