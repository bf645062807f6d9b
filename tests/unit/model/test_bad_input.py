# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that can be typed wrongly: each with its place, what is wrong there, and what to write instead."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from _natlb.errors import ConfigError, ConfigErrors
from _natlb.model.dumps import UNUSED, UNUSED_OF_BACKENDS
from _natlb.model.entities import dump
from _natlb.model.services import parse_config
from hypothesis import given, settings
from hypothesis import strategies as st

BACKEND = {"address": "10.0.0.3", "port": 8080}
SERVICE: dict[str, Any] = {"name": "web", "listen": "192.0.2.10:80", "backends": [BACKEND]}
EGRESS: dict[str, Any] = {"source": "10.0.0.0/24"}
UPLINK = {"interface": "eth1", "gateway": "203.0.113.1"}
ABSENT = object()


def service(**changes: Any) -> list[dict[str, Any]]:
    changed = {**SERVICE, **changes}
    return [{key: value for key, value in changed.items() if value is not ABSENT}]


def backend(**changes: Any) -> list[dict[str, Any]]:
    changed = {**BACKEND, **changes}
    return service(backends=[{key: value for key, value in changed.items() if value is not ABSENT}])


def quorate(least: Any, *again: Any, backends: int = 1) -> list[dict[str, Any]]:
    """A service with so many backends, and a backup."""
    others = [{"address": f"10.0.0.{number}"} for number in range(3, 3 + backends)]
    keys = dict(zip(("min_healthy", "min_healthy_again"), (least, *again), strict=False))
    return service(health={"type": "tcp"}, backends=[*others, {"address": "10.0.0.99", "backup": True}], **keys)


def two(**changes: Any) -> list[dict[str, Any]]:
    return [SERVICE, {**SERVICE, "name": "other", **changes}]


def taken_over(**changes: Any) -> list[dict[str, Any]]:
    return service(**{"takeover": True, "snat": "none", "method": "flow_hash", **changes})


