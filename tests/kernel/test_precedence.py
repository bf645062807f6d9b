# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Of overlapping frontends the most specific one takes a packet: random packets over random services, compared with
`model/precedence.py`; and what becomes of connections when such services come and go."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from itertools import product

import pytest
from _natlb.errors import ConfigErrors
from _natlb.model.precedence import Packet, winner
from _natlb.model.services import parse_config
from kernel_lab import server, traffic
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.topology import BACK, BACK6, CLIENT, CLIENT6, FRONT, FRONT6, PORTS, TEN, VIP

#: Packets of one declaration, and declarations, one after the other: ten thousand in all but for `make test`.
PACKETS = 250
ROUNDS = 4 if os.environ.get("NATLB_KERNEL") == "short" else 20
INSIDE = "web2"
#: Of each declaration as many packets wait in vain: for addresses that are somewhere else.
UNANSWERED = 2
LAST_PORT = 12
REFLECTED = {"ip": "10.0.0.200", "ip6": "2001:db8:2::c8"}
REFUSED = ("", 0, "refused")
OWN = {"ip": BACK, "ip6": BACK6}
OUTSIDE = {"ip": CLIENT, "ip6": CLIENT6}
#: Those that the balancer has, and those that are just routed to it.
LOCAL = {"ip": ["192.0.2.9", "192.0.2.11"], "ip6": ["2001:db8:1::11", "2001:db8:1::13"]}
FAR = {"ip": ["192.0.2.8", "192.0.2.10", "192.0.2.12"], "ip6": ["2001:db8:1::10", "2001:db8:1::12"]}
#: One within the other, with and without those above.
NETWORKS = {
    "ip": ["0.0.0.0/0", "192.0.2.0/24", "192.0.2.8/29", "192.0.2.8/31", "192.0.2.10/31", "192.0.2.12/30"],
    "ip6": ["::/0", "2001:db8:1::/64", "2001:db8:1::10/124", "2001:db8:1::10/127", "2001:db8:1::12/127"],
}


def shown(family: str, address: str | None, ports: str | int) -> str:
    host = "*" if address is None else f"[{address}]" if family == "ip6" else address
    return f"{host}:{ports}"


def declaration(chance: random.Random, family: str) -> list[Mapping]:
    """Services that overlap in all ways, without conflicts. What a backend sees tells most of them apart."""
    found: list[Mapping] = []
    servers = [{"address": address, "port": port} for address in TEN[:4] for port in PORTS]
    for number in range(chance.randint(8, 40)):
        low = chance.randint(1, LAST_PORT)
        high = chance.choice([low, low, min(low + chance.randint(1, 6), LAST_PORT)])
        ports = str(low) if low == high else f"{low}-{high}"
        address = chance.choice([None, None, *LOCAL[family], *FAR[family], *NETWORKS[family]])
        backend = dict(chance.choice(servers))
        if family == "ip6":
            backend["address"] = f"2001:db8:2::{backend['address'].rpartition('.')[2]}"
        one: Mapping = {
            "name": f"s{number}",
            "listen": [shown(family, address, ports)],
            "protocol": chance.choice(["tcp", "udp", ["tcp", "udp"]]),
            "method": chance.choice(["round_robin", "random", "source_hash"]),
            "snat": chance.choice(["none", "masquerade", REFLECTED[family]]),
            "backends": [backend],
        }
        if one["protocol"] == "tcp" and chance.random() < 0.2:
            one.update({"backends": [], "snat": "masquerade"})
        interface = chance.choice([None, None, "front", "back"])
        if interface:
            one["interface"] = interface
        try:
            parse_config([*found, one])
        except ConfigErrors:
            continue
        found.append(one)
    return found


def packets(chance: random.Random, family: str) -> list[Packet]:
    """Some of the client, some of a host on the inside, and some of the balancer itself."""
    front = FRONT if family == "ip" else FRONT6
    found = []
    for _number in range(PACKETS):
        interface = chance.choice(["front", "front", "back", None])
        local = chance.random() < (0.9 if interface is None else 0.6)
        address = chance.choice([*LOCAL[family], front] if local else FAR[family])
        protocol = chance.choice(["tcp", "udp"])
        found.append(Packet(family, protocol, address, chance.randint(1, LAST_PORT), local, interface))
    return found


def expected(services: Sequence[Mapping], packet: Packet) -> tuple[str, int, str] | None:
    """The server that answers, and whom it sees; or that a service without backends refuses it; None where no service
    takes it."""
    config = parse_config(services)
    owners = {frontend: item for item in config.services for frontend in item.frontends()}
    found = winner(owners, packet)
    if found is None:
        return None
    owner = owners[found]
    if not owner.backends:
        return REFUSED
    (backend,) = owner.backends
    seen = OUTSIDE[packet.family] if packet.interface == "front" and owner.snat == "none" else OWN[packet.family]
    return backend.address, backend.port or 0, REFLECTED[packet.family] if owner.snat == "address" else seen


