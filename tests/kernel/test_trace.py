# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`natlb trace`: each kind of obstacle first stops a connection, then is named, and once the remedy is applied that is
named with it the connection works; and what is said of a healthy service is what happens."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from _natlb.cli import single_file
from kernel_lab import drive, filling, server, traffic
from kernel_lab.balancer import ENGINES, Balancer, Mapping, service, webs
from kernel_lab.host import Host, wait_until_running
from kernel_lab.return_path import ReturnPath
from kernel_lab.topology import (
    BACK,
    BACK6,
    CLIENT,
    CLIENT6,
    CLIENTS,
    NAMES,
    OTHER_VIP,
    PORTS,
    QUIET,
    VIP,
    VIP6,
    WEB,
    WEB6,
)
from test_forward_path import DOCKER, FIREWALLD
from test_warnings import BRIDGED, BRIDGED6, bridged

REACHABLE, STOPPED = 0, 7
FAILED = {"TimeoutError", "OSError", "ConnectionRefusedError", "ConnectionResetError"}
WEB_SERVICE = f"{VIP}:80"
SNAT6 = "2001:db8:2::200"
PAGE = Path(__file__).parents[2] / "docs" / "trace.md"


def apply(balancer: Balancer, services: list[Mapping], **options: Any) -> None:
    """With the addresses of services on an interface, as they mostly are."""
    balancer.host.ip(f"address replace {VIP}/32 dev front\naddress replace {VIP6}/128 dev front nodad")
    balancer.apply(services, program=single_file.text, agent=True, **options)


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


def doubt(balancer: Balancer, client: str = CLIENT, target: str = WEB_SERVICE) -> Mapping:
    """The one step that may stop a connection which is reachable otherwise."""
    status, found = traced(balancer, client, target)
    (step,) = [step for step in found["steps"] if step["verdict"] == "may"]
    assert status == REACHABLE, found
    return dict(step)


def fails(balancer: Balancer, **options: Any) -> None:
    assert set(balancer.tally(timeout_s=0.5, **options)) <= FAILED


def works(balancer: Balancer, client: str = CLIENT, target: str = WEB_SERVICE, *options: str) -> None:
    """A connection gets through, and this is what trace says."""
    answers = balancer.tally(target, 4, sources=[client])
    assert not FAILED.intersection(answers), answers
    status, found = traced(balancer, client, target, *options)
    assert status == REACHABLE, found


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


def apply_again(balancer: Balancer, step: Mapping) -> None:
    assert step["remedy"] == "natlb apply"
    status, _told, error = balancer.natlb("apply")
    assert status == 0, error


def accept(balancer: Balancer, step: Mapping) -> None:
    assert step["remedy"].startswith("set firewall: accept, ")
    apply(balancer, [service()], firewall="accept")


def insert_rule(balancer: Balancer, step: Mapping) -> None:
    """The command is the one that stands there."""
    (command,) = re.findall("`(nft insert rule .*?)`", step["remedy"])
    balancer.host.run(*command.split())


def have_a_policy(balancer: Balancer, step: Mapping) -> None:
    """A policy of firewalld is a rule of its table, and no firewalld runs here."""
    assert step["remedy"].startswith("let them pass with a policy (firewall-cmd ")
    balancer.host.run("nft", "insert rule inet firewalld filter_FORWARD ct status dnat accept")


def let_it_pass(balancer: Balancer, step: Mapping) -> None:
    assert step["remedy"] == "let it pass there; natlb changes no rules of others"
    balancer.host.run("nft", f"insert rule inet theirs p ip saddr {CLIENT} tcp dport 80 accept")


def start_again(balancer: Balancer, step: Mapping) -> None:
    assert step["remedy"] in [f"start the service at {address}:80" for address in WEB.values()]
    serve_again(balancer)


def serve_again(balancer: Balancer) -> None:
    for name, host in balancer.lab.backends.items():
        host.call(server.stop)
        host.call(server.start, name, PORTS)


