# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random and hashes: the right shares, and clients that stay where they are."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Sequence

import pytest
from _natlb.model import slots
from _natlb.model.services import parse_config
from _natlb.nftables.hashes import SEED
from benchmarks import benchmark
from kernel_lab.balancer import Balancer, Mapping, service, webs, weighted
from kernel_lab.statistics import p_value
from kernel_lab.topology import NAMES, TEN, VIP, VIP6, WEB6

SAMPLE = 3000
#: What is left to chance must look right; what is not would look wrong about never.
SIGNIFICANCE = 0.001
CLIENTS = [f"198.18.{i // 200}.{i % 200 + 1}" for i in range(SAMPLE)]
HASHES = ("source_hash", "flow_hash")
#: Moved clients of the other nine when one of ten backends leaves the list.
MOST_MOVED = 0.025


def fits(seen: Counter[str], weights: dict[str, int], label: str) -> bool:
    p = p_value(seen, weights)
    print(f"{label}: {dict(sorted(seen.items()))} p = {p:.3f}")
    return sum(seen.values()) == SAMPLE and p > SIGNIFICANCE


@pytest.mark.parametrize("weights", [dict.fromkeys(NAMES, 1), {"web1": 5, "web2": 3, "web3": 2}])
def test_random_has_the_right_shares(balancer: Balancer, weights: dict[str, int]) -> None:
    balancer.apply([service(method="random", backends=weighted(**weights))])
    # Each sample of a right spread fails one time in a thousand, so one in a million fails both.
    assert any(fits(balancer.tally(count=SAMPLE), weights, balancer.engine) for _unused in range(2))


@pytest.mark.parametrize("method", HASHES)
@pytest.mark.parametrize("weights", [dict.fromkeys(NAMES, 1), {"web1": 4, "web2": 2, "web3": 2}])
def test_hashes_have_the_right_shares(balancer: Balancer, method: str, weights: dict[str, int]) -> None:
    balancer.apply([service(method=method, backends=weighted(**weights))])
    if method == "source_hash":
        seen = balancer.tally(count=SAMPLE, sources=CLIENTS)
    else:
        seen = balancer.tally(count=SAMPLE, sources=CLIENTS[:3], first_source_port=20000)
    assert fits(seen, weights, f"{balancer.engine} {method}")


def test_source_hash_looks_at_the_address_only(balancer: Balancer) -> None:
    balancer.apply([service(method="source_hash")])
    for client in CLIENTS[:20]:
        assert len(balancer.tally(count=5, sources=[client])) == 1


def test_flow_hash_looks_at_the_port_as_well(balancer: Balancer) -> None:
    """Two listening ports, so that no connection is opened twice: an address and a port lead to one backend on both."""
    balancer.apply([service(method="flow_hash", listen=[f"{VIP}:80", f"{VIP}:8080"])])
    one, two = (
        [answer.who for answer in balancer.ask(f"{VIP}:{port}", 40, sources=CLIENTS[:1], first_source_port=30000)]
        for port in (80, 8080)
    )
    assert one == two
    assert len(set(one)) == 4


def test_flow_hash_over_ipv6_and_udp(balancer: Balancer) -> None:
    backends = [{"address": address} for address in WEB6.values()]
    listen = [f"[{VIP6}]:80", f"[{VIP6}]:8080"]
    balancer.apply([service(method="flow_hash", listen=listen, protocol=["tcp", "udp"], backends=backends)])
    for protocol in ("tcp", "udp"):
        ports = {"first_source_port": 30000, "sources": ["2001:db8:18::7"], "protocol": protocol}
        one, two = ([a.name for a in balancer.ask(f"[{VIP6}]:{port}", 40, **ports)] for port in (80, 8080))
        assert one == two
        assert set(one) == set(NAMES)


def test_options_of_a_header_do_not_hide_the_port(balancer: Balancer) -> None:
    """The port stands behind the options of an IPv4 header, however long these are."""
    balancer.apply([service(method="flow_hash", listen=[f"{VIP}:80", f"{VIP}:8080"])])
    plain = [a.name for a in balancer.ask(f"{VIP}:80", 24, first_source_port=30500)]
    long = [a.name for a in balancer.ask(f"{VIP}:8080", 24, first_source_port=30500, header_options=12)]
    assert long == plain
    assert set(long) == set(NAMES)


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_destination_hash_looks_at_the_address_that_was_asked_for(balancer: Balancer, family: str) -> None:
    """Every service address of a service that listens on all local ones has a backend, whoever asks for it."""
    hosts = [f"192.0.2.{n}" for n in range(30, 54)] if family == "ip" else [f"2001:db8:1::{n:x}" for n in range(48, 72)]
    lengths = [f"{host}/{32 if family == 'ip' else 128}" for host in hosts]
    balancer.host.ip("\n".join(f"address add {host} dev front" + " nodad" * (":" in host) for host in lengths))
    try:
        backends = [{"address": a} for a in WEB6.values()] if family == "ip6" else webs()
        balancer.apply([service(method="destination_hash", listen="*:80", backends=backends)])
        at = [f"{host}:80" if family == "ip" else f"[{host}]:80" for host in hosts]
        homes = {place: balancer.ask(place, 1)[0].name for place in at}
        assert set(homes.values()) == set(NAMES)
        guests = CLIENTS[:5] if family == "ip" else [f"2001:db8:18::{n}" for n in range(1, 6)]
        for place in at[:8]:
            assert {a.name for a in balancer.ask(place, 5, sources=guests)} == {homes[place]}
    finally:
        balancer.host.ip("\n".join(f"address delete {host} dev front" for host in lengths))