SERVICES = [
    # shape
    (5, "services", "not a list"),
    ("web", "services", "not a list"),
    ({"name": "web"}, "services", "not a list"),
    ([5], "services[0]", "not a mapping"),
    ([None], "services[0]", "not a mapping"),
    ([[SERVICE]], "services[0]", "not a mapping"),
    (service(colour="red"), "services[0].colour", "no such key"),
    (service(Listen="192.0.2.10:80"), "services[0].Listen", "no such key"),
    # name
    (service(name=ABSENT), "services[0].name", "is missing"),
    (service(name=None), "services[0].name", "has no value"),
    (service(name=""), "services[0].name", "not a name"),
    (service(name="Web"), "services[0].name", "not a name"),
    (service(name="-web"), "services[0].name", "not a name"),
    (service(name="web\n"), "services[0].name", "not a name"),
    (service(name='web" ; flush ruleset'), "services[0].name", "not a name"),
    (service(name="w" * 64), "services[0].name", "not a name"),
    (service(name=["web"]), "services[0].name", "not a name"),
    ([SERVICE, {**SERVICE, "listen": "192.0.2.11:80"}], "services[1].name", "is the name of services[0] already"),
    # listen
    (service(listen=ABSENT), "services[0].listen", "is missing"),
    (service(listen=[]), "services[0].listen", "is empty"),
    (service(listen=80), "services[0].listen", "not ADDRESS:PORT"),
    (service(listen="192.0.2.10"), "services[0].listen", "not ADDRESS:PORT"),
    (service(listen=":80"), "services[0].listen", "not ADDRESS:PORT"),
    (service(listen=["192.0.2.10:80", "192.0.2.10:"]), "services[0].listen[1]", "not a port"),
    (service(listen="192.0.2.10:http"), "services[0].listen", "not a port"),
    (service(listen="192.0.2.10:0"), "services[0].listen", "not a port"),
    (service(listen="192.0.2.10:99999"), "services[0].listen", "not a port"),
    (service(listen="192.0.2.10:-80"), "services[0].listen", "not a port"),
    (service(listen="192.0.2.10:8010-8000"), "services[0].listen", "ends before it begins"),
    (service(listen="192.0.2.256:80"), "services[0].listen", "not an IP address"),
    (service(listen="www.example.com:80"), "services[0].listen", "not an IP address"),
    (service(listen="2001:db8::10:80"), "services[0].listen", "not ADDRESS:PORT"),
    (service(listen="[192.0.2.10]:80"), "services[0].listen", "brackets around an IPv4 address"),
    (service(listen="[fe80::1%eth0]:80"), "services[0].listen", "not an IP address"),
    (service(listen="0.0.0.0:80"), "services[0].listen", "no host's address"),
    (service(listen="[::]:80"), "services[0].listen", "no host's address"),
    (service(listen="127.0.0.1:80"), "services[0].listen", "loopback"),
    (service(listen="224.0.0.1:80"), "services[0].listen", "not a unicast address"),
    (service(listen="255.255.255.255:80"), "services[0].listen", "not a unicast address"),
    (service(listen=["192.0.2.10:80", "192.0.2.10:70-90"]), "services[0].listen", "overlap"),
    (
        service(listen="198.51.100.7/24:80"),
        "services[0].listen",
        "has bits set behind its prefix",
    ),
    (service(listen="198.51.100.0/33:80"), "services[0].listen", "is not a network"),
    (service(listen="198.51.100.0/24"), "services[0].listen", "not ADDRESS:PORT"),
    (service(listen="/24:80"), "services[0].listen", "is not a network"),
    (service(listen="::/0:80"), "services[0].listen", "not ADDRESS:PORT"),
    (service(listen="[::/0]/0:80"), "services[0].listen", "is not a network"),
    (service(listen="[198.51.100.0/24]:80"), "services[0].listen", "brackets around an IPv4 address"),
    (service(listen="224.0.0.0/8:80"), "services[0].listen", "224.0.0.0/8 has no address that NAT balances"),
    (service(listen="[fe80::/10]:80"), "services[0].listen", "fe80::/10 has no address that NAT balances"),
    (service(listen="127.0.0.1/32:80"), "services[0].listen", "loopback"),
    (service(listen="[::ffff:0:0/96]:80"), "services[0].listen", "IPv4 addresses in IPv6 notation"),
    (service(listen=["198.51.100.0/24:80", "198.51.100.0/24:70-90"]), "services[0].listen", "overlap"),
    (
        [{**SERVICE, "listen": "*:70-90"}, {**SERVICE, "name": "net", "listen": "0.0.0.0/0:80", "snat": "none"}],
        "services[1].snat",
        "net (tcp 0.0.0.0/0:80) and web (services[0], tcp *:70-90) share the backend 10.0.0.3, whose connections",
    ),
    # choices
    (service(protocol="http"), "services[0].protocol", "not a choice"),
    (service(protocol=["tcp", "icmp"]), "services[0].protocol[1]", "not a choice"),
    (service(protocol=[]), "services[0].protocol", "is empty"),
    (service(method="fastest"), "services[0].method", "not a choice"),
    (service(method="ip_hash"), "services[0].method", "no method here"),
    (service(method="SED"), "services[0].method", "no method here"),
    (service(method=["random"]), "services[0].method", "not a choice"),
    (service(redispatch="perhaps"), "services[0].redispatch", "is neither true nor false"),
    (service(redispatch=True, protocol=["udp", "sctp"]), "services[0].redispatch", "there is none for udp and sctp"),
    (service(takeover="perhaps"), "services[0].takeover", "is neither true nor false"),
    (service(takeover=True, protocol="udp"), "services[0].takeover", "there is none for udp"),
    (
        service(takeover=True, method="source_hash"),
        "services[0].takeover",
        "backends answer the balancer, which alone knows the client",
    ),
    (
        service(takeover=True, snat="none"),
        "services[0].takeover",
        "another balancer does not find the same backend by round_robin",
    ),
    (taken_over(affinity=60), "services[0].takeover", "leads clients to backends that only this balancer remembers"),
    (
        taken_over(backends=[{"address": "10.0.0.3", "max_connections": 5}]),
        "services[0].takeover",
        "connections that met a full backend are elsewhere than their hash says",
    ),
    (taken_over(listen="192.0.2.10:80-81"), "services[0].takeover", "by which address or port the client came"),
    (taken_over(listen="*:80"), "services[0].takeover", "by which address or port the client came"),
    (taken_over(interface="eth0"), "services[0].takeover", "by which address or port the client came"),
    (
        [
            {**SERVICE, "name": "other", "listen": "192.0.2.11:80", "snat": "none"},
            *taken_over(),
        ],
        "services[1].takeover",
        "tcp 192.0.2.10:80 and tcp 192.0.2.11:80 (service other), so its packets may be of either",
    ),
    (quorate(0), "services[0].min_healthy", "0 is not a number of backends"),
    (quorate("two"), "services[0].min_healthy", "'two' is not a number of backends"),
    (quorate(True), "services[0].min_healthy", "True is not a number of backends"),
    (quorate("140%"), "services[0].min_healthy", "'140%' is not a percentage of the backends"),
    (quorate("0%"), "services[0].min_healthy", "'0%' is not a percentage of the backends"),
    (quorate("2.5%"), "services[0].min_healthy", "'2.5%' is not a percentage of the backends"),
    (quorate(2), "services[0].min_healthy", "2 are more than the service has: 1 IPv4 backend, without"),
    (quorate(1, 2), "services[0].min_healthy_again", "2 are more than the service has: 1 IPv4 backend, without"),
    (quorate("100%", 1, backends=2), "services[0].min_healthy_again", "1 are fewer than min_healthy, 2 of 2"),
    (quorate(1, 0), "services[0].min_healthy_again", "0 is not a number of backends"),
    (quorate(1, backends=0), "services[0].min_healthy", "has no backend that is no backup"),
    (service(min_healthy=1), "services[0].min_healthy", "nothing finds out how many backends are healthy"),
    (service(min_healthy_again=1), "services[0].min_healthy_again", "is of no use without min_healthy"),
    (service(backups="first"), "services[0].backups", "first, but the service has no backup"),
    (service(backups="one_for_one"), "services[0].backups", "one_for_one, but the service has no backup"),
    (service(when_empty="explode"), "services[0].when_empty", "not a choice"),
    (service(interface="eth0; reboot"), "services[0].interface", "not the name of an interface"),
    (service(interface="an-interface-too-long"), "services[0].interface", "not the name of an interface"),
    (service(interface=""), "services[0].interface", "not the name of an interface"),
    (service(interface="-i"), "services[0].interface", "not the name of an interface"),
    (service(interface="--wait"), "services[0].interface", "not the name of an interface"),
    (service(interface=".."), "services[0].interface", "not the name of an interface"),
    (service(interface="@eth0"), "services[0].interface", "not the name of an interface"),
    (service(interface="front@if9"), "services[0].interface", "is how `ip link` shows the interface front"),
    # shifted ports
    *(
        (
            [{**SERVICE, "listen": listen, "backends": [{**BACKEND, "port": port}]}],
            "services[0].backends[0].port",
            problem,
        )
        for listen, port, problem in [
            ("192.0.2.10:8000-8010", "9000-9011", "9000-9011 are 12 ports, and the service listens on 11"),
            ("192.0.2.10:80", "9000-9001", "9000-9001 are 2 ports, and the service listens on 1"),
            (["192.0.2.10:80-81", "192.0.2.10:90-91"], "9000-9001", "is a range, and the service listens on several"),
            ("192.0.2.10:60000-60010", "+9000", "+9000 leads from 60010 to 69010"),
            ("192.0.2.10:80-90", "-80", "-80 leads from 80 to 0"),
            ("192.0.2.10:1-5000", "+1000", "5000 ports are shifted"),
            ("192.0.2.10:80-90", "9010-9000", "ends before it begins"),
            ("192.0.2.10:80-90", "+", "'+' is not a port"),
            ("192.0.2.10:80-90", -5, "-5 is not a port"),
            ("192.0.2.10:80-90", "9000-", "'9000-' is not a port"),
        ]
    ),
    (
        service(listen="192.0.2.10:80-90", backends=[{**BACKEND, "port": "+1"}, {**BACKEND, "port": "+2"}]),
        "services[0].backends[1]",
        "10.0.0.3 stands at",
    ),
    (
        service(listen="192.0.2.10:80-90", backends=[{**BACKEND, "port": "+1"}], health={"type": "tcp"}),
        "services[0].health.port",
        "is missing",
    ),
    (
        service(listen="192.0.2.10:80-90", backends=[{"address": "192.0.2.10", "port": "+5"}]),
        "services[0].backends[0]",
        "is the frontend 192.0.2.10:80-90 itself",
    ),
    # pins
    *(
        (service(pins=[pin]), f"services[0].pins[0]{path}", problem)
        for pin, path, problem in [
            ({"client": "198.51.100.0/24", "backend": "web9"}, ".backend", "'web9' is no backend of the service"),
            ({"client": "198.51.100.7/24", "backend": "web1"}, ".client", "bits set behind its prefix"),
            ({"client": "2001:db8::/32", "backend": "10.0.0.3"}, ".client", "is not of the family of 10.0.0.3"),
            ({"client": "198.51.100.0/24"}, ".backend", "is missing"),
            ({"client": "198.51.100.0/24", "backend": None}, ".backend", "has no value"),
            ({"client": "198.51.100.0/24", "backend": 3}, ".backend", "'3' is no backend of the service"),
            ({"client": "198.51.100.0/24", "backend": True}, ".backend", "True is not a name"),
            ({"client": "198.51.100.0/24", "backend": "web1", "port": 1}, ".port", "no such key"),
            ("198.51.100.0/24", "", "is not a mapping"),
        ]
    ),
    (service(pins={}), "services[0].pins", "is not a list"),
    (service(pins=[{"client": "198.51.100.0/24", "backend": "10.0.0.3"}] * 2), "services[0].pins[1].client", "already"),
    (service(pins=[{}] * 4097), "services[0].pins", "4097 pins"),
    # numbers
    (service(affinity="soon"), "services[0].affinity", "not a time"),
    (service(affinity="500ms"), "services[0].affinity", "not a whole number of seconds"),
    (service(affinity=0.25), "services[0].affinity", "not a whole number of seconds"),
    (service(affinity="1500ms"), "services[0].affinity", "not a whole number of seconds"),
    (service(affinity=-1), "services[0].affinity", "out of range"),
    (service(affinity=10**400), "services[0].affinity", "out of range"),
    (service(affinity=float("nan")), "services[0].affinity", "out of range"),
    (service(affinity="800h"), "services[0].affinity", "out of range"),
    (service(affinity=True), "services[0].affinity", "not a time"),
    (service(affinity=9, client_prefix=24), "services[0].client_prefix", "24 does not say of which family"),
    (service(affinity=9, client_prefix="/24"), "services[0].client_prefix", "'/24' does not say of which family"),
    (service(affinity=9, client_prefix=[24]), "services[0].client_prefix", "not a mapping"),
    (service(affinity=9, client_prefix={"ip": 24}), "services[0].client_prefix.ip", "no such key"),
    (
        service(affinity=9, client_prefix={"ipv4": 33}),
        "services[0].client_prefix.ipv4",
        "33 is not a length",
    ),
    (service(affinity=9, client_prefix={"ipv6": 0}), "services[0].client_prefix.ipv6", "0 is not a length"),
    (service(client_prefix={"ipv4": 24}), "services[0].client_prefix", "is of no use to this service"),
    (
        service(method="flow_hash", client_prefix={"ipv4": 24}),
        "services[0].client_prefix",
        "is of no use to this service",
    ),
    (service(max_connections_per_client=-1), "services[0].max_connections_per_client", "not a whole number"),
    (service(max_connections_per_client="many"), "services[0].max_connections_per_client", "not a whole number"),
    (service(max_connections_per_client=1.5), "services[0].max_connections_per_client", "not a whole number"),
    (service(new_connections_per_second=10**9), "services[0].new_connections_per_second", "not a whole number"),
    (service(log="perhaps"), "services[0].log", "neither true nor false"),
    (service(log_prefix="web "), "services[0].log_prefix", "nothing is logged"),
    (service(log=True, log_prefix='web" '), "services[0].log_prefix", "not a prefix"),
    (service(log=True, log_prefix="$web"), "services[0].log_prefix", "not a prefix"),
    (service(log=True, log_prefix="@web"), "services[0].log_prefix", "not a prefix"),
    (service(log=True, log_prefix="w" * 30), "services[0].log_prefix", "not a prefix"),
    (service(log=True, log_prefix=""), "services[0].log_prefix", "not a prefix"),
    # source addresses
    (service(snat="masq"), "services[0].snat", "not an IP address"),
    (service(snat=[]), "services[0].snat", "is empty"),
    (service(snat="127.0.0.1"), "services[0].snat", "loopback"),
    (service(snat=["192.0.2.1", "none"]), "services[0].snat[1]", "not an IP address"),
    (service(snat="2001:db8::1"), "services[0].snat", "names no IPv4 address"),
    (service(snat=["192.0.2.1", "2001:db8::1"]), "services[0].snat", "does not listen in"),
    *(
        (service(snat_by_client=rules), f"services[0].snat_by_client{path}", problem)
        for rules, path, problem in [
            ({}, "", "is not a list"),
            (["198.51.100.0/24"], "[0]", "is not a mapping"),
            ([{"networks": ["198.51.100.0/24"]}], "[0].snat", "is missing"),
            ([{"snat": "none"}], "[0].networks", "is missing"),
            ([{"networks": ["198.51.100.0/24"], "snat": None}], "[0].snat", "has no value"),
            ([{"networks": [], "snat": "none"}], "[0].networks", "is empty"),
            ([{"networks": "198.51.100.7/24", "snat": "none"}], "[0].networks", "bits set behind its prefix"),
            ([{"networks": ["x"], "snat": "none"}], "[0].networks[0]", "'x' is not a network"),
            ([{"networks": "198.51.100.0/24", "snat": "masq"}], "[0].snat", "'masq' is not an IP address"),
            ([{"networks": "198.51.100.0/24", "snat": "10.0.0.1", "to": 1}], "[0].to", "no such key"),
            ([{"networks": "198.51.100.0/24", "snat": "2001:db8::1"}], "[0].snat", "names no IPv4 address"),
            (
                [{"networks": "198.51.100.0/24", "snat": ["10.0.0.1", "2001:db8::1"]}],
                "[0].snat",
                "2001:db8::1 is of a family that none of its networks is of",
            ),
            (
                [{"networks": "2001:db8::/32", "snat": "none"}],
                "[0].networks",
                "2001:db8::/32 is of a family that the service does not listen in",
            ),
            (
                [
                    {"networks": ["198.51.0.0/16", "198.51.100.0/24"], "snat": "none"},
                    {"networks": ["198.51.100.0/24"], "snat": "masquerade"},
                ],
                "[1].networks",
                "198.51.100.0/24 stands at services[0].snat_by_client[0] already, with another snat",
            ),
            (
                [{"networks": [f"10.{n >> 8}.{n & 255}.0/24" for n in range(4097)], "snat": "none"}],
                "",
                "4097 networks",
            ),
        ]
    ),
    (service(snat_ports=[20000]), "services[0].snat_ports", "[20000] is not a range of ports"),
    (service(snat_ports="many"), "services[0].snat_ports", "'many' is not a port"),
    (service(snat_ports="29999-20000"), "services[0].snat_ports", "ends before it begins"),
    (service(snat_ports="0-9"), "services[0].snat_ports", "'0' is not a port"),
    (service(snat_ports="20000-29999", snat="none"), "services[0].snat_ports", "no source is translated"),
    (
        service(snat_ports="1-1024"),
        "services[0].snat_ports",
        "1-1024 has a port of tcp 192.0.2.10:80, where service web listens",
    ),
    (service(mark="red"), "services[0].mark", "'red' is not a mark"),
    (service(mark=""), "services[0].mark", "'' is not a mark"),
    (service(mark=None), "services[0].mark", "has no value"),
    (service(mark=True), "services[0].mark", "True is not a mark"),
    (service(mark=["0x10"]), "services[0].mark", "is not a mark"),
    (service(mark="0x10/"), "services[0].mark", "'0x10/' is not a mark"),
    (service(mark="0x10/0xff/1"), "services[0].mark", "is not a mark"),
    (
        service(mark="0x0/0x0"),
        "services[0].mark",
        "'0x0/0x0' sets no bits",
    ),
    (
        service(mark=0),
        "services[0].mark",
        "0 would clear all 32 bits, also those of others",
    ),
    (service(mark="0x0"), "services[0].mark", "'0x0' would clear all 32 bits"),
    (service(mark="0x10/0"), "services[0].mark", "'0x10/0' is not a mark of 32 bits"),
    (service(mark=-1), "services[0].mark", "-1 is not a mark of 32 bits"),
    (service(mark="0x0/0x1ffffffff"), "services[0].mark", "is not a mark of 32 bits"),
    (service(mark=2**32), "services[0].mark", "0x100000000 has bits that are not of the mask 0xffffffff"),
    (service(mark="0x110/0xff"), "services[0].mark", "0x110 has bits that are not of the mask 0xff"),
    (service(helper="irc"), "services[0].helper", "'irc' is not a choice here"),
    (service(helper="ftp", protocol="tcp,udp"), "services[0].helper", "ftp is not spoken over udp"),
    (service(helper="tftp"), "services[0].helper", "tftp is not spoken over tcp"),
    (service(idle_timeout="soon"), "services[0].idle_timeout", "'soon' is not a time"),
    (service(idle_timeout="8d"), "services[0].idle_timeout", "'8d' is out of range"),
    (service(idle_timeout="500ms"), "services[0].idle_timeout", "'500ms' is not a whole number of seconds"),
    (service(idle_timeout=9, protocol=["tcp", "sctp"]), "services[0].idle_timeout", "there is none for sctp"),
    (backend(mark="blue"), "services[0].backends[0].mark", "'blue' is not a mark"),
    (
        service(
            listen="192.0.2.10:8000-8080",
            backends=[{"address": "10.0.0.3", "mark": "0x1/0xf"}, {"address": "10.0.0.3:8080", "name": "b"}],
        ),
        "services[0].backends[1].mark",
        "services[0].backends[0] has ports of 10.0.0.3 in common with it, and another mark",
    ),
    (service(allow_from="198.51.100.0/33"), "services[0].allow_from", "not a network"),
    (service(allow_from=["198.51.100.1/24"]), "services[0].allow_from[0]", "bits set behind its prefix"),
    (service(allow_from="everybody"), "services[0].allow_from", "not a network"),
    (service(allow_from="2001:db8::/32"), "services[0].allow_from", "does not listen in"),
    # emptiness, as templates give it: what would let everybody in, or all packets through, is never taken for that
    (service(allow_from=[]), "services[0].allow_from", "is empty"),
    (service(allow_from=None), "services[0].allow_from", "has no value"),
    (service(allow_from=""), "services[0].allow_from", "not a network"),
    (service(interface=None), "services[0].interface", "has no value"),
    (service(protocol=None), "services[0].protocol", "has no value"),
    (service(snat=None), "services[0].snat", "has no value"),
    (service(max_connections_per_client=None), "services[0].max_connections_per_client", "has no value"),
    (service(new_connections_per_second=None), "services[0].new_connections_per_second", "has no value"),
    (service(listen=None), "services[0].listen", "has no value"),
    (service(backends=None), "services[0].backends", "has no value"),
    (backend(state=None), "services[0].backends[0].state", "has no value"),
    (backend(weight=None), "services[0].backends[0].weight", "has no value"),
    (service(health={"type": "http", "status": []}), "services[0].health.status", "is empty"),
    (service(health={"type": "command", "argv": []}), "services[0].health.argv", "is missing"),
    (service(health={"type": None}), "services[0].health.type", "has no value"),
    # health
    (service(health="ping"), "services[0].health", "not a mapping"),
    (service(health={"port": 80}), "services[0].health.type", "is missing"),
    (service(health={"type": "icmp"}), "services[0].health.type", "not a choice"),
    (service(health={"type": "tcp", "path": "/"}), "services[0].health.path", "is no key of type tcp"),
    (service(health={"type": "tcp", "interval": "1s", "timeout": "2s"}), "services[0].health.timeout", "longer"),
    (service(health={"type": "tcp", "fall": 0}), "services[0].health.fall", "not a whole number"),
    (service(health={"type": "http", "status": 99}), "services[0].health.status", "not an HTTP status"),
    (service(health={"type": "http", "path": "/a b"}), "services[0].health.path", "cannot stand in a request"),
    (service(health={"type": "http", "host": "a\r\nb"}), "services[0].health.host", "cannot stand in a request"),
    (service(health={"type": "command"}), "services[0].health.argv", "is missing"),
    (service(health={"type": "command", "argv": ["a\0b"]}), "services[0].health.argv[0]", "holds a null byte"),
    (service(health={"type": "command", "argv": "true", "user": "-x"}), "services[0].health.user", "name of a user"),
    (
        service(health={"type": "command", "argv": ["check", "http://{adress}/"]}),
        "services[0].health.argv[1]",
        "'http://{adress}/': {adress} stands for nothing, and would be passed as it is",
    ),
    (
        service(health={"type": "command", "argv": "true", "source": "::1"}),
        "services[0].health.source",
        "no key of type command",
    ),
    (service(health={"type": "http", "status": "400-200"}), "services[0].health.status", "ends before it begins"),
    (service(health={"type": "http", "status": "200-"}), "services[0].health.status", "not an HTTP status"),
    (service(health={"type": "http", "path": "ready"}), "services[0].health.path", "does not begin with /"),
    (service(health={"type": "http", "method": "POST"}), "services[0].health.method", "not a choice"),
    (service(health={"type": "http", "body": ""}), "services[0].health.body", "is empty or too long"),
    (service(health={"type": "http", "method": "HEAD", "body": "x"}), "services[0].health.body", "which has none"),
    (service(health={"type": "http", "verify": True}), "services[0].health.verify", "is no key of type http"),
    (service(health={"type": "agent"}), "services[0].health.port", "is missing"),
    (service(health={"type": "udp"}), "services[0].health.send", "is missing"),
    (service(health={"type": "udp", "send": "hex:0"}), "services[0].health.send", "not hexadecimal"),
    (service(health={"type": "udp", "send": "a", "expect": ""}), "services[0].health.expect", "has 0 bytes"),
    (service(health={"type": "dns"}), "services[0].health.query", "is missing"),
    (service(health={"type": "dns", "query": "a..b"}), "services[0].health.query", "not a name of DNS"),
    (service(health={"type": "tcp", "address": "web1"}), "services[0].health.address", "not an IP address"),
    (
        service(health={"type": "tcp", "address": "10.0.0.9", "source": "::1"}),
        "services[0].health.source",
        "of another family",
    ),
    (service(health={"type": "tcp", "fast_interval": "3s"}), "services[0].health.fast_interval", "longer than the"),
    (service(health={"type": "tcp", "jitter": "1500ms"}), "services[0].health.jitter", "longer than half"),
    (service(health={"type": "tcp", "slow_start": "2h"}), "services[0].health.slow_start", "out of range"),
    (service(health={"type": "tcp", "on_down": "drop"}), "services[0].health.on_down", "not a choice"),
    (
        service(listen=["192.0.2.10:80", "192.0.2.10:443"], health={"type": "tcp"}, backends=[{"address": "10.0.0.3"}]),
        "services[0].health.port",
        "listens on several ports",
    ),
    # backends
    (service(backends=ABSENT), "services[0].backends", "is missing"),
    (service(backends=BACKEND), "services[0].backends", "not a list"),
    (service(backends=10), "services[0].backends", "not a list"),
    (service(backends=[3]), "services[0].backends[0]", "not a mapping"),
    (service(backends="10.0.0.3, "), "services[0].backends[1].address", "not an IP address"),
    (service(backends=["10.0.0.3:http"]), "services[0].backends[0].port", "not a port"),
    (service(backends=["10.0.0.3:"]), "services[0].backends[0].port", "not a port"),
    (service(backends=["[2001:db8::3"]), "services[0].backends[0].address", "not ADDRESS:PORT"),
    (backend(address="10.0.0.3:80"), "services[0].backends[0].address", "has a port, and port is given as well"),
    (backend(address="web1.example.com", port=ABSENT), "services[0].backends[0].address", "not an IP address"),
    (service(backends=[{"address": f"10.{i >> 8}.{i & 255}.1"} for i in range(4097)]), "services[0].backends", "4097"),
    (backend(address=ABSENT), "services[0].backends[0].address", "is missing"),
    (backend(address="10.0.0"), "services[0].backends[0].address", "not an IP address"),
    (backend(address=167772163), "services[0].backends[0].address", "not an IP address"),
    (backend(address="127.0.0.1"), "services[0].backends[0].address", "loopback"),
    (backend(address="2001:db8:2::3"), "services[0].backends[0].address", "not of the family"),
    (backend(port=99999), "services[0].backends[0].port", "99999 is not a port"),
    (backend(port="http"), "services[0].backends[0].port", "not a port"),
    (backend(port=True), "services[0].backends[0].port", "not a port"),
    (backend(name=""), "services[0].backends[0].name", "not a name"),
    (backend(name="w\x00b"), "services[0].backends[0].name", "not a name"),
    (backend(weight=-1), "services[0].backends[0].weight", "not a weight"),
    (backend(weight=257), "services[0].backends[0].weight", "not a weight"),
    (backend(weight="heavy"), "services[0].backends[0].weight", "not a weight"),
    (backend(weight="257%"), "services[0].backends[0].weight", "not a weight"),
    (backend(weight=33.3), "services[0].backends[0].weight", "not a weight"),
    (backend(weight="33.3%"), "services[0].backends[0].weight", "not a weight"),
    (
        service(backends=[{**BACKEND, "weight": "50%"}, {"address": "10.0.0.4", "weight": 1}]),
        "services[0].backends",
        "some weights are percentages",
    ),
    (
        service(backends=[{**BACKEND, "weight": "50%"}, "10.0.0.4"]),
        "services[0].backends",
        "some weights are percentages",
    ),
    (backend(weight=0), "services[0].backends", "every weight is 0"),
    (backend(state="off"), "services[0].backends[0].state", "not a choice"),
    (
        service(backups="first", backends=[{**BACKEND, "priority": 2}]),
        "services[0].backends[0].priority",
        "10.0.0.3 is no backup",
    ),
    (
        service(backends=[{**BACKEND, "backup": True, "priority": 2}]),
        "services[0].backends[0].priority",
        "all backups serve together",
    ),
    (
        service(
            backups="first",
            backends=[{**BACKEND, "backup": True, "priority": 2}, {"address": "10.0.0.4", "backup": True}],
        ),
        "services[0].backends[1].priority",
        "is missing, and other backups have one",
    ),
    (service(backends=[{**BACKEND, "priority": 0}]), "services[0].backends[0].priority", "0 is not"),
    (service(backends=[{**BACKEND, "priority": 256}]), "services[0].backends[0].priority", "256 is not"),
    (service(backups="all"), "services[0].backups", "'all' is not a choice here"),
    (backend(backup="maybe"), "services[0].backends[0].backup", "neither true nor false"),
    (backend(max_connections=-1), "services[0].backends[0].max_connections", "-1 is not a whole number"),
    (backend(max_connections="many"), "services[0].backends[0].max_connections", "not a whole number"),
    (backend(snat="masq"), "services[0].backends[0].snat", "'masq' is not an IP address"),
    (backend(snat=""), "services[0].backends[0].snat", "is not an IP address"),
    (backend(snat=None), "services[0].backends[0].snat", "has no value"),
    (backend(snat="2001:db8::1"), "services[0].backends[0].snat", "2001:db8::1 is not of the family of 10.0.0.3"),
    (backend(snat="10.0.0.8,10.0.0.9"), "services[0].backends[0].snat", "2 addresses"),
    (backend(snat=["10.0.0.8", "10.0.0.9"]), "services[0].backends[0].snat", "2 addresses"),
    (
        service(backends=[{"address": "10.0.0.3:80", "snat": "none"}, {"address": "10.0.0.3:81", "name": "b"}]),
        "services[0].backends[1].snat",
        "10.0.0.3 stands at services[0].backends[0] with another snat",
    ),
    (backend(color="red"), "services[0].backends[0].color", "no such key"),
    (backend(address="192.0.2.10", port=80), "services[0].backends[0]", "is the frontend"),
    (
        service(backends=[BACKEND, dict(BACKEND)]),
        "services[0].backends[1]",
        "stands at services[0].backends[0] already",
    ),
    (
        service(backends=[{**BACKEND, "name": "a"}, {"address": "10.0.0.4", "name": "a"}]),
        "services[0].backends[1].name",
        "is the name of services[0].backends[0] already",
    ),
    (service(listen=["192.0.2.10:80", "[2001:db8::10]:80"]), "services[0].listen", "no backend has such an address"),
    # IPv4 as sockets of IPv6 show it
    (
        service(listen="[::ffff:192.0.2.10]:80"),
        "services[0].listen",
        "192.0.2.10 is an IPv4 address",
    ),
    (backend(address="::ffff:c000:20a"), "services[0].backends[0].address", "is an IPv4 address"),
    (service(snat="::ffff:192.0.2.10"), "services[0].snat", "is an IPv4 address"),
    (service(allow_from="::ffff:192.0.2.0/120"), "services[0].allow_from", "are IPv4 addresses"),
    (service(allow_from="::ffff:192.0.2.9"), "services[0].allow_from", "are IPv4 addresses"),
    (service(allow_from="::ffff:0:0/96"), "services[0].allow_from", "are IPv4 addresses"),
    # between services
    (two(), "services[1].listen", "other and web (services[0]) both claim tcp 192.0.2.10:80"),
    (
        [{**SERVICE, "listen": "192.0.2.10:70-80"}, {**SERVICE, "name": "other", "listen": "192.0.2.10:75-90"}],
        "services[1].listen",
        "other and web (services[0]) both claim some ports of tcp 192.0.2.10:70-80 and tcp 192.0.2.10:75-90",
    ),
    (two(protocol=["udp", "tcp"]), "services[1].listen", "both claim"),
]

