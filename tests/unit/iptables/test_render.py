# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import re
from typing import Any

import pytest
from _natlb.errors import ConfigError, ConfigErrors
from _natlb.iptables import render as iptables
from _natlb.iptables.dispatch import MAX_NAME
from _natlb.iptables.restore import full
from _natlb.model import services as model
from _natlb.model.surroundings import Surroundings
from _natlb.ruleset.sections import Ruleset

BACKENDS = [{"address": "10.0.0.3", "port": 8080}, {"address": "10.0.0.4", "port": 8080}]
BACKENDS6 = [{"address": "2001:db8:2::3", "port": 8080}]
WEB: dict[str, Any] = {"name": "web", "listen": "192.0.2.10:80", "backends": BACKENDS}
NETWORKS = ["10.0.0.0/24", "192.0.2.0/24", "2001:db8:2::/64"]


def render(*services: dict[str, Any], egress: Any = None) -> Ruleset:
    return iptables.render(model.parse_config(list(services), egress), Surroundings(NETWORKS))


def body(ruleset: Ruleset, chain: str, table: str = "nat", family: str = "ip") -> list[str]:
    """A chain's rules without `-A CHAIN`, a jump section's with it."""
    kind = "chain" if chain.startswith("NATLB") else "jump"
    lines = ruleset[family, table, kind, chain].body
    return [line.removeprefix(f"-A {chain} ") for line in lines] if kind == "chain" else list(lines)


def test_a_plain_service() -> None:
    ruleset = render(WEB)
    assert {
        key[1:]: [line.removeprefix(f"-A {key[3]} ") for line in section.body] for key, section in ruleset.items()
    } == {
        ("nat", "jump", "PREROUTING"): ["-j NATLB.pre"],
        ("nat", "jump", "OUTPUT"): ["-j NATLB.out"],
        ("nat", "jump", "POSTROUTING"): ["-j NATLB.post"],
        ("nat", "chain", "NATLB.pre"): ["-p tcp -j NATLB..d.tcp"],
        ("nat", "chain", "NATLB.out"): ["-p tcp -j NATLB..d.tcp"],
        ("nat", "chain", "NATLB.post"): ["-p tcp -m conntrack --ctstate DNAT -j NATLB..s.tcp"],
        ("nat", "chain", "NATLB..d.tcp"): ["-d 192.0.2.10/32 -p tcp -m tcp --dport 80 -j NATLB.web.tcp"],
        ("nat", "chain", "NATLB..s.tcp"): ["-m conntrack --ctorigdst 192.0.2.10 --ctorigdstport 80 -j MASQUERADE"],
        ("nat", "chain", "NATLB.web.tcp"): [
            "-p tcp -m statistic --mode nth --every 2 --packet 0 -j DNAT --to-destination 10.0.0.3:8080",
            "-p tcp -j DNAT --to-destination 10.0.0.4:8080",
        ],
        ("filter", "jump", "INPUT"): ["-j NATLB.refuse"],
        ("filter", "jump", "FORWARD"): ["-j NATLB.refuse"],
        ("filter", "chain", "NATLB.refuse"): ["-m conntrack --ctstate INVALID -g NATLB..i"],
        ("filter", "chain", "NATLB..i"): [
            "-p tcp -m tcp --tcp-flags SYN,ACK SYN,ACK -j RETURN",
            "-p tcp -j NATLB..i.tcp",
            "-p tcp -j NATLB..f.tcp",
        ],
        ("filter", "chain", "NATLB..f.tcp"): ["-d 192.0.2.10/32 -p tcp -m tcp --dport 80 -j DROP"],
        ("filter", "chain", "NATLB..i.tcp"): [
            "-s 10.0.0.3/32 -p tcp -m tcp --sport 8080 -j DROP",
            "-s 10.0.0.4/32 -p tcp -m tcp --sport 8080 -j DROP",
        ],
    }


def test_nothing_is_nothing() -> None:
    assert render() == {}
    assert full({}, "ip") == ""


