# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`natlb trace`: each kind of obstacle first stops a connection, then is named; and what it says of a healthy service
is what happens."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _natlb.cli import single_file
from kernel_lab import drive, filling, server, traffic
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.host import Host
from kernel_lab.topology import BACK, CLIENT, CLIENT6, CLIENTS, NAMES, OTHER_VIP, PORTS, VIP, VIP6, WEB, WEB6
from test_forward_path import DOCKER, FIREWALLD
from test_warnings import BRIDGED, BRIDGED6, bridged

REACHABLE, STOPPED = 0, 7
FAILED = {"TimeoutError", "OSError", "ConnectionRefusedError", "ConnectionResetError"}
WEB_SERVICE = f"{VIP}:80"
SNAT6 = "2001:db8:2::200"


def apply(balancer: Balancer, services: list[Mapping]) -> None:
    """With the addresses of services on an interface, as they mostly are."""
    balancer.host.ip(f"address replace {VIP}/32 dev front\naddress replace {VIP6}/128 dev front nodad")
    balancer.apply(services, program=single_file.text, agent=True)


def traced(balancer: Balancer, client: str = CLIENT, target: str = WEB_SERVICE, *options: str) -> tuple[int, Any]:
    status, told, error = balancer.natlb("trace", client, target, "--json", *options)
    assert not error, error
    return status, json.loads(told)


def picks(balancer: Balancer, target: str, clients: list[str]) -> list[str]:
    """Which backend it names for each of these clients."""
    found = balancer.host.call(drive.traces, balancer._root, balancer.variant or None, [(c, target) for c in clients])
    return [next(step["said"] for step in one["steps"] if "by the hash" in step["said"]) for one in found]


def stopped_at(balancer: Balancer, client: str = CLIENT, target: str = WEB_SERVICE, *options: str) -> Mapping:
    status, found = traced(balancer, client, target, *options)
    (step,) = [step for step in found["steps"] if step["verdict"] == "stops"]
    assert status == STOPPED, found
    assert step["remedy"], step
    assert found["steps"][-1] == step, "nothing is said of what the connection never comes to"
    return dict(step)


def fails(balancer: Balancer, **options: Any) -> None:
    assert set(balancer.tally(timeout_s=0.5, **options)) <= FAILED


def test_a_healthy_service(balancer: Balancer) -> None:
    apply(balancer, [service()])
    assert set(balancer.tally(count=4)) == set(NAMES)
    status, found = traced(balancer)
    assert status == REACHABLE, found
    assert not [step for step in found["steps"] if step["verdict"] == "may"], found
    said = {step["where"]: step["said"] for step in found["steps"]}
    assert said["service"] == "web"
    assert said["source"] == "the backend sees 10.0.0.1 (masquerade)"
    contacts = [step["said"] for step in found["steps"] if "accepts" in step["said"]]
    assert contacts == [f"{address}:80 accepts a connection of this host" for address in WEB.values()]
    _status, told, _error = balancer.natlb("trace", f"{CLIENT}->{WEB_SERVICE}")
    assert told.splitlines()[0] == f"{CLIENT} -> {VIP}:80/tcp"
    assert told.splitlines()[-1] == "reachable"