class Obstacle(NamedTuple):
    """What makes it, the step that it stops at, words of what is said, and what carries its remedy out."""

    make: Callable[[Balancer], None]
    where: str
    words: str
    mend: Callable[[Balancer, Mapping], None]


OBSTACLES = {
    "forwarding": Obstacle(without_forwarding, "forwarding", "net.ipv4.ip_forward is not 1", apply_again),
    "a policy of FORWARD": Obstacle(forward_drop, "forward", "the chain FORWARD of iptables-nft (policy DROP)", accept),
    "a chain of nft": Obstacle(nft_forward, "forward", "table inet theirs, chain f (policy drop)", insert_rule),
    "Docker": Obstacle(docker, "forward", "the chain FORWARD of iptables-nft of Docker (policy DROP)", accept),
    "firewalld": Obstacle(
        firewalld,
        "forward",
        "table inet firewalld, chain filter_FORWARD (reject with icmpx admin-prohibited)",
        have_a_policy,
    ),
    "before tracking": Obstacle(
        dropped_early, "prerouting", f"table inet theirs, chain p (ip saddr {CLIENT} drop)", let_it_pass
    ),
    "flushed rules": Obstacle(flushed, "rules", "natlb's rules are gone", apply_again),
    "no listener": Obstacle(no_listener, "backend", "refuses: nothing listens there", start_again),
}


@pytest.mark.parametrize("case", OBSTACLES)
def test_an_obstacle(balancer: Balancer, case: str) -> None:
    obstacle = OBSTACLES[case]
    apply(balancer, [service()])
    assert balancer.tally(count=4) == dict.fromkeys(NAMES, 1)
    obstacle.make(balancer)
    try:
        fails(balancer)
        step = stopped_at(balancer)
        assert (step["where"], obstacle.words in step["said"]) == (obstacle.where, True), step
        obstacle.mend(balancer, step)
        works(balancer)
    finally:
        if obstacle.make is no_listener:
            serve_again(balancer)


def test_a_full_table_of_connections(balancer: Balancer) -> None:
    apply(balancer, [service()])
    assert balancer.tally(count=4) == dict.fromkeys(NAMES, 1)
    # Those that have just ended would leave room when they are forgotten.
    balancer.host.run("conntrack", "-F")
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
    route, settings = step["remedy"].split(", or ")
    assert route == "add a route to it by front"
    # Of two routes to one network the one with the lower metric counts.
    balancer.host.ip(f"route add {source} via {CLIENT} dev front")
    works(balancer, source, WEB_SERVICE, "--interface", "front")
    balancer.host.ip(f"route del {source}")
    fails(balancer, sources=[source])
    assert settings == "set net.ipv4.conf.front.rp_filter and that of all to 2 or 0"
    balancer.host.sysctl({"ipv4/conf/front/rp_filter": 2, "ipv4/conf/all/rp_filter": 2})
    assert traced(balancer, source, WEB_SERVICE, "--interface", "front")[0] == REACHABLE


def test_a_reverse_path_filter_that_drops_answers(balancer: Balancer) -> None:
    """Connections have a mark, by which they take a way of their own. Answers have none."""
    apply(balancer, [service(mark="0x10/0xf0", backends=webs("web1"))])
    backend, options = WEB["web1"], (CLIENT, WEB_SERVICE, "--no-contact")
    works(balancer, *options)
    balancer.host.ip(f"route add {backend} dev back table 100\nrule add fwmark 0x10/0xf0 lookup 100 pref 1000")
    balancer.host.ip(f"route add {backend} dev front")
    fails(balancer)
    step = stopped_at(balancer, *options)
    assert (step["where"], step["said"]) == ("answer", f"the reverse path filter of back drops answers from {backend}")
    assert step["remedy"] == "set net.ipv4.conf.back.rp_filter and that of all to 2 or 0"
    balancer.host.sysctl({"ipv4/conf/back/rp_filter": 2, "ipv4/conf/all/rp_filter": 2})
    works(balancer, *options)