def kept(sent: Sequence[Packet], wanted: Sequence[object]) -> list[int]:
    """The packets that somebody answers, if only the balancer itself, and few of the others."""
    vain = [number for number, packet in enumerate(sent) if wanted[number] is None and not packet.local]
    return sorted({*range(len(sent))} - {*vain[UNANSWERED:]})


def asked(balancer: Balancer, sent: Sequence[Packet], wanted: Sequence[object]) -> list[tuple[str, int, str] | None]:
    """Who is to be answered may wait, as on a busy machine it has to."""
    hosts = {"front": balancer.client, "back": balancer.lab.backends[INSIDE], None: balancer.host}
    found: dict[int, tuple[str, int, str] | None] = {}
    for (interface, host), in_vain in product(hosts.items(), (False, True)):
        numbers = [
            number
            for number, packet in enumerate(sent)
            if packet.interface == interface and (wanted[number] is None and not packet.local) == in_vain
        ]
        targets = [(sent[n].protocol, shown(sent[n].family, sent[n].address, sent[n].port)) for n in numbers]
        timeout_s = 0.3 if in_vain else traffic.TIMEOUT_S
        for number, answer in zip(numbers, host.call(traffic.ask_each, targets, timeout_s=timeout_s), strict=True):
            served = answer.name not in ("", "balancer")
            refused = REFUSED if answer.error == "ConnectionRefusedError" else None
            found[number] = (answer.local, answer.local_port, answer.peer) if served else refused
            assert answer.name or refused or not sent[number].local, (sent[number], answer)
    return [found[number] for number in range(len(sent))]


def prepare(balancer: Balancer, family: str) -> None:
    """What no service takes is for the balancer itself. The address for source NAT is none to masquerade with."""
    prefix, flags = ("32", "") if family == "ip" else ("128", " nodad")
    balancer.host.ip(f"address add {REFLECTED[family]}/{prefix} dev back preferred_lft 0{flags}")
    for address in LOCAL[family]:
        balancer.host.ip(f"address add {address}/{prefix} dev front{flags}")
    balancer.host.call(server.start, "balancer", range(1, LAST_PORT + 1))


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_random_packets_over_random_services(balancer: Balancer, family: str) -> None:
    prepare(balancer, family)
    chance = random.Random(f"{family} 14")
    served = overlapping = 0
    for _round in range(ROUNDS):
        services = declaration(chance, family)
        balancer.apply(services)
        assert not balancer.apply(services).changed
        sent = packets(chance, family)
        wanted = [expected(services, packet) for packet in sent]
        numbers = kept(sent, wanted)
        sent, wanted = [sent[number] for number in numbers], [wanted[number] for number in numbers]
        got = asked(balancer, sent, wanted)
        wrong = [(p, w, g) for p, w, g in zip(sent, wanted, got, strict=True) if w != g]
        assert not wrong, (services, len(wrong), wrong[:3])
        served += sum(item is not None for item in wanted)
        overlapping += len(services)
    print(f"{ROUNDS * PACKETS} packets, {served} of them served, {overlapping} services")
    assert served > ROUNDS * PACKETS // 4