@pytest.mark.parametrize("prefix", [{}, {"ipv4": 28, "ipv6": 123}], ids=str)
@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_the_backend_of_a_hash_is_the_one_that_answers(balancer: Balancer, family: str, prefix: dict[str, int]) -> None:
    backends = webs() if family == "ip" else [{"name": name, "address": WEB6[name]} for name in NAMES]
    target = WEB_SERVICE if family == "ip" else f"[{VIP6}]:80"
    apply(balancer, [service(method="source_hash", client_prefix=prefix, listen=[target], backends=backends)])
    sources = [f"198.18.7.{7 * n}" if family == "ip" else f"2001:db8:18::{7 * n:x}" for n in range(1, 25)]
    answers = balancer.ask(target, len(sources), sources=sources)
    for source, answer, said in zip(sources, answers, picks(balancer, target, sources), strict=True):
        assert said.startswith(f"{answer.name} "), (source, answer, said)


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_the_backend_of_a_flow_is_the_one_that_answers(balancer: Balancer, family: str) -> None:
    backends = webs() if family == "ip" else [{"name": name, "address": WEB6[name]} for name in NAMES]
    target, client = (WEB_SERVICE, CLIENT) if family == "ip" else (f"[{VIP6}]:80", f"[{CLIENT6}]")
    apply(balancer, [service(method="flow_hash", listen=[target], backends=backends)])
    answers = balancer.ask(target, 24, first_source_port=20000)
    clients = [f"{client}:{port}" for port in range(20000, 20024)]
    for who, answer, said in zip(clients, answers, picks(balancer, target, clients), strict=True):
        assert said.startswith(f"{answer.name} "), (who, answer, said)
    _status, found = traced(balancer, client.strip("[]"), target)
    assert any("the client's port, which is not given" in step["said"] for step in found["steps"])


def test_the_backend_of_an_address_is_the_one_that_answers(balancer: Balancer) -> None:
    listen = [f"{VIP}:{port}" for port in (80, 8080)] + [f"{OTHER_VIP}:80", f"[{VIP6}]:80"]
    backends = [*webs(), *({"name": f"{name}-six", "address": WEB6[name]} for name in NAMES)]
    apply(balancer, [service(method="destination_hash", listen=listen, backends=backends)])
    for target in listen:
        (answer,) = balancer.ask(target)
        (said,) = picks(balancer, target, [CLIENT6 if "[" in target else CLIENT])
        assert said.startswith((f"{answer.name} ", f"{answer.name}-six ")), (target, answer, said)
        assert "by the hash of the address that was asked for" in said


def test_the_port_of_a_backend_whose_ports_are_shifted(balancer: Balancer) -> None:
    apply(balancer, [service(listen=f"{VIP}:7000-7003", backends=webs("web1", port="9000-9003"))])
    status, found = traced(balancer, CLIENT, f"{VIP}:7002")
    assert status == REACHABLE
    assert any(step["said"] == f"{WEB['web1']}:9002 accepts a connection of this host" for step in found["steps"])


def test_the_backend_of_a_pin_is_named(balancer: Balancer) -> None:
    pins = [{"client": "198.18.0.0/16", "backend": "web1"}, {"client": "198.18.7.0/24", "backend": "web2"}]
    for way in ({}, {"method": "source_hash"}, {"affinity": 60}):
        apply(balancer, [service(pins=pins, **way)])
        for client, network, name in (("198.18.3.1", "198.18.0.0/16", "web1"), ("198.18.7.1", "198.18.7.0/24", "web2")):
            _status, found = traced(balancer, client)
            assert any(step["said"] == f"{name} ({WEB[name]}), since pins has {network}" for step in found["steps"])
    apply(balancer, [service(pins=pins, backends=[*webs("web1", "web3"), *webs("web2", state="drained")])])
    _status, found = traced(balancer, "198.18.7.1")
    assert any(step["said"].startswith("by turn: ") for step in found["steps"])


# -- obstacles -------------------------------------------------------------------------------------------------------


def reverse_path(balancer: Balancer) -> None:
    balancer.host.ip(f"route del {CLIENTS}\nroute add {CLIENTS} dev back")


def without_forwarding(balancer: Balancer) -> None:
    balancer.host.sysctl({"ipv4/ip_forward": 0})


def forward_drop(balancer: Balancer) -> None:
    balancer.host.run("iptables-nft", "-P", "FORWARD", "DROP")


def nft_forward(balancer: Balancer) -> None:
    rules = "table inet theirs {\nchain f {\ntype filter hook forward priority 0; policy drop;\n}\n}\n"
    balancer.host.run("nft", "-f", "-", stdin=rules)