def test_no_route_back_to_a_client(balancer: Balancer) -> None:
    apply(balancer, [service()])
    source = "198.18.7.7"
    balancer.host.ip(f"route del {CLIENTS}")
    fails(balancer, sources=[source])
    step = stopped_at(balancer, source)
    assert (step["where"], "no answer finds its way back" in step["said"]) == ("arrival", True), step
    assert step["remedy"].startswith(f"add a route to {source}, ")
    balancer.host.ip(f"route add {source} via {CLIENT}")
    works(balancer, source)


def test_an_interface_that_is_down(balancer: Balancer) -> None:
    apply(balancer, [service()])
    balancer.host.ip("link set front down")
    fails(balancer)
    step = stopped_at(balancer, CLIENT, WEB_SERVICE, "--interface", "front")
    assert (step["where"], step["said"]) == ("arrival", "front is down")
    balancer.host.run(*step["remedy"].split())
    balancer.host.call(wait_until_running, ["front"])
    works(balancer, CLIENT, WEB_SERVICE, "--interface", "front")


def test_a_service_of_another_interface(balancer: Balancer) -> None:
    apply(balancer, [service(interface="back", snat="masquerade")])
    fails(balancer)
    step = stopped_at(balancer)
    assert step["said"] == "web takes connections that come in by back, not by front"
    assert step["remedy"] == "say --interface back, or declare the other one"
    apply(balancer, [service(interface="front")])
    works(balancer)


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
    assert step["remedy"] == "add a route"
    balancer.lab.backends["web1"].ip("address add 10.9.9.9/32 dev lo")
    balancer.host.ip(f"route add 10.9.9.9 via {WEB['web1']}")
    try:
        works(balancer)
    finally:
        balancer.lab.backends["web1"].ip("address del 10.9.9.9/32 dev lo")


def test_a_service_that_is_not_declared(balancer: Balancer) -> None:
    apply(balancer, [service()])
    fails(balancer, target=f"{VIP}:81")
    step = stopped_at(balancer, CLIENT, f"{VIP}:81")
    assert step["said"] == f"no service listens on {VIP}:81/tcp; there are web on {VIP}:80/tcp"
    assert step["remedy"] == "declare it, or choose another target"
    apply(balancer, [service(), service("more", listen=f"{VIP}:81", backends=webs(port=80))])
    works(balancer, CLIENT, f"{VIP}:81")


def test_the_list_of_clients(balancer: Balancer) -> None:
    apply(balancer, [service(allow_from=[CLIENTS])])
    fails(balancer)
    step = stopped_at(balancer)
    assert "allow_from of web has no network of" in step["said"]
    works(balancer, "198.18.7.7")
    assert step["remedy"] == f"add {CLIENT} to allow_from of web"
    apply(balancer, [service(allow_from=[CLIENTS, CLIENT])])
    works(balancer)


def test_the_list_of_those_who_are_denied(balancer: Balancer) -> None:
    apply(balancer, [service(deny_from=["203.0.113.0/24", f"{CLIENT}/32"], when_denied="drop")])
    fails(balancer)
    step = stopped_at(balancer)
    assert step["said"] == f"deny_from of web has {CLIENT}/32: {CLIENT} is dropped"
    assert step["remedy"] == f"take {CLIENT}/32 out of deny_from of web"
    works(balancer, "198.18.7.7")
    apply(balancer, [service(deny_from=["203.0.113.0/24"], when_denied="drop")])
    works(balancer)


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
    fails(balancer, target="192.0.2.255:80")
    step = stopped_at(balancer, CLIENT, "192.0.2.255:80")
    assert (step["where"], "192.0.2.255 is the broadcast address of front" in step["said"]) == ("target", True), step
    assert step["remedy"] == "choose the address of a host"
    works(balancer)


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
    forget(balancer.lab.backends["web1"], "10.0.0.200")
    sources = [f"198.18.7.{number}" for number in range(1, 17)]
    answers = balancer.tally(count=len(sources), sources=sources, timeout_s=0.5)
    assert set(answers) == {"web1", "TimeoutError"}, "the kernel gives each client one of the two"
    step = doubt(balancer)
    assert "no interface of this host has 10.0.0.200" in step["said"]
    balancer.host.ip(step["remedy"].partition("ip ")[2].partition(",")[0])
    assert balancer.tally(count=len(sources), sources=sources) == {"web1": len(sources)}
    works(balancer)