#: One that is always there, one that comes and goes, and a target of both.
PAIRS = {
    "an address": ({"listen": "*:80"}, {"listen": f"{FRONT}:80"}, f"{FRONT}:80"),
    "a port": ({"listen": f"{VIP}:9000-9003"}, {"listen": f"{VIP}:9002"}, f"{VIP}:9002"),
    "a port of *": ({"listen": "*:9000-9003"}, {"listen": "*:9002"}, f"{FRONT}:9002"),
    "a range": ({"listen": f"{VIP}:9000-9003"}, {"listen": f"{VIP}:9001-9002"}, f"{VIP}:9002"),
    "an interface": ({"listen": f"{VIP}:80"}, {"listen": f"{VIP}:80", "interface": "front"}, f"{VIP}:80"),
    "an interface of *": ({"listen": "*:80"}, {"listen": "*:80", "interface": "front"}, f"{FRONT}:80"),
    "a network": ({"listen": "192.0.2.0/28:80"}, {"listen": f"{VIP}:80"}, f"{VIP}:80"),
    "networks": ({"listen": "0.0.0.0/0:70-90"}, {"listen": "192.0.2.8/30:80"}, f"{VIP}:80"),
    "an interface of a network": (
        {"listen": "192.0.2.0/24:80"},
        {"listen": "192.0.2.0/24:80", "interface": "front"},
        f"{VIP}:80",
    ),
    "all": ({"listen": "*:9000-9003"}, {"listen": f"{FRONT}:9002", "interface": "front"}, f"{FRONT}:9002"),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_the_specific_one_comes_and_goes(balancer: Balancer, kind: str) -> None:
    """At once for new connections, of which none fails meanwhile. Established ones stay."""
    wide, narrow, target = PAIRS[kind]
    general = service("general", **{**wide, "backends": webs("web1")})
    specific = service("specific", **{**narrow, "backends": webs("web3")})
    balancer.apply([general])
    load = balancer.client.begin(traffic.hammer, [target], limit_s=30.0, keep=2)
    balancer.client.call(traffic.hammering)
    (early,) = balancer.hold(target)
    for _turn in range(3):
        balancer.apply([general, specific])
        assert balancer.tally(target, 4) == {"web3": 4}
        (between,) = balancer.hold(target)
        assert balancer.apply([specific, general]).transaction == "none", "their order is no matter"
        balancer.apply([general])
        assert balancer.tally(target, 4) == {"web1": 4}
        assert balancer.talk(between[0]).name == "web3"
        assert balancer.talk(early[0]).name == "web1"
    balancer.client.call(traffic.halt)
    seen = traffic.Hammered(*load.result(30))
    assert set(seen.answers) == {"web1", "web3"}, seen
    assert not seen.cut, seen
    balancer.apply([specific])
    assert balancer.tally(target, 2) == {"web3": 2}


@pytest.mark.parametrize("kind", ["a port of *", "an interface of *", "networks"])
def test_nobody_is_refused_while_it_comes_and_goes(balancer: Balancer, kind: str) -> None:
    """What a packet finds of the ranges before the change leads somewhere until no packet can find it any more."""
    wide, narrow, target = PAIRS[kind]
    general = service("general", **{**wide, "backends": webs("web1")})
    specific = service("specific", **{**narrow, "backends": webs("web3")})
    balancer.apply([general])
    sources = ["198.18.0.1", "198.18.0.2", "198.18.0.3"]
    options = {"limit_s": 60.0, "keep": 0, "breath_s": 0}
    loads = [balancer.client.begin(traffic.hammer, [target], source=source, **options) for source in sources]
    balancer.client.call(traffic.hammering)
    for _turn in range(10):
        balancer.apply([general, specific])
        balancer.apply([general])
    balancer.client.call(traffic.halt)
    seen = [traffic.Hammered(*load.result(30)) for load in loads]
    assert {name for one in seen for name in one.answers} == {"web1", "web3"}, seen
    # Whether packets have to come again is for test_churn.py to say: at this rate ports of clients do, too, before
    # everybody has forgotten their last connection.


def test_a_range_around_others_comes_and_goes(balancer: Balancer) -> None:
    inner = service("inner", listen=f"{VIP}:9001-9002", backends=webs("web1"))
    port = service("port", listen=f"{VIP}:9002", backends=webs("web2"))
    outer = service("outer", listen=f"{VIP}:9000-9003", backends=webs("web3"))
    expected = {
        "inner port outer": ["web3", "web1", "web2", "web3"],
        "inner outer": ["web3", "web1", "web1", "web3"],
        "port outer": ["web3", "web3", "web2", "web3"],
        "inner port": ["", "web1", "web2", ""],
        "outer": ["web3"] * 4,
    }
    services = {one["name"]: one for one in (inner, port, outer)}
    for _turn in range(2):
        for names, wanted in expected.items():
            declared = [services[name] for name in names.split()]
            balancer.apply(declared)
            assert not balancer.apply(declared).changed
            targets = [("tcp", f"{VIP}:{number}") for number in range(9000, 9004)]
            found = balancer.client.call(traffic.ask_each, targets, timeout_s=0.3)
            assert [answer.name for answer in found] == wanted, names


def test_state_and_weight_of_one_that_overlaps(balancer: Balancer) -> None:
    """Such a change renders some services by themselves; what others leave of their ranges is the same then."""
    declared = [
        service("outer", listen="*:9000-9003", backends=webs("web1", "web2")),
        service("inner", listen="*:9001-9002", backends=webs("web3", "web4")),
        service("address", listen=f"{FRONT}:9000-9002", backends=webs("web2", "web3")),
        *(service(f"other{n}", listen=f"{VIP}:{n}", backends=webs("web1")) for n in range(1, 13)),
    ]
    balancer.apply(declared)
    for name, port, left in (("outer", 9003, "web2"), ("inner", 9002, "web4"), ("address", 9002, "web3")):
        (one,) = [item for item in declared if item["name"] == name]
        states = {left: "active"}
        one["backends"] = [{**item, "state": states.get(item["name"], "drained")} for item in one["backends"]]
        assert balancer.apply(declared).changed
        assert not balancer.apply(declared).changed
        target = f"{BACK if name == 'inner' else FRONT}:{port}"
        assert balancer.tally(target, 4) == {left: 4}
        balancer.backend(left, "drained", service=name, min_active=0)
        assert not {"web1", "web2", "web3", "web4"} & set(balancer.tally(target, 2, timeout_s=0.5))
        balancer.backend(left, "active", service=name)
        assert balancer.tally(target, 4) == {left: 4}


@pytest.mark.parametrize("kind", ["an address", "a port", "a range", "a port of *"])
def test_connections_are_counted_and_closed_for_their_own_service(balancer: Balancer, kind: str) -> None:
    """Both have the same backend."""
    wide, narrow, target = PAIRS[kind]
    elsewhere = f"{BACK}:80" if kind == "an address" else f"{target.rpartition(':')[0]}:9000"
    general = service("general", **{**wide, "backends": webs("web1", "web2")})
    specific = service("specific", **{**narrow, "backends": webs("web1", "web3")})
    balancer.apply([general])
    early = balancer.hold(target, 2)
    balancer.apply([general, specific])
    held = {"general": balancer.hold(elsewhere, 4), "specific": balancer.hold(target, 4)}
    assert counted(balancer) == {
        # With the backend in common, one that began before cannot be told from the more specific one's.
        ("general", "web1"): 2,
        ("general", "web2"): 3,
        ("specific", "web1"): 3,
        ("specific", "web3"): 2,
    }
    closed = balancer.backend("web1", "disabled", service="general", wait=True, wait_timeout=1, close_connections=True)
    assert closed["closed"] == 2
    alive = {name: [balancer.talk(handle).name for handle, _answer in found] for name, found in held.items()}
    assert sorted(alive["specific"]) == ["web1", "web1", "web3", "web3"]
    assert alive["general"].count("web2") == 2
    assert "web1" not in alive["general"]
    assert [balancer.talk(handle).name for handle, _answer in early] == ["web1", "web2"]


def counted(balancer: Balancer) -> dict[tuple[str, str], int]:
    return {
        (one["name"], backend["name"]): backend["active_connections"]
        for one in balancer.info()["services"]
        for backend in one["backends"]
    }


def test_udp_begins_anew_where_a_more_specific_service_comes(balancer: Balancer) -> None:
    """As for any other change of who serves it; a flow that the specific one would have made the same way stays."""
    general = service("general", listen=f"{VIP}:9000-9003", protocol="udp", backends=webs("web1"))
    balancer.apply([general])
    ((handle, first),) = balancer.hold(f"{VIP}:9002", protocol="udp")
    ((other, _second),) = balancer.hold(f"{VIP}:9001", protocol="udp")
    assert first.name == "web1"
    specific = service("specific", listen=f"{VIP}:9002", protocol="udp", backends=webs("web3"))
    balancer.apply([general, specific])
    assert balancer.talk(handle).name == "web3"
    assert balancer.talk(other).name == "web1"
    balancer.apply([general])
    assert balancer.talk(handle).name == "web1"


@pytest.mark.parametrize(
    "keys",
    [
        {"listen": f"{VIP}:1000-1003"},
        {"listen": f"{VIP}:1000-1003", "interface": "front"},
        {"listen": "*:1000-1003", "snat": "none"},
    ],
    ids=str,
)
def test_what_is_left_of_shifted_ports(balancer: Balancer, keys: Mapping) -> None:
    """Each port keeps its distance, whatever is left of the range."""
    host = FRONT if "*" in keys["listen"] else VIP
    outer = service("outer", **{**keys, "backends": webs("web1", port="9000-9003")})
    inner = service(
        "inner", **{**keys, "listen": keys["listen"].replace("1000-1003", "1001"), "backends": webs("web2")}
    )
    inner["backends"][0]["port"] = 80
    declared = [outer, inner]
    balancer.apply(declared)
    assert not balancer.apply(declared).changed
    found = balancer.client.call(traffic.ask_each, [("tcp", f"{host}:{port}") for port in range(1000, 1004)])
    assert [(answer.name, answer.local_port) for answer in found] == [
        ("web1", 9000),
        ("web2", 80),
        ("web1", 9002),
        ("web1", 9003),
    ]
    assert {answer.peer for answer in found} == {CLIENT if "snat" in keys else BACK}