#: What a service says beyond WEB, a chain, and its rules.
SERVICES: list[tuple[dict[str, Any], str, list[str]]] = [
    (
        {"listen": ["192.0.2.10:8000-8010", "192.0.2.11:81"], "interface": "eth0"},
        "NATLB..d.tcp",
        [
            "-d 192.0.2.10/32 -i eth0 -p tcp -m tcp --dport 8000:8010 -j NATLB.web.tcp",
            "-d 192.0.2.11/32 -i eth0 -p tcp -m tcp --dport 81 -j NATLB.web.tcp",
        ],
    ),
    (
        {"interface": "eth0"},
        "NATLB..s.tcp",
        ["-m conntrack --ctorigdst 192.0.2.10 --ctorigdstport 80 -j NATLB.web.tcp.out.80"],
    ),
    (
        {"interface": "eth0"},
        "NATLB.web.tcp.out.80",
        [
            "-d 10.0.0.3/32 -p tcp -m tcp --dport 8080 -j MASQUERADE",
            "-d 10.0.0.4/32 -p tcp -m tcp --dport 8080 -j MASQUERADE",
        ],
    ),
    (
        {"listen": "*:30080"},
        "NATLB.pre",
        ["-p tcp -m addrtype --dst-type LOCAL -j NATLB..dw.tcp"],
    ),
    (
        {"listen": "*:30080"},
        "NATLB..dw.tcp",
        ["-d 127.0.0.0/8 -j RETURN", "-p tcp -m tcp --dport 30080 -j NATLB.web.tcp"],
    ),
    ({"listen": "*:30080"}, "NATLB..sw.tcp", ["-m conntrack --ctorigdstport 30080 -j NATLB.web.tcp.out.30080"]),
    (
        {"listen": "192.0.2.10:80-89", "backends": [{"address": "10.0.0.3"}], "protocol": "sctp"},
        "NATLB.web.sctp",
        ["-p sctp -j DNAT --to-destination 10.0.0.3"],
    ),
    (
        {"method": "random", "backends": [{**BACKENDS[0], "weight": 3}, {**BACKENDS[1], "weight": 1}]},
        "NATLB.web.tcp",
        [
            "-p tcp -m statistic --mode random --probability 0.75000000000 -j DNAT --to-destination 10.0.0.3:8080",
            "-p tcp -j DNAT --to-destination 10.0.0.4:8080",
        ],
    ),
    (
        {"backends": [BACKENDS[0], {**BACKENDS[1], "state": "drained"}]},
        "NATLB.web.tcp",
        ["-p tcp -j DNAT --to-destination 10.0.0.3:8080"],
    ),
    (
        {"backends": [BACKENDS[0], {**BACKENDS[1], "backup": True}]},
        "NATLB.web.tcp",
        ["-p tcp -j DNAT --to-destination 10.0.0.3:8080"],
    ),
    ({"backends": []}, "NATLB..d.tcp", ["-d 192.0.2.10/32 -p tcp -m tcp --dport 80 -j ACCEPT"]),
    (
        {"snat": "192.0.2.1"},
        "NATLB..s.tcp",
        ["-m conntrack --ctorigdst 192.0.2.10 --ctorigdstport 80 -j SNAT --to-source 192.0.2.1"],
    ),
    (
        {"snat": ["192.0.2.1", "192.0.2.2"]},
        "NATLB.web.snat",
        [
            "-m statistic --mode random --probability 0.50000000000 -j SNAT --to-source 192.0.2.1",
            "-j SNAT --to-source 192.0.2.2",
        ],
    ),
    (
        {"snat": "none", "backends": [*BACKENDS, {"address": "172.16.0.1", "port": 80}]},
        "NATLB.web.snat",
        [
            "-s 10.0.0.0/24 -d 10.0.0.0/24 -j MASQUERADE",
            "-s 172.16.0.1/32 -d 172.16.0.1/32 -j MASQUERADE",
            "-m addrtype --src-type LOCAL -j MASQUERADE",
            "-j NETMAP --to 0.0.0.0/0",
        ],
    ),
    ({"allow_from": "198.51.100.0/24"}, "NATLB.web.guard", ["! -s 198.51.100.0/24 -j ACCEPT"]),
    (
        {"allow_from": ["198.51.100.0/24", "203.0.113.7"]},
        "NATLB.web.guard",
        ["-s 198.51.100.0/24 -j RETURN", "-s 203.0.113.7/32 -j RETURN", "-j ACCEPT"],
    ),
    (
        {"allow_from": ["198.51.100.0/24", "203.0.113.7"], "max_connections_per_client": 5},
        "NATLB.web.limits",
        ["-m connlimit --connlimit-above 5 --connlimit-mask 32 --connlimit-saddr -j ACCEPT"],
    ),
    ({"log": True}, "NATLB.web.guard", ['-m limit --limit 10/sec --limit-burst 20 -j LOG --log-prefix "natlb web "']),
    (
        {"affinity": 60, "backends": BACKENDS[:1]},
        "NATLB.web.tcp",
        [
            (
                "-m recent --rcheck --seconds 60 --reap --name natlb-web-0123456789 --mask 255.255.255.255 --rsource "
                "-j NATLB.web.tcp.10.0.0.3/8080"
            ),
            "-j NATLB.web.tcp.10.0.0.3/8080",
        ],
    ),
]