def ten(**changed: Mapping) -> list[Mapping]:
    """Ten backends; `changed` by the last part of the address: `b13={"state": "drained"}`."""
    return [{"address": address, **changed.get(f"b{address.split('.')[-1]}", {})} for address in TEN]


def homes(balancer: Balancer, clients: Sequence[str] = CLIENTS[:400]) -> dict[str, str]:
    """Which backend address serves which client."""
    answers = balancer.ask(count=len(clients), sources=clients)
    found = {client: answer.local for client, answer in zip(clients, answers, strict=True) if answer.name}
    assert len(found) == len(clients)
    return found


def moved(before: dict[str, str], after: dict[str, str], leaver: str = "") -> list[str]:
    return [client for client, home in before.items() if home != leaver and after[client] != home]


def test_clients_stay_over_repeated_and_fresh_runs(balancer: Balancer) -> None:
    declared = [service(method="source_hash", backends=ten())]
    balancer.apply(declared)
    before = homes(balancer)
    assert len(set(before.values())) == 10
    balancer.apply(declared)
    assert moved(before, homes(balancer)) == []
    balancer.remove()
    balancer.apply(declared)
    assert moved(before, homes(balancer)) == []


def test_the_order_of_the_declaration_moves_nobody(balancer: Balancer) -> None:
    balancer.apply([service(method="source_hash", backends=ten())])
    before = homes(balancer)
    balancer.apply([service(method="source_hash", backends=ten()[::-1])])
    assert moved(before, homes(balancer)) == []


@pytest.mark.parametrize("key", [{"state": "drained"}, {"state": "disabled"}])
def test_a_backend_on_leave_moves_its_own_clients_only(balancer: Balancer, key: Mapping) -> None:
    balancer.apply([service(method="source_hash", backends=ten())])
    before = homes(balancer)
    leaver = TEN[4]
    assert leaver in before.values()
    balancer.apply([service(method="source_hash", backends=ten(**{f"b{leaver.split('.')[-1]}": key}))])
    after = homes(balancer)
    assert leaver not in after.values()
    assert moved(before, after, leaver) == []
    balancer.apply([service(method="source_hash", backends=ten())])
    assert homes(balancer) == before, "its clients come back to it"


@pytest.mark.engines("nftables")
@pytest.mark.parametrize("method", HASHES)
def test_a_backend_that_leaves_the_list_moves_few_others(balancer: Balancer, method: str) -> None:
    def who(backends: list[Mapping]) -> dict[str, str]:
        balancer.apply([service(method=method, backends=backends)])
        answers = balancer.ask(count=2000, sources=CLIENTS[:2000], first_source_port=10000)
        return {client: answer.local for client, answer in zip(CLIENTS, answers, strict=False)}

    before = who(ten())
    after = who([backend for backend in ten() if backend["address"] != TEN[4]])
    others = sum(home != TEN[4] for home in before.values())
    share = len(moved(before, after, TEN[4])) / others
    print(f"{method}: {share:.2%} of {others} clients of the other backends moved")
    assert TEN[4] not in after.values()
    assert share <= MOST_MOVED


def test_ipv6_clients_stay_too(balancer: Balancer) -> None:
    declared = [service(method="source_hash", listen=f"[{VIP6}]:80", backends=[{"address": a} for a in WEB6.values()])]
    clients = [f"2001:db8:18::{i:x}" for i in range(1, 101)]
    balancer.apply(declared)
    before = balancer.ask(f"[{VIP6}]:80", 100, sources=clients)
    assert {answer.name for answer in before} == set(NAMES)
    balancer.remove()
    balancer.apply(declared)
    after = balancer.ask(f"[{VIP6}]:80", 100, sources=clients)
    assert [answer.name for answer in after] == [answer.name for answer in before]


@pytest.mark.engines("nftables")
def test_a_client_goes_where_the_benchmark_of_hashes_says(balancer: Balancer) -> None:
    """tests/bench/hash_quality.py counts who moves, by the table and its own jhash; the kernel must agree."""
    model = benchmark("hash_quality")
    declared = service(method="source_hash", backends=weighted(web1=4, web2=2, web3=2))
    balancer.apply([declared])
    sources = CLIENTS[:300]
    hashes = [model.jhash(int(ipaddress.IPv4Address(source)), SEED) for source in sources]
    table = model.Table([str(backend.name) for backend in slots.slots(parse_config([declared]).services[0], "ip")])
    assert [answer.who for answer in balancer.ask(count=len(sources), sources=sources)] == table.where(hashes)