EGRESSES = [
    ({"source": "10.0.0.0/24"}, "egress", "not a list"),
    ([{}], "egress[0].source", "is missing"),
    ([{"source": []}], "egress[0].source", "is empty"),
    ([{"source": None}], "egress[0].source", "has no value"),
    ([{**EGRESS, "out_interface": None}], "egress[0].out_interface", "has no value"),
    ([{**EGRESS, "protocol": None}], "egress[0].protocol", "has no value"),
    ([{**EGRESS, "protocol": "tcp", "destination_ports": None}], "egress[0].destination_ports", "has no value"),
    ([{**EGRESS, "protocol": "tcp", "destination_ports": []}], "egress[0].destination_ports", "is empty"),
    ([{**EGRESS, "snat": None}], "egress[0].snat", "has no value"),
    ([{**EGRESS, "snat": []}], "egress[0].snat", "is empty"),
    ([{**EGRESS, "snat_ports": None}], "egress[0].snat_ports", "has no value"),
    ([{**EGRESS, "snat_ports": "29999-20000"}], "egress[0].snat_ports", "ends before it begins"),
    ([{**EGRESS, "snat_ports": [20000]}], "egress[0].snat_ports", "not a range of ports"),
    ([{**EGRESS, "snat_ports": "20000-29999", "snat": "none"}], "egress[0].snat_ports", "no source is translated"),
    ([{**EGRESS, "uplinks": None}], "egress[0].uplinks", "has no value"),
    ([{**EGRESS, "uplinks": []}], "egress[0].uplinks", "is empty"),
    ([{**EGRESS, "uplinks": [{**UPLINK, "weight": None}]}], "egress[0].uplinks[0].weight", "has no value"),
    ([{"source": "0.0.0.0/0"}], "egress[0].source", "without an interface would rewrite all"),
    ([{"source": ["0.0.0.0/1", "128.0.0.0/1"]}], "egress[0].source", "without an interface would rewrite all"),
    ([{"source": "::/0", "protocol": "tcp"}], "egress[0].source", "without an interface would rewrite all"),
    ([{"source": "10.0.0.1/24"}], "egress[0].source", "bits set behind its prefix"),
    ([{**EGRESS, "uplinks": [UPLINK], "snat": "none"}], "egress[0].snat", "does not go with uplinks"),
    ([{**EGRESS, "destination": []}], "egress[0].destination", "is empty"),
    ([{**EGRESS, "destination": None}], "egress[0].destination", "has no value"),
    ([{**EGRESS, "destination": "2001:db8::/32"}], "egress[0].destination", "not of the family of the source"),
    (
        [{"source": ["10.0.0.0/8", "2001:db8::/32"], "destination": "192.0.2.0/24"}],
        "egress[0].destination",
        "names no IPv6 network",
    ),
    (
        [{"source": "0.0.0.0/0", "destination": "0.0.0.0/0"}],
        "egress[0].source",
        "without an interface would rewrite all",
    ),
    ([{**EGRESS, "snat": ["192.0.2.1", "192.0.2.2"]}], "egress[0].snat", "not a choice"),
    ([{**EGRESS, "snat": "2001:db8::1"}], "egress[0].snat", "not of the family"),
    ([{**EGRESS, "destination_ports": [80]}], "egress[0].destination_ports", "needs a protocol"),
    ([{**EGRESS, "protocol": "tcp", "destination_ports": ["80,443"]}], "egress[0].destination_ports[0]", "not a port"),
    ([{**EGRESS, "out_interface": "eth0 -j ACCEPT"}], "egress[0].out_interface", "not the name of an interface"),
    ([{**EGRESS, "uplinks": [{"gateway": "203.0.113.1"}]}], "egress[0].uplinks[0].interface", "is missing"),
    ([{**EGRESS, "uplinks": [{"interface": "wg0"}, {"interface": "wg0"}]}], "egress[0].uplinks", "twice"),
    ([{**EGRESS, "uplinks": [{**UPLINK, "weight": 0}]}], "egress[0].uplinks[0].weight", "not a weight"),
    ([{**EGRESS, "uplinks": [UPLINK, UPLINK]}], "egress[0].uplinks", "twice"),
    ([{**EGRESS, "uplinks": [UPLINK], "out_interface": "eth0"}], "egress[0].out_interface", "combined with uplinks"),
    ([{**EGRESS, "uplinks": [UPLINK], "snat": "192.0.2.1"}], "egress[0].snat", "does not fit every uplink"),
    (
        [{**EGRESS, "uplinks": [{**UPLINK, "gateway": "2001:db8::1"}]}],
        "egress[0].uplinks[0].gateway",
        "not of the family",
    ),
    ([{"source": ["10.0.0.0/24", "2001:db8::/64"], "uplinks": [UPLINK]}], "egress[0].source", "mixes"),
]