@pytest.mark.parametrize(("keys", "chain", "rules"), SERVICES, ids=lambda value: str(value)[:60])
def test_service(keys: dict[str, Any], chain: str, rules: list[str]) -> None:
    found = body(render({**WEB, **keys}), chain)
    hidden = [re.sub(r"natlb-web-\w{10}", "natlb-web-LIST", line) for line in found]
    assert hidden == [re.sub(r"natlb-web-\w{10}", "natlb-web-LIST", line) for line in rules]


def test_ipv6() -> None:
    ruleset = render({**WEB, "listen": "[2001:db8::10]:80", "backends": BACKENDS6, "allow_from": "2001:db8:9::/48"})
    assert {key[0] for key in ruleset} == {"ip6"}
    assert body(ruleset, "NATLB.web.tcp", family="ip6") == [
        "-j NATLB.web.guard",
        "-p tcp -j DNAT --to-destination [2001:db8:2::3]:8080",
    ]
    assert body(ruleset, "NATLB..d.tcp", "filter", "ip6") == [
        "-d 2001:db8::10/128 -p tcp -m tcp --dport 80 -j REJECT --reject-with tcp-reset"
    ]


def test_a_list_of_one_family_shuts_the_other_out() -> None:
    both = {**WEB, "listen": ["192.0.2.10:80", "[2001:db8::10]:80"], "backends": [*BACKENDS, *BACKENDS6]}
    ruleset = render({**both, "allow_from": "198.51.100.0/24"})
    assert body(ruleset, "NATLB.web.guard", family="ip6") == ["-j ACCEPT"]


DRAINED = [{**backend, "state": "drained"} for backend in BACKENDS]
#: What a service says beyond WEB, and how the filter table answers over tcp and udp.
REFUSALS: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    ({"backends": []}, ["REJECT --reject-with tcp-reset", "REJECT --reject-with icmp-port-unreachable"]),
    ({"backends": DRAINED, "when_empty": "drop"}, ["DROP", "DROP"]),
    (
        {"allow_from": "198.51.100.0/24"},
        ["REJECT --reject-with tcp-reset", "REJECT --reject-with icmp-port-unreachable"],
    ),
    (
        {"max_connections_per_client": 1, "when_empty": "drop"},
        ["REJECT --reject-with tcp-reset", "REJECT --reject-with icmp-port-unreachable"],
    ),
    (
        {"new_connections_per_second": 1},
        ["REJECT --reject-with tcp-reset", "REJECT --reject-with icmp-port-unreachable"],
    ),
    ({"log": True, "affinity": 5}, []),
]


@pytest.mark.parametrize(("keys", "answers"), REFUSALS, ids=str)
def test_refusals(keys: dict[str, Any], answers: list[str]) -> None:
    ruleset = render({**WEB, "protocol": ["tcp", "udp"], **keys})
    invalid = ["-m conntrack --ctstate INVALID -g NATLB..i"]
    if not answers:
        assert body(ruleset, "NATLB.refuse", "filter") == invalid
        assert ("ip", "filter", "jump", "OUTPUT") not in ruleset
        return
    for builtin in ("INPUT", "FORWARD", "OUTPUT"):
        assert body(ruleset, builtin, "filter") == [f"-A {builtin} -j NATLB.refuse"]
    assert body(ruleset, "NATLB.refuse", "filter") == [
        "-m conntrack ! --ctstate INVALID,NEW -j RETURN",
        *invalid,
        "-m conntrack --ctstate DNAT -j RETURN",
        "-p tcp -j NATLB..d.tcp",
        "-p udp -j NATLB..d.udp",
    ]
    for protocol, answer in zip(("tcp", "udp"), answers, strict=True):
        assert body(ruleset, f"NATLB..d.{protocol}", "filter") == [
            f"-d 192.0.2.10/32 -p {protocol} -m {protocol} --dport 80 -j {answer}"
        ]


