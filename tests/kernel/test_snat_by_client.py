# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whom the backends see where that depends on the client (the longest prefix), then on the backend."""

from __future__ import annotations

import ipaddress
import random
from typing import Any

import pytest
from kernel_lab import traffic
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.topology import BACK, BACK6, CLIENT, FRONT, VIP, VIP6, WEB6

OWN = ["10.0.0.200", "10.0.0.201"]
OWN6 = "2001:db8:2::200"
RULES = [
    {"networks": ["198.18.0.0/17", "2001:db8:18::/112"], "snat": "none"},
    {"networks": ["198.18.7.0/24"], "snat": OWN[0]},
    {"networks": "198.18.7.77", "snat": "masquerade"},
    {"networks": ["2001:db8:18::7"], "snat": OWN6},
]
#: The client's own address.
ITS_OWN = "its own"
#: Clients, and what the backends see of them with these rules.
SEEN = {
    "198.18.3.1": ITS_OWN,
    "198.18.7.1": OWN[0],
    "198.18.7.77": BACK,
    "198.18.127.255": ITS_OWN,
    "198.18.128.0": BACK,
}
SEEN6 = {"2001:db8:18::6": ITS_OWN, "2001:db8:18::7": OWN6, "2001:db8:18::1:1": BACK6}
BOTH = [*webs("web1", "web2"), {"address": WEB6["web1"]}, {"address": WEB6["web2"]}]
WAYS: dict[str, dict[str, Any]] = {
    "exact": {"listen": [f"{VIP}:80", f"[{VIP6}]:80"]},
    "range": {"listen": [f"{VIP}:79-82", f"[{VIP6}]:79-82"]},
    "interface": {"listen": [f"{VIP}:80", f"[{VIP6}]:80"], "interface": "front"},
    "node": {"listen": ["*:80"]},
    "hash": {"listen": [f"{VIP}:80", f"[{VIP6}]:80"], "method": "source_hash", "affinity": 60},
}


def declared(way: str = "exact", **keys: Any) -> Mapping:
    return service(**{"protocol": ["tcp", "udp"], "snat_by_client": RULES, "backends": BOTH, **WAYS[way], **keys})


def own_addresses(balancer: Balancer) -> None:
    for address in OWN:
        balancer.host.ip(f"address replace {address}/32 dev back")
    # A masquerade does not choose an address of IPv6 that is deprecated.
    balancer.host.ip(f"address replace {OWN6}/128 dev back preferred_lft 0")


def seen(balancer: Balancer, clients: Any, **options: Any) -> dict[str, str]:
    """What the backends see of each client, in one connection from each."""
    clients = list(clients)
    target = options.pop("target", f"[{VIP6}]:80" if ":" in clients[0] else f"{VIP}:80")
    answers = balancer.ask(target, len(clients), sources=clients, **options)
    peers = [answer.peer for answer in answers]
    return {client: ITS_OWN if peer == client else peer for client, peer in zip(clients, peers, strict=True)}


@pytest.mark.parametrize("way", WAYS)
def test_the_longest_prefix_decides(balancer: Balancer, way: str) -> None:
    own_addresses(balancer)
    balancer.apply([declared(way), service("other", listen=f"{VIP}:443", backends=webs(port=80))])
    target, target6 = (f"{FRONT}:80", f"[{VIP6}]:80") if way == "node" else (f"{VIP}:80", f"[{VIP6}]:80")
    for protocol in ("tcp", "udp"):
        assert seen(balancer, SEEN, target=target, protocol=protocol) == SEEN
        if way != "node":
            assert seen(balancer, SEEN6, target=target6, protocol=protocol) == SEEN6
    assert set(seen(balancer, SEEN, target=f"{VIP}:443").values()) == {BACK}, "a service without rules"
    assert (
        balancer.apply([declared(way), service("other", listen=f"{VIP}:443", backends=webs(port=80))]).changed is False
    )
    assert not balancer.info()["drift"]
    balancer.remove()
    assert not balancer.ours_left()