def refused(services: Any, egress: Any = None, mask: Any = None) -> ConfigErrors:
    with pytest.raises(ConfigErrors) as caught:
        parse_config(services, egress, mask)
    return caught.value


def problems(services: Any, egress: Any, mask: Any) -> list[ConfigError]:
    try:
        parse_config(services, egress, mask)
    except ConfigErrors as error:
        return error.errors
    return []


def check(error: ConfigErrors, path: str, problem: str) -> None:
    first = error.errors[0]
    assert first.path == path, str(error)
    assert problem in first.problem, str(error)
    assert first.remedy, str(error)
    assert str(first) == f"{path}: {first.problem} ({first.remedy})"
    assert len(str(first).splitlines()) == 1
    assert len(str(first)) < 400


@pytest.mark.parametrize(("services", "path", "problem"), SERVICES)
def test_service(services: Any, path: str, problem: str) -> None:
    check(refused(services), path, problem)


@pytest.mark.parametrize(("egress", "path", "problem"), EGRESSES)
def test_egress(egress: Any, path: str, problem: str) -> None:
    check(refused([], egress), path, problem)


@pytest.mark.parametrize("mask", [0, "0", -1, "all", 5, 1 << 32, True, "0xf0f0", float("inf"), [1]])
def test_mark_mask(mask: Any) -> None:
    check(refused([], [], mask), "mark_mask", "is not a")