@pytest.mark.engines("nftables", "iptables-nft")
def test_ports_that_are_used_up(balancer: Balancer) -> None:
    apply(balancer, [service(snat_ports="20000-20001", backends=webs("web1"))])
    assert traced(balancer)[0] == REACHABLE
    balancer.hold(count=2)
    fails(balancer)
    step = stopped_at(balancer)
    taken = f"2 of 2 ports of 20000-20001 are taken to {WEB['web1']}:80 (snat_ports)"
    assert step["said"] == f"{taken}: one more gets no answer"
    assert step["remedy"] == "widen snat_ports, or name several addresses in snat"
    apply(balancer, [service(snat_ports="20000-20100", backends=webs("web1"))])
    works(balancer)


@pytest.mark.engines("nftables")
def test_what_the_balancer_itself_opens_to_a_network(balancer: Balancer) -> None:
    apply(balancer, [service(listen="0.0.0.0/0:80", backends=webs("web1"))])
    target = f"{WEB['web3']}:80"

    def reached() -> str:
        return str(balancer.host.call(traffic.ask, target)[0].who)

    assert reached() == "web3", "past the service"
    step = stopped_at(balancer, BACK, target)
    assert "web listens on a network" in step["said"]
    assert step["remedy"] == f"ask for another client, or add {target} to listen"
    assert traced(balancer, BACK, f"{BACK}:80")[0] == REACHABLE
    apply(balancer, [service(listen=["0.0.0.0/0:80", target], backends=webs("web1"))])
    assert reached() == "web1"
    assert traced(balancer, BACK, target)[0] == REACHABLE


def test_the_limit_of_connections(balancer: Balancer) -> None:
    apply(balancer, [service(max_connections_per_client=2)])
    assert traced(balancer)[0] == REACHABLE
    balancer.hold(count=2)
    fails(balancer)
    step = stopped_at(balancer)
    assert f"{CLIENT} has 2 of 2 connections" in step["said"]
    assert step["remedy"] == "close some, or raise the limit"
    # Connections that have ended may count for a while.
    apply(balancer, [service(max_connections_per_client=20)])
    works(balancer)


@pytest.mark.engines("nftables")
def test_full_backends(balancer: Balancer) -> None:
    apply(balancer, [service(backends=webs("web1", max_connections=2))])
    assert traced(balancer)[0] == REACHABLE
    balancer.hold(count=2)
    fails(balancer)
    step = stopped_at(balancer)
    assert step["said"] == "every backend of web is full: the connection is refused (when_empty)"
    assert step["remedy"] == "raise max_connections, or add a backend"
    apply(balancer, [service(backends=[*webs("web1", max_connections=2), *webs("web2")])])
    assert balancer.tally(count=4) == {"web2": 4}
    assert traced(balancer)[0] == REACHABLE


def test_nobody_serves(balancer: Balancer) -> None:
    apply(balancer, [service(backends=webs("web1"))])
    balancer.backend("web1", "drained", min_active=0)
    fails(balancer)
    step = stopped_at(balancer)
    assert step["said"] == "no backend of web can serve: the connection is refused (when_empty)"
    assert step["remedy"] == "natlb status shows why; bring one back"
    assert "drained" in balancer.natlb("status")[1]
    status, _told, error = balancer.natlb("restore", "web1")
    assert status == 0, error
    works(balancer)