def dropped_early(balancer: Balancer) -> None:
    head = "type filter hook prerouting priority -310;"
    rules = f"table inet theirs {{\nchain p {{\n{head}\nip saddr {CLIENT} drop\n}}\n}}\n"
    balancer.host.run("nft", "-f", "-", stdin=rules)


def flushed(balancer: Balancer) -> None:
    balancer.host.run(
        "sh",
        "-c",
        "nft flush ruleset; for t in nat filter mangle; do iptables-legacy -t $t -F; iptables-legacy -t $t -X; done",
    )


def no_listener(balancer: Balancer) -> None:
    for host in balancer.lab.backends.values():
        host.call(server.crash)


def docker(balancer: Balancer) -> None:
    balancer.host.run("iptables-nft-restore", "--noflush", stdin=DOCKER)


def firewalld(balancer: Balancer) -> None:
    """With StrictForwardPorts, which firewalld has since 2.2."""
    balancer.host.run("nft", "-f", "-", stdin=FIREWALLD.replace("ct status dnat accept\n", ""))


#: What makes it, what it is called, and words of what is said.
OBSTACLES: dict[str, tuple[Callable[[Balancer], None], str, str]] = {
    "forwarding": (without_forwarding, "forwarding", "net.ipv4.ip_forward is not 1"),
    "a policy of FORWARD": (forward_drop, "forward", "the chain FORWARD of iptables-nft (policy DROP)"),
    "a chain of nft": (nft_forward, "forward", "table inet theirs, chain f (policy drop)"),
    "Docker": (docker, "forward", "the chain FORWARD of iptables-nft of Docker (policy DROP)"),
    "firewalld": (
        firewalld,
        "forward",
        "table inet firewalld, chain filter_FORWARD (reject with icmpx admin-prohibited)",
    ),
    "before tracking": (dropped_early, "prerouting", f"table inet theirs, chain p (ip saddr {CLIENT} drop)"),
    "flushed rules": (flushed, "rules", "natlb's rules are gone"),
    "no listener": (no_listener, "backend", "refuses: nothing listens there"),
}


@pytest.mark.parametrize("case", OBSTACLES)
def test_an_obstacle(balancer: Balancer, case: str) -> None:
    make, where, words = OBSTACLES[case]
    apply(balancer, [service()])
    assert balancer.tally(count=4) == dict.fromkeys(NAMES, 1)
    make(balancer)
    try:
        fails(balancer)
        step = stopped_at(balancer)
        assert (step["where"], words in step["said"]) == (where, True), step
    finally:
        if make is no_listener:
            for name, host in balancer.lab.backends.items():
                host.call(server.start, name, PORTS)


def test_a_full_table_of_connections(balancer: Balancer) -> None:
    apply(balancer, [service()])
    assert balancer.tally(count=4) == dict.fromkeys(NAMES, 1)
    began = time.monotonic()
    tracked = balancer.host.call(filling.fill)
    print(f"{tracked} entries in {time.monotonic() - began:.1f} s")
    fails(balancer)
    step = stopped_at(balancer)
    assert (step["where"], "the table is full, and new ones are dropped" in step["said"]) == ("tracking", True), step
    (found,) = [word for word in balancer.info()["warnings"] if "connection tracking" in word]
    assert "100 % full" in found
    assert balancer.info()["conntrack"]["drop"] > 0
    balancer.host.run("conntrack", "-F")
    assert balancer.tally(count=4) == dict.fromkeys(NAMES, 1)
    assert traced(balancer)[0] == REACHABLE


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_a_backend_behind_the_bridge_of_its_client(balancer: Balancer, family: str) -> None:
    """With br_netfilter: never back by the port where a frame came in, and by another one it works."""
    bridged(balancer)
    target = f"{VIP}:80" if family == "ip" else f"[{VIP6}]:80"
    addresses = BRIDGED if family == "ip" else BRIDGED6
    sysctl = "bridge-nf-call-iptables" if family == "ip" else "bridge-nf-call-ip6tables"
    apply(balancer, [service(listen=target, backends=[{"name": "web1", "address": addresses["web1"]}])])

    def reached(by: str) -> bool:
        return [a.who for a in balancer.lab.backends[by].call(traffic.ask, target, timeout_s=2.5)] == ["web1"]

    balancer.host.sysctl({f"bridge/{sysctl}": 1})
    assert not reached("web1")
    assert reached("web2")
    step = stopped_at(balancer, addresses["web1"], target)
    assert step["where"] == "bridge"
    assert step["remedy"] == "bridge link set dev web1 hairpin on"
    status, found = traced(balancer, addresses["web2"], target)
    assert status == REACHABLE
    assert [s["said"] for s in found["steps"] if s["where"] == "bridge"] == ["br0 passes it from web2 to web1"]
    balancer.host.ip("link set dev web1 type bridge_slave hairpin on")
    assert reached("web1")
    assert traced(balancer, addresses["web1"], target)[0] == REACHABLE
    balancer.host.ip("link set dev web1 type bridge_slave hairpin off")
    balancer.host.sysctl({f"bridge/{sysctl}": 0})
    assert reached("web1")
    status, found = traced(balancer, addresses["web1"], target)
    assert status == REACHABLE
    assert not [s for s in found["steps"] if s["where"] == "bridge"]