@pytest.mark.parametrize(
    ("changes", "path", "units"),
    [
        ({"affinity": "soon"}, "affinity", "s, m, h or d"),
        ({"health": {"type": "tcp", "interval": "x"}}, "health", "ms, s, m, h or d"),
    ],
)
def test_only_units_that_are_taken_are_offered(changes: dict[str, Any], path: str, units: str) -> None:
    (error,) = refused(service(**changes)).errors
    assert error.path.startswith(f"services[0].{path}")
    assert str(error).endswith(f"(write seconds, or a number with {units})")


def test_there_are_at_least_sixty_kinds() -> None:
    assert len(SERVICES) + len(EGRESSES) >= 60


def test_the_message_is_the_one_in_the_documentation() -> None:
    services = [SERVICE, {**SERVICE, "name": "b", "listen": "192.0.2.11:80"}, *backend(port=99999)]
    services[2] = {**services[2], "name": "c", "listen": "192.0.2.12:80"}
    assert str(refused(services)) == "services[2].backends[0].port: 99999 is not a port (1-65535)"


def test_all_problems_are_told_at_once() -> None:
    errors = refused([*backend(port=0), *service(name="Web")], [{}]).errors
    assert [error.path for error in errors] == ["services[0].backends[0].port", "services[1].name", "egress[0].source"]