@contextlib.contextmanager
def way_past(balancer: Balancer, family: str) -> Iterator[Host]:
    """A backend with an interface of its own in the client's network: its answers to the client leave by that one."""
    backend, lab = balancer.lab.backends["web1"], balancer.lab
    lab._wire(backend, "past", "front", "02:00:00:00:03:01")
    address = "192.0.2.53/24" if family == "ip" else "2001:db8:1::53/64 nodad"
    backend.ip(f"address add {address} dev past\nlink set past up")
    backend.call(wait_until_running, ["past"])
    lab.switch.call(wait_until_running, [f"port{lab._wires}"])
    try:
        yield backend
    finally:
        backend.ip("link delete past")


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_backends_that_see_the_client(balancer: Balancer, tmp_path: Path, family: str) -> None:
    """Answers that go past the balancer come from an address that the client has not asked."""
    target, client = (WEB_SERVICE, CLIENT) if family == "ip" else (f"[{VIP6}]:80", CLIENT6)
    address, gateway = (WEB["web1"], BACK) if family == "ip" else (WEB6["web1"], BACK6)
    apply(balancer, [service(listen=[target], snat="none", backends=[{"name": "web1", "address": address}])])
    assert balancer.tally(target) == {"web1": 1}
    with way_past(balancer, family) as backend:
        fails(balancer, target=target)
        step = doubt(balancer, client, target)
        assert (step["where"], "its answers have to come back through this host" in step["said"]) == ("source", True)
        assert step["remedy"] == "role natlb.netfilter.return_path on the backend sees to that"
        role = ReturnPath(
            backend, tmp_path, natlb_return_gateway=[gateway], natlb_return_addresses=[address], natlb_return_ports=[80]
        )
        role.run("up")
        try:
            assert balancer.tally(target) == {"web1": 1}
            assert balancer.ask(target)[0].peer == client
        finally:
            role.run("down")
        fails(balancer, target=target)
        apply(balancer, [service(listen=[target], backends=[{"name": "web1", "address": address}])])
        works(balancer, client, target)


def test_a_client_in_the_network_of_backends_that_see_it(balancer: Balancer) -> None:
    """It would be answered past the balancer too, and so it is hidden from them."""
    apply(balancer, [service(snat="none", backends=webs("web1"))])
    client = balancer.lab.backends["web2"]
    client.ip(f"route add {VIP} via {BACK}")
    try:
        (answer,) = client.call(traffic.ask, WEB_SERVICE)
        assert (answer.name, answer.peer) == ("web1", BACK)
    finally:
        client.ip(f"route del {VIP} via {BACK}")
    _status, found = traced(balancer, WEB["web2"])
    (step,) = [step for step in found["steps"] if step["where"] == "source"]
    assert step["said"] == f"the backend sees {BACK}: it is in the client's network, and would answer past this host"


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


#: Larger than any packet, and than what a sender has under way at once.
LARGE = 400_000


def large(balancer: Balancer, target: str, within_s: float) -> bool:
    """Whether a connection that opens also takes a lot of data."""
    ((handle, answer),) = balancer.hold(target)
    assert answer.name in NAMES, answer
    try:
        return bool(balancer.client.call(traffic.pour, handle, LARGE, within_s))
    except TimeoutError:
        return False
    finally:
        balancer.client.call(traffic.release)


@contextlib.contextmanager
def clamped(balancer: Balancer, family: str, size: int | None) -> Iterator[None]:
    """Lower the size of segments that the ends tell each other, with the program of the engine; without a size to what
    fits the routes, as the page shows it."""
    if balancer.nftables:
        rule = f"tcp flags & (syn | rst) == syn tcp option maxseg size set {size or 'rt mtu'}"
        assert size or rule in PAGE.read_text()
        head = "type filter hook forward priority mangle;"
        put = ["nft", "-f", "-"], f"table inet clamp {{\nchain f {{\n{head}\n{rule}\n}}\n}}\n"
        end = ["nft", "delete", "table", "inet", "clamp"]
    else:
        program = [f"{'ip6' if family == 'ip6' else 'ip'}tables-{balancer.variant}", "-t", "mangle"]
        rule = (
            f"FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS {f'--set-mss {size}' if size else '--clamp-mss-to-pmtu'}"
        )
        assert size or rule in PAGE.read_text()
        put, end = ([*program, "-A", *rule.split()], ""), [*program, "-D", *rule.split()]
    balancer.host.run(*put[0], stdin=put[1])
    try:
        yield
    finally:
        balancer.host.run(*end)