def test_all_others_have_the_snat_of_the_service(balancer: Balancer) -> None:
    own_addresses(balancer)
    few = [{"networks": ["198.18.7.0/24"], "snat": "masquerade"}]
    balancer.apply([service(snat="none", snat_by_client=few)])
    assert seen(balancer, ["198.18.7.7", "198.18.9.9"]) == {"198.18.7.7": BACK, "198.18.9.9": ITS_OWN}
    balancer.apply([service(snat=OWN, snat_by_client=[{"networks": ["198.18.7.0/24"], "snat": "none"}])])
    clients = [f"198.18.9.{number}" for number in range(1, 61)]
    found = seen(balancer, ["198.18.7.7", *clients])
    # 60 fair draws miss one of two addresses with a chance of 2e-18.
    assert (found.pop("198.18.7.7"), set(found.values())) == (ITS_OWN, set(OWN))


def test_a_list_of_addresses_for_some(balancer: Balancer) -> None:
    own_addresses(balancer)
    balancer.apply([service(snat_by_client=[{"networks": ["198.18.9.0/24"], "snat": OWN}])])
    found = seen(balancer, ["198.18.7.7", *(f"198.18.9.{number}" for number in range(1, 61))])
    assert (found.pop("198.18.7.7"), set(found.values())) == (BACK, set(OWN))


def test_replies_come_back_where_clients_would_be_seen(balancer: Balancer) -> None:
    """Backends, and the balancer itself, are clients of networks that are not to be translated."""
    everybody = [{"networks": ["0.0.0.0/0"], "snat": "none"}]
    balancer.apply([service(snat_by_client=everybody, protocol=["tcp", "udp"])])
    assert seen(balancer, ["198.18.7.7"]) == {"198.18.7.7": ITS_OWN}
    for protocol in ("tcp", "udp"):
        for host in (balancer.lab.backends["web1"], balancer.host):
            answers = host.call(traffic.ask, f"{VIP}:80", 4, protocol=protocol)
            assert [answer.peer for answer in answers] == [BACK] * 4


def test_rules_come_and_go(balancer: Balancer) -> None:
    """Each change is a delta, and what is left is what was there before."""
    own_addresses(balancer)
    plain = declared(snat_by_client=[])
    balancer.apply([plain])
    before = balancer.snapshot()
    assert balancer.apply([declared()]).transaction == "delta"
    assert seen(balancer, SEEN) == SEEN
    more = [*RULES, {"networks": ["198.18.3.0/24"], "snat": OWN[1]}]
    outcome = balancer.apply([declared(snat_by_client=more)])
    assert outcome.transaction == "delta"
    assert seen(balancer, SEEN) == {**SEEN, "198.18.3.1": OWN[1]}
    assert balancer.apply([declared(snat_by_client=more)]).changed is False
    assert balancer.apply([plain]).transaction == "delta"
    assert balancer.snapshot() == before


@pytest.mark.parametrize("way", ["exact", "range"])
def test_no_connection_is_lost_by_a_change(balancer: Balancer, way: str) -> None:
    own_addresses(balancer)
    balancer.apply([declared(way)])
    clients = list(SEEN)
    held = [balancer.hold(f"{VIP}:80", source=client)[0] for client in clients]
    peers = [answer.peer for _handle, answer in held]
    for rules in (RULES[:1], [], [{"networks": ["0.0.0.0/0"], "snat": OWN[1]}]):
        balancer.apply([declared(way, snat_by_client=rules)])
        assert [balancer.talk(handle).peer for handle, _answer in held] == peers
        assert all(answer.name for answer in balancer.ask(f"{VIP}:80", 4, sources=clients))


def test_a_udp_flow_begins_anew_where_its_own_answer_changes(balancer: Balancer) -> None:
    own_addresses(balancer)
    balancer.apply([declared()])
    held = {client: balancer.hold(f"{VIP}:80", protocol="udp", source=client)[0] for client in SEEN}
    ports = {client: answer.peer_port for client, (_handle, answer) in held.items()}
    changed = [RULES[0], {"networks": ["198.18.7.0/24"], "snat": OWN[1]}, *RULES[2:]]
    balancer.apply([declared(snat_by_client=changed)])
    now = {client: balancer.talk(handle) for client, (handle, _answer) in held.items()}
    assert now["198.18.7.1"].peer == OWN[1]
    others = [client for client in SEEN if client != "198.18.7.1"]
    assert {client: now[client].peer_port for client in others} == {client: ports[client] for client in others}
    assert {client: now[client].peer for client in others} == {
        client: client if SEEN[client] == ITS_OWN else SEEN[client] for client in others
    }