def test_all_problems_of_one_service_are_told_at_once() -> None:
    backends = [
        {"address": "10.0.0.3", "port": 0, "weight": 999, "colour": "red"},
        {"port": 8080},
        {"address": "10.0.0.4", "name": "", "state": "off"},
        5,
    ]
    wrong = service(
        name="Web",
        listen=["192.0.2.10:0", "192.0.2.300:80"],
        protocol=["tcp", "icmp"],
        method="best",
        allow_from=["10.0.0.0/33", "192.0.2.1/24"],
        affinity="soon",
        interface="eth0; reboot",
        color="red",
        health={"type": "http", "path": "a b", "status": [99, 1000], "interval": "1s", "timeout": "2s"},
        backends=backends,
    )
    paths = [error.path for error in refused(wrong).errors]
    assert len(paths) == len(set(paths))
    assert set(paths) == {
        "services[0].color",
        "services[0].name",
        "services[0].listen[0]",
        "services[0].listen[1]",
        "services[0].protocol[1]",
        "services[0].method",
        "services[0].allow_from[0]",
        "services[0].allow_from[1]",
        "services[0].affinity",
        "services[0].interface",
        "services[0].health.path",
        "services[0].health.status[0]",
        "services[0].health.status[1]",
        "services[0].health.timeout",
        "services[0].backends[0].port",
        "services[0].backends[0].weight",
        "services[0].backends[0].colour",
        "services[0].backends[1].address",
        "services[0].backends[2].name",
        "services[0].backends[2].state",
        "services[0].backends[3]",
    }