def test_a_reverse_path_filter(balancer: Balancer) -> None:
    apply(balancer, [service()])
    source = "198.18.7.7"
    assert set(balancer.tally(count=4, sources=[source])) == set(NAMES)
    reverse_path(balancer)
    fails(balancer, sources=[source])
    step = stopped_at(balancer, source, WEB_SERVICE, "--interface", "front")
    assert (step["where"], "reverse path filter of front" in step["said"]) == ("route", True), step


def test_an_interface_that_is_not_there(balancer: Balancer) -> None:
    apply(balancer, [service()])
    step = stopped_at(balancer, CLIENT, WEB_SERVICE, "--interface", "eth7")
    assert (step["where"], step["said"]) == ("arrival", "this host has no interface eth7")
    assert "front" in step["remedy"].partition(": ")[2].split(", "), step


def test_a_backend_that_is_a_service_of_this_host(balancer: Balancer) -> None:
    """What is translated is not translated once more, so nothing is there unless a program listens."""
    inner = f"{VIP}:81"
    apply(
        balancer,
        [
            service(backends=[{"name": "inner", "address": VIP, "port": 81}]),
            service("inner", listen=inner, backends=webs(*NAMES, port=80)),
        ],
    )
    assert balancer.tally(inner, count=4) == dict.fromkeys(NAMES, 1)
    fails(balancer)
    assert "no program of this host listens at 192.0.2.10:81" in stopped_at(balancer)["said"]
    balancer.host.call(server.start, "here", [81])
    try:
        assert balancer.tally(count=2) == {"here": 2}
        assert traced(balancer)[0] == REACHABLE
    finally:
        balancer.host.call(server.crash)


@pytest.mark.engines("nftables", "iptables-legacy")
def test_a_client_with_an_address_of_the_loopback_interface(balancer: Balancer) -> None:
    apply(balancer, [service()])
    balancer.host.ip("link set lo up")

    def answers(source: str) -> set[str]:
        found = balancer.host.call(traffic.ask, WEB_SERVICE, 4, sources=[source] * 4, timeout_s=0.5)
        return {item.name for item in found if item.name}

    assert answers(BACK) == set(NAMES)
    assert not answers("127.0.0.1")
    step = stopped_at(balancer, "127.0.0.1")
    assert "the kernel drops answers to 127.0.0.1" in step["said"]
    assert BACK in step["remedy"]
    assert traced(balancer, BACK)[0] == REACHABLE
    balancer.host.sysctl({"ipv4/conf/back/route_localnet": 1})
    assert answers("127.0.0.1") == set(NAMES)
    assert traced(balancer, "127.0.0.1")[0] == REACHABLE