def test_many_networks(balancer: Balancer) -> None:
    """As many as there may be, in each other."""
    own_addresses(balancer)
    kinds: list[Any] = ["none", OWN[0], "masquerade", OWN[1]]
    nets = [f"198.18.{i >> 4}.{(i & 15) << 4}/{28 + (i & 3)}" for i in range(4096)]
    rules = [{"networks": nets[kind::4], "snat": snat} for kind, snat in enumerate(kinds)]
    balancer.apply([service(snat_by_client=rules)])
    numbers = [*range(0, 4096, 97), 4095]
    clients = [f"198.18.{i >> 4}.{((i & 15) << 4)}" for i in numbers]
    wanted = [{"none": ITS_OWN, "masquerade": BACK}.get(kinds[i % 4], kinds[i % 4]) for i in numbers]
    assert list(seen(balancer, clients).values()) == wanted
    rules[0]["networks"] = rules[0]["networks"][1:]
    outcome = balancer.apply([service(snat_by_client=rules)])
    assert outcome.transaction == "delta"
    assert list(seen(balancer, clients).values()) == [BACK, *wanted[1:]]


# -- backends --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_backend_sees_what_it_says(balancer: Balancer, way: str) -> None:
    """Where no network has the client; and all others what the service says."""
    own_addresses(balancer)
    backends = [*webs("web1", snat=OWN[0]), *webs("web2", snat="none"), *webs("web3"), *webs("web4", snat="masquerade")]
    six = [{"address": WEB6["web1"], "snat": OWN6}, {"address": WEB6["web2"], "snat": "none"}]
    rules = [{"networks": ["198.18.7.0/24"], "snat": "none"}]
    keys: Mapping = {"snat": OWN[1:], "backends": backends}
    if way != "node":
        keys = {"snat": [OWN[1], OWN6], "backends": [*backends, *six]}
    balancer.apply([declared(way, **keys, snat_by_client=rules)])
    target = f"{FRONT}:80" if way == "node" else f"{VIP}:80"
    for protocol in ("tcp", "udp"):
        found = by_backend(balancer, target, [f"198.18.9.{n}" for n in range(1, 41)], protocol=protocol)
        assert found == {"web1": {OWN[0]}, "web2": {ITS_OWN}, "web3": {OWN[1]}, "web4": {BACK}}
        found = by_backend(balancer, target, [f"198.18.7.{n}" for n in range(1, 41)], protocol=protocol)
        assert found == {"web1": {ITS_OWN}, "web2": {ITS_OWN}, "web3": {ITS_OWN}, "web4": {ITS_OWN}}
        if way != "node":
            clients = [f"2001:db8:18::{n:x}" for n in range(1, 31)]
            assert by_backend(balancer, f"[{VIP6}]:80", clients) == {"web1": {OWN6}, "web2": {ITS_OWN}}
    assert not balancer.apply([declared(way, **keys, snat_by_client=rules)]).changed


def by_backend(balancer: Balancer, target: str, clients: list[str], **options: Any) -> dict[str, set[str]]:
    """What each backend has seen, in one connection from each client."""
    answers = balancer.ask(target, len(clients), sources=clients, **options)
    found: dict[str, set[str]] = {}
    for client, answer in zip(clients, answers, strict=True):
        found.setdefault(answer.name, set()).add(ITS_OWN if answer.peer == client else answer.peer)
    return found


def test_the_snat_of_a_backend_comes_and_goes(balancer: Balancer) -> None:
    own_addresses(balancer)
    balancer.apply([service(protocol=["tcp", "udp"])])
    before = balancer.snapshot()
    ((tcp, _answer),) = balancer.hold()
    held = balancer.hold(count=4, protocol="udp")
    one = service(protocol=["tcp", "udp"], backends=[*webs("web1", snat=OWN[0]), *webs("web2", "web3", "web4")])
    assert balancer.apply([one]).transaction == "delta"
    assert by_backend(balancer, f"{VIP}:80", [CLIENT] * 8)["web1"] == {OWN[0]}
    assert balancer.talk(tcp).peer == BACK
    # Flows of UDP begin anew where their own answer is another one.
    for handle, answer in held:
        now = balancer.talk(handle)
        assert (now.peer_port == answer.peer_port and now.name == answer.name) or answer.name == "web1"
    balancer.backend("web1", "drained")
    balancer.backend("web1", "active")
    assert by_backend(balancer, f"{VIP}:80", [CLIENT] * 8)["web1"] == {OWN[0]}
    assert balancer.apply([service(protocol=["tcp", "udp"])]).transaction == "delta"
    assert balancer.snapshot() == before