UPLINKS = [
    {"interface": "up1", "gateway": "203.0.113.1", "weight": 2},
    {"interface": "up2", "gateway": "198.51.100.1", "weight": 1},
]
NET = "10.0.0.0/24"
EGRESS: list[tuple[dict[str, Any], str, list[str]]] = [
    ({"source": NET}, "NATLB.post", [f"-s {NET} ! -d {NET} -j MASQUERADE"]),
    (
        {"source": NET, "out_interface": "eth0", "snat": "192.0.2.1", "protocol": "tcp"},
        "NATLB.post",
        [f"-s {NET} ! -d {NET} -o eth0 -p tcp -j SNAT --to-source 192.0.2.1"],
    ),
    (
        {"source": NET, "protocol": "udp", "destination_ports": [53, "100-200"]},
        "NATLB.post",
        [f"-s {NET} ! -d {NET} -p udp -m multiport --dports 53,100:200 -j MASQUERADE"],
    ),
    (
        {"source": NET, "uplinks": UPLINKS},
        "NATLB.post",
        [
            f"-s {NET} ! -d {NET} -o up1 -j MASQUERADE",
            f"-s {NET} ! -d {NET} -o up2 -j MASQUERADE",
        ],
    ),
    (
        {"source": NET, "uplinks": UPLINKS},
        "NATLB.pre",
        ["-m addrtype ! --dst-type LOCAL -m connmark --mark 0x0/0x3f000000 -j NATLB..uplinks"],
    ),
    (
        {"source": NET, "uplinks": UPLINKS},
        "NATLB..uplink.0x1000000",
        ["-j CONNMARK --set-xmark 0x1000000/0x3f000000", "-j MARK --set-xmark 0x1000000/0x3f000000"],
    ),
]


@pytest.mark.parametrize(("item", "chain", "rules"), EGRESS, ids=lambda value: str(value)[:60])
def test_egress(item: dict[str, Any], chain: str, rules: list[str]) -> None:
    assert body(render(egress=[item]), chain) == rules


def test_the_mark_comes_back_on_every_packet() -> None:
    rendered = render(egress=[{"source": NET, "uplinks": UPLINKS}])
    restore = "-m connmark ! --mark 0x0/0x3f000000 -j CONNMARK --restore-mark --nfmask 0x3f000000 --ctmask 0x3f000000"
    new = "-m conntrack --ctstate NEW -m connmark --mark 0x0/0x3f000000 -j CONNMARK"
    assert body(rendered, "NATLB.mark", "mangle") == [
        f"-i up1 {new} --set-xmark 0x1000000/0x3f000000",
        f"-i up2 {new} --set-xmark 0x2000000/0x3f000000",
        restore,
    ]
    assert body(rendered, "NATLB.answers", "mangle") == [restore]


def test_fifteen_ports_to_a_rule() -> None:
    ports = [*range(1, 29, 2), "100-200", "300-400"]
    rules = body(render(egress=[{"source": NET, "protocol": "tcp", "destination_ports": ports}]), "NATLB.post")
    assert [re.findall(r"--dports (\S+)", rule)[0] for rule in rules] == [
        "1,3,5,7,9,11,13,15,17,19,21,23,25,27",
        "100:200,300:400",
    ]


def test_several_sources_leave_each_other_alone() -> None:
    ruleset = render(egress=[{"source": [NET, "10.0.2.0/24"]}])
    (jump,) = body(ruleset, "NATLB.post")
    assert body(ruleset, jump.removeprefix("-j ")) == [
        f"-d {NET} -j RETURN",
        "-d 10.0.2.0/24 -j RETURN",
        f"-s {NET} -j MASQUERADE",
        "-s 10.0.2.0/24 -j MASQUERADE",
    ]


def test_services_come_before_egress_and_uplinks() -> None:
    ruleset = render(WEB, egress=[{"source": NET, "uplinks": UPLINKS}])
    assert [rule.split()[-1] for rule in body(ruleset, "NATLB.pre")] == ["NATLB..d.tcp", "NATLB..uplinks"]
    assert body(ruleset, "NATLB.post")[0].endswith("-j NATLB..s.tcp")
    assert body(ruleset, "NATLB.out") == ["-p tcp -j NATLB..d.tcp"]