def test_no_route_to_a_backend(balancer: Balancer) -> None:
    apply(balancer, [service(backends=[{"address": "10.9.9.9"}])])
    fails(balancer)
    step = stopped_at(balancer)
    assert (step["where"], "none leads to 10.9.9.9" in step["said"]) == ("route", True), step


def test_a_service_that_is_not_declared(balancer: Balancer) -> None:
    apply(balancer, [service()])
    step = stopped_at(balancer, CLIENT, f"{VIP}:81")
    assert step["said"] == f"no service listens on {VIP}:81/tcp; there are web on {VIP}:80/tcp"


def test_the_list_of_clients(balancer: Balancer) -> None:
    apply(balancer, [service(allow_from=[CLIENTS])])
    fails(balancer)
    assert "allow_from of web has no network of" in stopped_at(balancer)["said"]
    assert set(balancer.tally(count=4, sources=["198.18.7.7"])) == set(NAMES)
    assert traced(balancer, "198.18.7.7")[0] == REACHABLE


def test_the_list_of_those_who_are_denied(balancer: Balancer) -> None:
    apply(balancer, [service(deny_from=["203.0.113.0/24", f"{CLIENT}/32"], when_denied="drop")])
    step = stopped_at(balancer)
    assert step["said"] == f"deny_from of web has {CLIENT}/32: {CLIENT} is dropped"
    assert step["remedy"] == f"take {CLIENT}/32 out of deny_from of web"
    assert set(balancer.tally(count=4, sources=["198.18.7.7"])) == set(NAMES)
    assert traced(balancer, "198.18.7.7")[0] == REACHABLE


def forget(host: Host, address: str) -> None:
    """A neighbour that an earlier balancer was, at the same link-layer address."""
    host.run("ip", "neigh", "flush", "to", address)


@pytest.mark.engines("nftables")
def test_an_address_that_nobody_answers_for(balancer: Balancer) -> None:
    network, target = "192.0.2.64/27", "192.0.2.70:80"
    apply(balancer, [service(listen=f"{network}:80")])
    assert [text for text in balancer.info()["warnings"] if "answers no ARP" in text]
    forget(balancer.client, "192.0.2.70")
    fails(balancer, target=target)
    status, found = traced(balancer, CLIENT, target)
    (step,) = [step for step in found["steps"] if step["verdict"] == "may"]
    assert (status, step["where"]) == (REACHABLE, "target"), "a route of the client may lead here, which nobody can see"
    assert "no interface of this host has 192.0.2.70, so it answers no ARP for it on front" in step["said"]
    assert step["remedy"].endswith("ip route add local NETWORK dev lo")
    balancer.host.ip(f"route add local {network} dev lo")
    # The client remembers for a while whom it has asked for in vain.
    target = "192.0.2.71:80"
    forget(balancer.client, "192.0.2.71")
    assert set(balancer.tally(target, 4)) == set(NAMES)
    assert not [text for text in balancer.info()["warnings"] if "answers no ARP" in text]
    status, found = traced(balancer, CLIENT, target)
    assert (status, [step for step in found["steps"] if step["verdict"] == "may"]) == (REACHABLE, [])


@pytest.mark.engines("nftables")
def test_a_directed_broadcast(balancer: Balancer) -> None:
    apply(balancer, [service(listen="192.0.2.0/24:80")])
    step = stopped_at(balancer, CLIENT, "192.0.2.255:80")
    assert (step["where"], "192.0.2.255 is the broadcast address of front" in step["said"]) == ("target", True), step


@pytest.mark.engines("nftables")
@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_a_source_address_that_nobody_answers_for(balancer: Balancer, family: str) -> None:
    target, client, own = (WEB_SERVICE, CLIENT, "10.0.0.200") if family == "ip" else (f"[{VIP6}]:80", CLIENT6, SNAT6)
    backend = {"ip": WEB, "ip6": WEB6}[family]["web1"]
    apply(balancer, [service(listen=target, snat=own, backends=[{"name": "web1", "address": backend}])])
    forget(balancer.lab.backends["web1"], own)
    fails(balancer, target=target)
    step = stopped_at(balancer, client, target)
    asks = "ARP" if family == "ip" else "neighbour discovery"
    assert (step["where"], f"nobody answers {asks} for it on back" in step["said"]) == ("source", True), step
    balancer.host.ip(step["remedy"].partition("ip ")[2].partition(",")[0] + (" nodad" if family == "ip6" else ""))
    assert balancer.tally(target) == {"web1": 1}
    assert traced(balancer, client, target)[0] == REACHABLE