def test_all_problems_of_one_egress_rule_are_told_at_once() -> None:
    uplinks = [{"interface": "-i"}, {"gateway": "x", "interface": "eth1", "weight": 0}]
    egress = {"source": ["10.0.0.1/24", "x"], "protocol": "icmp", "destination_ports": [0, "x"], "snat": "no"}
    paths = [error.path for error in refused([], [{**egress, "uplinks": uplinks, "colour": 5}]).errors]
    assert set(paths) == {
        "egress[0].colour",
        "egress[0].source[0]",
        "egress[0].source[1]",
        "egress[0].protocol",
        "egress[0].destination_ports[0]",
        "egress[0].destination_ports[1]",
        "egress[0].snat",
        "egress[0].uplinks[0].interface",
        "egress[0].uplinks[1].gateway",
        "egress[0].uplinks[1].weight",
    }


def test_what_does_not_fit_together_is_told_at_once() -> None:
    backends = [{"address": "192.0.2.10", "port": 80}, {"address": "2001:db8::3"}, {"address": "10.0.0.3"}]
    paths = [error.path for error in refused(service(snat="2001:db8::1", backends=backends)).errors]
    assert paths == [
        "services[0].backends[0]",
        "services[0].backends[1].address",
        "services[0].snat",
        "services[0].snat",
    ]