def test_the_way_in_is_marked_where_source_nat_depends_on_it() -> None:
    outside = {**WEB, "name": "outside", "listen": "*:23", "interface": "eth0", "snat": "none"}
    inside = {**WEB, "name": "inside", "listen": "192.0.2.10:23", "interface": "eth1", "snat": "192.0.2.10"}
    apart = {**inside, "name": "apart", "listen": "192.0.2.10:24"}
    ruleset = render(outside, inside, apart)
    mark = "-m mark --mark 0x2000000/0x3f000000"
    assert body(ruleset, "NATLB..d.tcp") == [
        "-d 192.0.2.10/32 -i eth1 -p tcp -m tcp --dport 23 -j MARK --set-xmark 0x2000000/0x3f000000",
        "-d 192.0.2.10/32 -i eth1 -p tcp -m tcp --dport 23 -j NATLB.inside.tcp",
        "-d 192.0.2.10/32 -i eth1 -p tcp -m tcp --dport 24 -j NATLB.apart.tcp",
    ]
    assert body(ruleset, "NATLB..s.tcp") == [
        f"-m conntrack --ctorigdst 192.0.2.10 --ctorigdstport 23 {mark} -j NATLB.inside.tcp.out.23",
        "-m conntrack --ctorigdst 192.0.2.10 --ctorigdstport 24 -j NATLB.apart.tcp.out.24",
    ]
    assert "0x1000000/0x3f000000" in body(ruleset, "NATLB..sw.tcp")[0]


@pytest.mark.parametrize(
    "other",
    [
        {"snat": "none"},
        {"backends": [{"address": "10.0.0.5", "port": 8080}]},
        {"listen": "192.0.2.11:23"},
        {"listen": "*:24"},
        {"protocol": "udp"},
    ],
)
def test_nothing_is_marked_where_it_makes_no_difference(other: dict[str, Any]) -> None:
    outside = {**WEB, "name": "outside", "listen": "192.0.2.10:23", "interface": "eth0", "snat": "none"}
    inside = {**WEB, "name": "inside", "listen": "*:23", "interface": "eth1", "snat": "masquerade", **other}
    assert not [line for section in render(outside, inside).values() for line in section.body if "MARK" in line]


def test_marks_that_do_not_fit() -> None:
    """The uplinks' come first."""
    outside = {**WEB, "listen": "*:23", "interface": "eth0", "snat": "none"}
    inside = {**WEB, "name": "inside", "listen": "192.0.2.10:23", "interface": "eth1"}
    egress = [{"source": NET, "uplinks": UPLINKS}]
    iptables.render(model.parse_config([outside, inside], egress, "0x700"), Surroundings(NETWORKS))
    with pytest.raises(ConfigError, match="2 uplinks and 2 interfaces") as caught:
        iptables.render(model.parse_config([outside, inside], egress, "0x300"), Surroundings(NETWORKS))
    assert caught.value.path == "mark_mask"


def test_backends_side_by_side_share_a_rule_for_what_is_invalid() -> None:
    backends = [{"address": f"10.0.0.{last}"} for last in (8, 9, 10, 11, 13)]
    ranges = {"listen": ["192.0.2.10:8000-8010", "192.0.2.11:8005-8020"], "protocol": "udp", "backends": backends}
    ruleset = render({**WEB, **ranges}, {**WEB, "name": "other", "listen": "192.0.2.12:53", "protocol": "udp"})
    assert body(ruleset, "NATLB..i", "filter") == ["-p udp -j NATLB..i.udp", "-p udp -j NATLB..f.udp"]
    assert body(ruleset, "NATLB..i.udp", "filter") == [
        "-s 10.0.0.3/32 -p udp -m udp --sport 8080 -j DROP",
        "-s 10.0.0.4/32 -p udp -m udp --sport 8080 -j DROP",
        "-s 10.0.0.8/30 -p udp -m udp --sport 8000:8020 -j DROP",
        "-s 10.0.0.13/32 -p udp -m udp --sport 8000:8020 -j DROP",
    ]