@pytest.mark.engines("nftables")
def test_one_of_two_source_addresses_that_nobody_answers_for(balancer: Balancer) -> None:
    apply(balancer, [service(snat=["10.0.0.1", "10.0.0.200"], backends=webs("web1"))])
    status, found = traced(balancer)
    (step,) = [step for step in found["steps"] if step["verdict"] == "may"]
    assert (status, "no interface of this host has 10.0.0.200" in step["said"]) == (REACHABLE, True), step


@pytest.mark.engines("nftables", "iptables-nft")
def test_ports_that_are_used_up(balancer: Balancer) -> None:
    apply(balancer, [service(snat_ports="20000-20001", backends=webs("web1"))])
    assert traced(balancer)[0] == REACHABLE
    balancer.hold(count=2)
    fails(balancer)
    step = stopped_at(balancer)
    taken = f"2 of 2 ports of 20000-20001 are taken to {WEB['web1']}:80 (snat_ports)"
    assert step["said"] == f"{taken}: one more gets no answer"


@pytest.mark.engines("nftables")
def test_what_the_balancer_itself_opens_to_a_network(balancer: Balancer) -> None:
    apply(balancer, [service(listen="0.0.0.0/0:80", backends=webs("web1"))])
    step = stopped_at(balancer, BACK, f"{WEB['web3']}:80")
    assert "web listens on a network" in step["said"]
    assert step["remedy"] == f"ask for another client, or add {WEB['web3']}:80 to listen"
    assert traced(balancer, BACK, f"{BACK}:80")[0] == REACHABLE


def test_the_limit_of_connections(balancer: Balancer) -> None:
    apply(balancer, [service(max_connections_per_client=2)])
    assert traced(balancer)[0] == REACHABLE
    balancer.hold(count=2)
    fails(balancer)
    assert f"{CLIENT} has 2 of 2 connections" in stopped_at(balancer)["said"]


def test_nobody_serves(balancer: Balancer) -> None:
    apply(balancer, [service(backends=webs("web1", "web2", state="drained"))])
    fails(balancer)
    assert stopped_at(balancer)["said"] == "no backend of web can serve: the connection is refused (when_empty)"


def test_backends_that_see_the_client(balancer: Balancer) -> None:
    apply(balancer, [service(snat="none")])
    status, found = traced(balancer)
    (step,) = [step for step in found["steps"] if step["where"] == "source"]
    assert (status, step["verdict"]) == (REACHABLE, "may")
    assert "its answers have to come back through this host" in step["said"]
    _status, found = traced(balancer, "10.0.0.200")
    (step,) = [step for step in found["steps"] if step["where"] == "source"]
    assert "it is in the client's network" in step["said"]


def test_what_backends_see_of_some_clients(balancer: Balancer) -> None:
    rules = [{"networks": [CLIENT], "snat": "none"}, {"networks": ["198.18.7.0/24"], "snat": "10.0.0.200"}]
    balancer.host.ip("address add 10.0.0.200/32 dev back")
    said = []
    for client, keys in ((CLIENT, {}), ("198.18.7.7", {}), ("198.18.9.9", {}), ("198.18.9.9", {"snat": "10.0.0.200"})):
        apply(balancer, [service(snat_by_client=rules, backends=webs("web1", **keys))])
        _status, found = traced(balancer, client)
        said += [step["said"].partition(", so its answers")[0] for step in found["steps"] if step["where"] == "source"]
    assert said == [
        f"the backend sees {CLIENT} (snat: none, by snat_by_client)",
        "the backend sees 10.0.0.200 (snat, by snat_by_client)",
        "the backend sees 10.0.0.1 (masquerade)",
        "the backend sees 10.0.0.200 (snat, of the backend)",
    ]