#: The backend behind the router.
FAR, FAR6 = "10.9.1.3", "2001:db8:91::3"


@contextlib.contextmanager
def thin_way(balancer: Balancer) -> Iterator[None]:
    """A backend with ordinary packets behind a router, to which the way takes smaller ones, as a tunnel does."""
    router, backend = Host("router"), balancer.lab.backends["web1"]
    try:
        router.ip("link set lo up")
        router.sysctl({**QUIET, "ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1})
        balancer.host.ip(f"link add thin mtu 1400 type veth peer name thin mtu 1400 netns {router.pid}")
        backend.ip(f"link add far type veth peer name far netns {router.pid}")
        router.ip(
            "address add 10.9.0.2/24 dev thin\naddress add 2001:db8:90::2/64 dev thin nodad\nlink set thin up\n"
            "address add 10.9.1.1/24 dev far\naddress add 2001:db8:91::1/64 dev far nodad\nlink set far up"
        )
        backend.ip(
            f"address add {FAR}/24 dev far\naddress add {FAR6}/64 dev far nodad\nlink set far up\n"
            "route add 10.9.0.0/24 via 10.9.1.1\nroute add 2001:db8:90::/64 via 2001:db8:91::1"
        )
        balancer.host.ip(
            "address add 10.9.0.1/24 dev thin\naddress add 2001:db8:90::1/64 dev thin nodad\nlink set thin up\n"
            "route add 10.9.1.0/24 via 10.9.0.2\nroute add 2001:db8:91::/64 via 2001:db8:90::2"
        )
        for host, links in ((router, ["thin", "far"]), (balancer.host, ["thin"]), (backend, ["far"])):
            host.call(wait_until_running, links)
        yield
    finally:
        backend.run("ip", "link", "delete", "far", check=False)
        router.close()


@contextlib.contextmanager
def without_icmp(balancer: Balancer) -> Iterator[None]:
    """A firewall in front of the client, which drops what it knows no use of."""
    head = "type filter hook input priority 0;"
    icmp = "icmp type destination-unreachable drop\nicmpv6 type packet-too-big drop"
    balancer.client.run("nft", "-f", "-", stdin=f"table inet theirs {{\nchain i {{\n{head}\n{icmp}\n}}\n}}\n")
    try:
        yield
    finally:
        balancer.client.run("nft", "delete", "table", "inet", "theirs")


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_a_smaller_link(balancer: Balancer, family: str) -> None:
    """Connections open, and what is large never arrives, since nobody tells the client."""
    # What the client learns of an address holds for ten minutes, and so each engine has one of its own.
    number = 2 + ENGINES.index("-".join(filter(None, (balancer.engine, balancer.variant))))
    address, client = (f"192.0.2.1{number}", CLIENT) if family == "ip" else (f"2001:db8:1::1{number}", CLIENT6)
    target = f"{address}:80" if family == "ip" else f"[{address}]:80"
    balancer.host.run("ip", "address", "add", address, "dev", "front", *(["nodad"] if family == "ip6" else []))
    mss = 1360 if family == "ip" else 1340
    with thin_way(balancer):
        apply(balancer, [service(listen=[target], backends=[{"address": FAR if family == "ip" else FAR6}])])
        with without_icmp(balancer):
            assert not large(balancer, target, 2)
            step = doubt(balancer, client, target)
            assert (step["where"], "more than 1400 bytes" in step["said"]) == ("mtu", True)
            assert step["remedy"] == f"let ICMP pass (fragmentation needed, packet too big), or clamp the MSS to {mss}"
            with clamped(balancer, family, mss + 1):
                assert not large(balancer, target, 2), "one byte more is too much"
            for size in (mss, None):
                with clamped(balancer, family, size):
                    assert large(balancer, target, 30)
            assert not large(balancer, target, 2)
        assert large(balancer, target, 30)
        balancer.host.ip("link set thin mtu 1500")
        assert not [step for step in traced(balancer, client, target)[1]["steps"] if step["where"] == "mtu"]


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