def test_a_backend_outside_the_uplinks_of_a_mask() -> None:
    egress = [{**EGRESS, "uplinks": [{"interface": f"eth{i}", "gateway": "203.0.113.1"} for i in range(4)]}]
    check(refused([], egress, "0x3"), "egress", "do not fit into the mark mask 0x3")


KEYS = st.sampled_from(
    ["name", "listen", "backends", "protocol", "snat", "health", "allow_from", "affinity", "address", "port", "weight"]
)
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["192.0.2.10:80", "*:80", "10.0.0.3", "masquerade", "tcp", "[::1]:5", "10.0.0.0/8", "3h", "web"]),
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.one_of(KEYS, TEXTS), inner, max_size=6)),
    max_leaves=12,
)


TIMES = {"interval": 2, "fast_interval": 1, "timeout": 1, "jitter": 0.5, "slow_start": 30}
TARGET = {"port": 80, "address": "10.0.0.9", "source": "10.0.0.1"}
HTTP = {"path": "/", "host": "www.example.com", "method": "GET", "status": [200, "300-399"], "body": "ready"}
FULL_HEALTH = [
    {"type": "tcp", **TIMES, **TARGET, "fall": 3, "rise": 2, "fail_open": True, "on_down": "reset"},
    {"type": "https", **TARGET, **HTTP, "verify": True},
    {"type": "command", "argv": ["true"], "user": "nobody", "port": 80, "address": "10.0.0.9"},
    {"type": "agent", **TARGET},
    {"type": "udp", **TARGET, "send": "ping", "expect": "hex:00ff"},
    {"type": "dns", **TARGET, "query": "www.example.com"},
]
FULL_BACKEND = {
    **BACKEND,
    "name": "web1",
    "weight": 1,
    "state": "active",
    "backup": True,
    "max_connections": 9,
    "snat": "none",
    "mark": "0x20/0xf0",
    "priority": 2,
}
FULL = {
    "services": [
        {
            **SERVICE,
            "name": f"web{number}",
            "listen": f"192.0.2.10:{number}",
            "protocol": "tcp",
            "interface": "eth0",
            "method": "round_robin",
            "affinity": "3h",
            "client_prefix": {"ipv4": 24, "ipv6": 64},
            "snat": "masquerade",
            "snat_by_client": [{"networks": ["198.51.100.0/24"], "snat": "none"}],
            "snat_ports": "20000-29999",
            "mark": "0x10/0xff",
            "idle_timeout": "1h",
            "helper": "ftp",
            "allow_from": ["198.51.100.0/24"],
            "deny_from": ["198.51.100.7/32"],
            "when_denied": "drop",
            "max_connections_per_client": 1,
            "new_connections_per_second": 1,
            "when_empty": "reject",
            "pins": [{"client": "198.51.100.0/24", "backend": "web1"}],
            "backups": "one_for_one",
            "log": True,
            "log_prefix": "web: ",
            "health": health,
            "redispatch": True,
            "takeover": False,
            "min_healthy": 1,
            "min_healthy_again": "100%",
            "backends": [{**FULL_BACKEND}, {"address": "10.0.0.4"}],
        }
        for number, health in enumerate(FULL_HEALTH, 1)
    ],
    "egress": [
        {
            **EGRESS,
            "destination": "198.51.100.0/24",
            "out_interface": "eth0",
            "protocol": "tcp",
            "destination_ports": [80],
            "snat": "masquerade",
        },
        {**EGRESS, "snat_ports": "20000-29999", "uplinks": [{**UPLINK, "weight": 1}]},
    ],
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to everything that has a place of its own."""
    if path:
        yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*path, key))


def spelled(path: tuple[Any, ...]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


@pytest.mark.parametrize("part", ["services", "egress"])
def test_the_full_declaration_has_every_key(part: str) -> None:
    kept = dump(parse_config(**FULL))
    unused = {*UNUSED, *UNUSED_OF_BACKENDS} if part == "services" else set()
    assert {path[-1] for path in places(FULL[part])} >= {path[-1] for path in places(kept[part])} | unused


@pytest.mark.parametrize("path", [path for path in places(FULL) if len(path) > 1], ids=spelled)
def test_nothing_is_null(path: tuple[Any, ...]) -> None:
    """One rule for all keys and all items of lists: a value that a template left out is not taken for one."""
    declared = copy.deepcopy(FULL)
    at: Any = declared
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = None
    error = refused(declared["services"], declared["egress"])
    check(error, spelled(path), "" if isinstance(path[-1], int) else "has no value")


@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(KEYS, VALUES),
    VALUES,
    st.one_of(st.none(), VALUES),
)
def test_no_input_ends_in_a_traceback(changes: dict[str, Any], egress: Any, mask: Any | None) -> None:
    for services in ([{**SERVICE, **changes}], [{**SERVICE, "backends": [{**BACKEND, **changes}]}], changes):
        errors = problems(services, egress, mask)
        assert all(error.path and error.problem and error.remedy for error in errors)


@pytest.mark.parametrize(
    ("key", "value", "written"),
    [
        ("listen", "[::ffff:192.0.2.10]:80", "192.0.2.10"),
        ("snat", "::ffff:c000:20a", "192.0.2.10"),
        ("allow_from", "::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("allow_from", "::ffff:192.0.2.9", "192.0.2.9/32"),
        ("allow_from", "::ffff:0:0/96", "0.0.0.0/0"),
    ],
)
def test_the_word_to_write_for_ipv4(key: str, value: str, written: str) -> None:
    (error,) = refused(service(**{key: value})).errors
    assert error.remedy == f"write {written}"