def test_a_smaller_link(balancer: Balancer) -> None:
    apply(balancer, [service()])
    balancer.host.ip("link set back mtu 1400")
    status, found = traced(balancer)
    (step,) = [step for step in found["steps"] if step["where"] == "mtu"]
    assert (status, step["verdict"]) == (REACHABLE, "may")
    assert "more than 1400 bytes" in step["said"]


def test_ipv6(balancer: Balancer) -> None:
    target = f"[{VIP6}]:80"
    apply(balancer, [service(listen=[target], backends=[{"address": address} for address in WEB6.values()])])
    assert len(balancer.tally(target, 4)) == len(NAMES)
    assert traced(balancer, CLIENT6, target)[0] == REACHABLE


# -- a real connection -----------------------------------------------------------------------------------------------


def followed(balancer: Balancer, count: int, *words: str) -> tuple[int, list[str]]:
    """What `--live` says while the client connects now and then, and stops by itself."""
    pending = balancer.client.begin(traffic.attempts, WEB_SERVICE, count, 4, timeout_s=1)
    status, told, error = balancer.natlb("trace", CLIENT, WEB_SERVICE, "--live", *words)
    pending.result(timeout=60)
    assert not error, error
    assert "natlb_trace" not in balancer.host.run("nft", "list", "tables"), "nothing is left behind"
    return status, told.splitlines()


def test_a_real_connection(balancer: Balancer) -> None:
    apply(balancer, [service()])
    status, told = followed(balancer, 40)
    assert status == REACHABLE, told
    assert told[-1].startswith("answered by 10.0.0."), told
    if balancer.nftables:
        assert any("ip natlb" in line and "dnat" in line for line in told), told


def test_a_real_connection_that_is_dropped(balancer: Balancer) -> None:
    apply(balancer, [service()])
    nft_forward(balancer)
    # On a busy machine the program needs seconds before it looks.
    status, told = followed(balancer, 40, "--for", "4")
    assert status == STOPPED, told
    assert "inet theirs f: policy -> drop" in told
    assert told[-1] == "it was not answered; its last packet came to inet theirs f: policy -> drop"


def test_no_connection_comes(balancer: Balancer) -> None:
    apply(balancer, [service()])
    status, told, _error = balancer.natlb("trace", CLIENT, WEB_SERVICE, "--live", "--for", "1")
    assert (status, "no packet of it has come by" in told.splitlines()[-1]) == (STOPPED, True)


# -- documentation ---------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "trace.md"


def shown(balancer: Balancer, *words: str) -> str:
    _status, told, _error = balancer.natlb("trace", *words)
    return f"```console\n# natlb trace {' '.join(words)}\n{told}```\n"


def lasting(block: str) -> str:
    """Without the time, and what depends on the machine."""
    return re.sub(r"(?<=since )\S+(?=:)|\d+ of \d+(?= connections are tracked)", "…", block)


@pytest.mark.engines("nftables")
def test_the_page_shows_what_it_says(balancer: Balancer) -> None:
    """Write what differs into the page with NATLB_WRITE_DOCS=1."""
    apply(balancer, [service(method="source_hash", max_connections_per_client=100)])
    healthy = shown(balancer, CLIENT, WEB_SERVICE)
    balancer.backend("web2", "drained", reason="kernel update")
    docker(balancer)
    broken = shown(balancer, CLIENT, WEB_SERVICE)
    page = PAGE.read_text()
    blocks = re.findall(r"```console\n# natlb trace .*?```\n", page, re.DOTALL)
    if os.environ.get("NATLB_WRITE_DOCS"):
        for block, new in zip(blocks, (healthy, broken), strict=False):
            page = page.replace(block, new)
        PAGE.write_text(page)
    assert list(map(lasting, blocks[:2])) == list(map(lasting, (healthy, broken)))