def test_many_backends(balancer: Balancer) -> None:
    """Most of them are nobody."""
    own_addresses(balancer)
    others = [
        {"address": f"10.9.{n >> 8}.{n & 255}", "port": 80, "weight": 0, "snat": OWN[n % 2]} for n in range(1, 500)
    ]
    backends = [*webs("web1", snat=OWN[1]), *others, *webs("web2")]
    balancer.apply([service(backends=backends, method="random")])
    assert by_backend(balancer, f"{VIP}:80", [CLIENT] * 30) == {"web1": {OWN[1]}, "web2": {BACK}}


# -- against a model -------------------------------------------------------------------------------------------------


def expected(declared: Mapping, client: str, name: str) -> set[str]:
    """What a backend may see: the rule of the longest prefix, or else its own, or else the service's."""
    own = {backend["name"]: backend.get("snat") for backend in declared["backends"]}
    best, snat = -1, own[name] or declared["snat"]
    for rule in declared["snat_by_client"]:
        for network in map(ipaddress.ip_network, rule["networks"]):
            if ipaddress.ip_address(client) in network and network.prefixlen > best:
                best, snat = network.prefixlen, rule["snat"]
    return {"none": {ITS_OWN}, "masquerade": {BACK}}.get(str(snat)) or ({snat} if isinstance(snat, str) else set(snat))


@pytest.mark.parametrize("seed", range(3))
def test_any_rules(balancer: Balancer, seed: int) -> None:
    chance = random.Random(seed)
    own_addresses(balancer)
    answers: list[Any] = ["none", "masquerade", *OWN, OWN]
    networks = [f"198.18.0.0/{length}" for length in range(15, 33)]
    networks += [
        f"198.18.7.{n}/{length}" for n, length in ((0, 24), (64, 26), (64, 28), (77, 32), (128, 25), (192, 27))
    ]
    services = []
    for number in range(12):
        chosen = chance.sample(networks, chance.randint(1, 9))
        cut = chance.randint(0, len(chosen))
        parts = [part for part in (chosen[:cut], chosen[cut:]) if part]
        rules = [{"networks": part, "snat": chance.choice(answers)} for part in parts]
        way = chance.choice([{}, {"interface": "front"}, {"method": "random"}])
        listen = f"{VIP}:{2000 + 10 * number}" + chance.choice(["", "-2009" if not number else ""])
        services.append(service(f"s{number}", listen=listen, snat=chance.choice(answers), snat_by_client=rules, **way))
        own = [{"snat": snat} if snat else {} for snat in chance.choices(["none", "masquerade", *OWN, "", ""], k=2)]
        services[-1]["backends"] = [*webs("web1", port=80, **own[0]), *webs("web2", port=80, **own[1])]
    balancer.apply(services)
    clients = ["198.18.0.0", "198.18.0.1", "198.18.0.9", "198.18.7.1", "198.18.7.64", "198.18.7.77", "198.18.7.200"]
    clients += [f"198.18.{chance.randrange(256)}.{chance.randrange(1, 255)}" for _unused in range(8)]
    for number, one in enumerate(services):
        answers = balancer.ask(f"{VIP}:{2000 + 10 * number}", len(clients), sources=clients)
        found = [(client, answer.name, answer.peer) for client, answer in zip(clients, answers, strict=True)]
        wrong = [
            (client, name, peer)
            for client, name, peer in found
            if (ITS_OWN if peer == client else peer) not in expected(one, client, name)
        ]
        assert not wrong, (one, wrong)
    assert balancer.apply(services).changed is False


def test_the_client_itself(balancer: Balancer) -> None:
    """By the route that the lab has for the client's own address."""
    balancer.apply([service(snat_by_client=[{"networks": [CLIENT], "snat": "none"}])])
    assert {answer.peer for answer in balancer.ask(count=2)} == {CLIENT}