def test_frontends_side_by_side_share_a_rule_for_what_is_invalid() -> None:
    """Those of one interface, and those of each local address, by themselves."""
    listens = [f"192.0.2.{last}:80" for last in (8, 9, 10, 11)] + [f"192.0.2.13:{port}" for port in (80, 81, 82)]
    ruleset = render(
        {**WEB, "listen": listens},
        {**WEB, "name": "card", "listen": ["192.0.2.14:80", "192.0.2.15:80"], "interface": "eth1"},
        {**WEB, "name": "node", "listen": "*:90"},
        {**WEB, "name": "node-card", "listen": "*:91-99", "interface": "eth1"},
    )
    assert body(ruleset, "NATLB..i", "filter") == [
        "-p tcp -m tcp --tcp-flags SYN,ACK SYN,ACK -j RETURN",
        "-p tcp -j NATLB..i.tcp",
        "-p tcp -j NATLB..f.tcp",
        "-p tcp -m addrtype --dst-type LOCAL -j NATLB..fw.tcp",
    ]
    assert body(ruleset, "NATLB..f.tcp", "filter") == [
        "-d 192.0.2.8/30 -p tcp -m tcp --dport 80 -j DROP",
        "-d 192.0.2.13/32 -p tcp -m tcp --dport 80:82 -j DROP",
        "-d 192.0.2.14/31 -i eth1 -p tcp -m tcp --dport 80 -j DROP",
    ]
    assert body(ruleset, "NATLB..fw.tcp", "filter") == [
        "-d 127.0.0.0/8 -j RETURN",
        "-p tcp -m tcp --dport 90 -j DROP",
        "-i eth1 -p tcp -m tcp --dport 91:99 -j DROP",
    ]


def test_a_limit_of_a_backend_is_refused() -> None:
    for state in ("active", "disabled"):
        limited = {**WEB, "backends": [BACKENDS[1], {**BACKENDS[0], "max_connections": 5, "state": state}]}
        with pytest.raises(ConfigErrors, match=r"the iptables engine cannot do.*engine: nftables") as caught:
            render({**WEB, "name": "first", "listen": "192.0.2.99:80"}, limited)
        assert [error.path for error in caught.value.errors] == ["services[1].backends[1].max_connections"]


def test_names_fit_the_kernel() -> None:
    name = "a-name-as-long-as-a-name-may-be-" * 2
    keys = {"affinity": 60, "log": True, "new_connections_per_second": 5, "max_connections_per_client": 1}
    ruleset = render(
        {**WEB, **keys, "name": name[:63], "interface": "eth0", "snat": "none", "protocol": ["tcp", "udp"]}
    )
    text = full(ruleset, "ip")
    assert all(len(key[3]) <= MAX_NAME for key in ruleset)
    assert all(len(prefix) <= 29 and prefix.endswith(" ") for prefix in re.findall(r'--log-prefix "([^"]*)"', text))
    assert all(len(found) <= 15 for found in re.findall(r"--hashlimit-name (\S+)", text))
    assert all("/" not in found and len(found) < 200 for found in re.findall(r"--name (\S+)", text))


def test_another_rate_is_another_list() -> None:
    """xt_hashlimit keeps what a list was made with for as long as any rule names it."""
    names = {
        re.findall(r"--hashlimit-name (\S+)", full(render({**WEB, "new_connections_per_second": rate}), "ip"))[0]
        for rate in (5, 6)
    }
    assert len(names) == 2


def test_every_chain_that_a_rule_names_is_there() -> None:
    services = [
        {**WEB, "name": f"s{i}", "listen": f"192.0.2.{i % 50}:{1000 + i}", "affinity": i % 2}
        for i in range(1, 200)
        if i % 50
    ]
    ruleset = render(*services, egress=[{"source": [NET, "10.0.2.0/24"], "uplinks": UPLINKS}])
    for key, section in ruleset.items():
        for rule in section.body:
            for target in re.findall(r"-[jg] (NATLB\S+)", rule):
                assert (key[0], key[1], "chain", target) in ruleset
    named = {
        re.findall(r"-[jg] (NATLB\S+)", rule)[-1]
        for s in ruleset.values()
        for rule in s.body
        if "NATLB" in rule.split()[-1]
    }
    assert named == {key[3] for key in ruleset if key[2] == "chain"}, "none is there for nothing"
