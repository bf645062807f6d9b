# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters behind the playbooks status and verify."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import example_fleet
import generated
import pytest
import yaml
from _natlb.cli import main as program
from _natlb.status import info as status_info
from ansible.errors import AnsibleFilterError
from ansible_collections.natlb.netfilter.plugins.filter import status_table as table_plugin
from ansible_collections.natlb.netfilter.plugins.filter import verify_checks as checks_plugin
from ansible_collections.natlb.netfilter.plugins.filter import verify_probes as probes_plugin
from ansible_collections.natlb.netfilter.plugins.modules import balancer_info as info_module

ROOT = Path(__file__).resolve().parents[3]
status_table = table_plugin.FilterModule().filters()["status_table"]
checks = checks_plugin.FilterModule().filters()["verify_checks"]
probes = probes_plugin.FilterModule().filters()["verify_probes"]


def backend(name: str, address: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "address": address,
        "port": 9000,
        "weight": 1,
        "state": "active",
        "backup": False,
        "health": "unchecked",
        "expected_share": 0.5,
        "new_connections": 0,
        "active_connections": 0,
        **more,
    }


def service(name: str = "web", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "listen": ["192.0.2.10:80"],
        "protocol": ["tcp"],
        "method": "round_robin",
        "backends": [backend("web1", "10.0.0.3", weight=3), backend("web2", "10.0.0.4")],
        **more,
    }


def info(*services: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"engine": "nftables", "forwarding": True, "drift": False, "warnings": [], "services": services, **more}


TABLE = """\
    BACKEND  ADDRESS        WEIGHT  STATE    HEALTH   SHARE   NEW  ACTIVE
lb1
  web  192.0.2.1:80, 192.0.2.1:443  round_robin
    web1     10.0.0.3:9000       3  active   -       75.0 %  1234       7
    web2     10.0.0.4            1  drained  down     0.0 %   411       -
  dns  [2001:db8::1]:53  source_hash
    ns1      [2001::3]:53        1  active   -       50.0 %     0       0
lb2: drifted, not forwarding
  dns  [2001:db8::1]:53  source_hash
    ns1      [2001::3]:53        1  active   -       50.0 %     0       0
lb3
  egress only
lb4: not read
lb2: the kernel does not forward packets; run natlb.netfilter.deploy
lb2: differs from the last declaration; run natlb.netfilter.deploy
lb3: source NAT for 10.0.0.0/24 by eth0 (masquerade)
lb3: forwards all traffic, not only what is declared (docs/coexistence.md)
lb4: could not be read: no route to host
"""

EGRESS = {"source": ["10.0.0.0/24"], "out_interface": "eth0", "snat": "masquerade", "uplinks": []}


def test_a_table_that_a_person_can_read() -> None:
    web1 = backend("web1", "10.0.0.3", weight=3, expected_share=0.75, new_connections=1234, active_connections=7)
    web2 = backend(
        "web2", "10.0.0.4", port=None, state="drained", expected_share=0.0, new_connections=411, health="down"
    )
    web2["active_connections"] = None
    web = service(listen=["192.0.2.1:80", "192.0.2.1:443"], backends=[web1, web2])
    dns = service(
        "dns", listen=["[2001:db8::1]:53"], method="source_hash", backends=[backend("ns1", "2001::3", port=53)]
    )
    hosts = {
        "lb1": info(web, dns),
        "lb2": info(dns, drift=True, forwarding=False),
        "lb3": info(egress=[EGRESS], forwards_transit=True),
        "lb4": {"unreachable": True, "msg": "no route to host\n"},
    }
    assert status_table(hosts) == [line.rstrip() for line in TABLE.splitlines()]


PLAIN = """\
BALANCER  SERVICE  LISTEN         ADDRESS         SHARE  NEW  ACTIVE
lb1       web      192.0.2.10:80  10.0.0.3:9000  50.0 %    0       0
                                  10.0.0.4:9000  50.0 %    0       0
"""


def test_columns_that_say_nothing_are_left_out() -> None:
    plain = service(backends=[backend("10.0.0.3", "10.0.0.3"), backend("10.0.0.4", "10.0.0.4")])
    assert status_table({"lb1": info(plain)}) == PLAIN.splitlines()
    six = service(backends=[backend("2001:db8::3", "2001:db8::3")])
    assert "BACKEND" not in status_table({"lb1": info(six)})[0]


@pytest.mark.parametrize(
    ("more", "column"),
    [
        ({"name": "web1"}, "BACKEND"),
        ({"weight": 2}, "WEIGHT"),
        ({"state": "drained"}, "STATE"),
        ({"backup": True}, "STATE"),
        ({"health": "down"}, "HEALTH"),
    ],
)
def test_one_row_is_enough_to_show_a_column(more: dict[str, Any], column: str) -> None:
    odd = {**backend("10.0.0.4", "10.0.0.4"), **more}
    lines = status_table({"lb1": info(service(backends=[backend("10.0.0.3", "10.0.0.3"), odd]))})
    assert column in lines[0].split()


def test_services_that_redispatch_are_marked() -> None:
    lines = status_table({"lb1": info(service(redispatch=True), service("dns", redispatch=False))})
    assert "REDISPATCH" in lines[0]
    marked = {name: line.split()[1:5] for line in lines for name in ("web", "dns") if name in line.split()[:2]}
    assert [("yes" in words, "-" in words) for words in marked.values()] == [(True, False), (False, True)]


def test_a_limit_stands_beside_the_connections() -> None:
    limited = [backend("web1", "10.0.0.3", active_connections=7, max_connections=100), backend("web2", "10.0.0.4")]
    shown = [line.split() for line in status_table({"lb1": info(service(backends=limited))})]
    assert [words[-1] for words in shown[:3]] == ["ACTIVE", "7/100", "0"]


def test_a_backup_is_marked() -> None:
    assert (
        "active (backup)" in status_table({"lb1": info(service(backends=[backend("b", "10.0.0.5", backup=True)]))})[1]
    )


@pytest.mark.parametrize(
    ("hosts", "lines"),
    [
        ({"lb1": info()}, ["BALANCER  SERVICE", "lb1       none"]),
        ({"lb1": {}}, ["BALANCER  CONDITION", "lb1       not read", "lb1: could not be read: it was not reached"]),
        ({"lb1": None}, ["BALANCER  CONDITION", "lb1       not read", "lb1: could not be read: it was not reached"]),
        (
            {"lb1": info(remarks=["one", "two"], warnings=["Ansible's own"])},
            ["BALANCER  SERVICE", "lb1       none", "lb1: one", "lb1: two"],
        ),
        ({}, ["no balancers"]),
    ],
)
def test_what_a_table_cannot_hold_stands_below(hosts: dict[str, Any], lines: list[str]) -> None:
    assert status_table(hosts) == lines


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        (EGRESS, "source NAT for 10.0.0.0/24 by eth0 (masquerade)"),
        (
            {
                "source": ["10.0.0.0/24", "10.1.0.0/24"],
                "snat": "masquerade",
                "uplinks": [{"interface": "eth1"}, {"interface": "eth2"}],
            },
            "source NAT for 10.0.0.0/24, 10.1.0.0/24 by eth1 or eth2 (masquerade)",
        ),
        (
            {"source": ["10.0.0.0/24"], "protocol": "tcp", "destination_ports": ["80", "443"], "snat": "192.0.2.10"},
            "source NAT for 10.0.0.0/24 to tcp 80, 443 (192.0.2.10)",
        ),
        (
            {**EGRESS, "snat": "192.0.2.10", "snat_ports": "20000-29999"},
            "source NAT for 10.0.0.0/24 by eth0 (192.0.2.10 from ports 20000-29999)",
        ),
    ],
)
def test_egress_is_told(rule: dict[str, Any], line: str) -> None:
    assert status_table({"lb1": info(egress=[rule])})[-1] == f"lb1: {line}"


@pytest.mark.parametrize(
    ("usage", "lines"),
    [
        (
            {"count": 812, "max": 9999, "drop": 0, "early_drop": 4, "insert_failed": 2},
            ["lb1: connection tracking 8.1 % full (812 of 9999); since boot 0 dropped, 4 removed early, 2 clashes"],
        ),
        (
            {"count": 9, "max": 10, "drop": 7, "early_drop": 0, "insert_failed": 0},
            ["lb1: connection tracking 90.0 % full (9 of 10); since boot 7 dropped, 0 removed early, 0 clashes"],
        ),
        # The kernel tracks nothing there yet.
        ({"count": 0, "max": 0, "drop": 0, "early_drop": 0, "insert_failed": 0}, []),
        (None, []),
    ],
)
def test_fill_level_and_losses_of_the_tracking_table_are_shown(usage: Any, lines: list[str]) -> None:
    assert [line for line in status_table({"lb1": info(service(), conntrack=usage)}) if "tracking" in line] == lines


def test_a_service_without_backends_is_shown() -> None:
    lines = status_table({"lb1": info(service(backends=[]))})
    assert lines[1].split() == ["lb1", "web", "192.0.2.10:80", "none"]


def test_services_that_look_alike_are_all_shown_in_full() -> None:
    lines = status_table({"lb1": info(service("a"), service("b"))})
    assert [line.split()[0] for line in lines[1:]] == ["lb1", "web2", "b", "web2"]
    assert "192.0.2.10:80" in lines[3]


@pytest.mark.parametrize("value", [None, [], "lb1", [info()]])
def test_the_table_refuses_what_is_not_a_mapping(value: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="not a mapping of hosts"):
        status_table(value)


EXPECTED = {"web1": 3, "web2": 1}
V6 = [backend("web6", "2001:db8:2::3")]


@pytest.mark.parametrize(
    ("found", "arguments", "result"),
    [
        (service(), {}, [("192.0.2.10:80", "tcp")]),
        (service(listen=["192.0.2.10:9000"]), {}, [("192.0.2.10:9000", "tcp")]),
        (service(listen=["192.0.2.10:8000-8010"]), {}, [("192.0.2.10:8000", "tcp")]),
        (
            service(listen=["192.0.2.10:53"], protocol=["tcp", "udp", "sctp"]),
            {},
            [("192.0.2.10:53", "tcp"), ("192.0.2.10:53", "udp")],
        ),
        (service(listen=["*:30080"]), {"address": "192.0.2.2"}, [("192.0.2.2:30080", "tcp")]),
        (service(listen=["*:30080"], backends=V6), {"address": "2001:db8::2"}, [("[2001:db8::2]:30080", "tcp")]),
        (
            service(listen=["192.0.2.10:9", "[2001:db8::10]:9"], backends=[backend("web1", "10.0.0.3"), *V6]),
            {},
            [("192.0.2.10:9", "tcp"), ("[2001:db8::10]:9", "tcp")],
        ),
        (service(backends=[backend("web1", "10.0.0.3", expected_share=0.0)]), {}, []),
        (service(backends=[]), {}, []),
    ],
)
def test_what_is_probed(found: dict[str, Any], arguments: dict[str, Any], result: list[Any]) -> None:
    made = probes([found], **arguments)
    assert [(probe["options"]["target"], probe["options"]["protocol"]) for probe in made] == result
    assert all(probe["options"]["connect_only"] and probe["options"]["connections"] == 300 for probe in made)


@pytest.mark.parametrize(
    ("chosen", "options", "judge", "names"),
    [
        ({"protocol": "http"}, {"protocol": "http", "expected": EXPECTED}, {}, ["web1", "web2"]),
        ({"identify": "x"}, {"protocol": "tcp", "identify": "x", "expected": EXPECTED}, {}, ["web1", "web2"]),
        ({"expected": {"a": 1}}, {"protocol": "tcp", "expected": {"a": 1}}, {}, ["web1", "web2"]),
        (
            {"names": {"web1": "alpha"}},
            {"protocol": "tcp", "expected": {"alpha": 3, "web2": 1}},
            {},
            ["alpha", "web2"],
        ),
        (
            {"protocol": "http", "tolerance": 0, "max_errors": 1},
            {"protocol": "http", "expected": EXPECTED, "tolerance": 0, "max_errors": 1},
            {"tolerance": 0, "max_errors": 1},
            ["web1", "web2"],
        ),
        # Who is not asked is not judged by answers either; the counters are.
        (
            {"tolerance": 0, "max_errors": 1},
            {"protocol": "tcp", "connect_only": True},
            {"tolerance": 0, "max_errors": 1},
            ["web1", "web2"],
        ),
        ({"timeout": "1s"}, {"protocol": "tcp", "connect_only": True, "timeout": "1s"}, {}, ["web1", "web2"]),
    ],
)
def test_how_it_is_probed(chosen: Any, options: Any, judge: Any, names: list[str]) -> None:
    (probe,) = probes([service()], overrides={"web": chosen})
    assert probe["options"] == {"target": "192.0.2.10:80", "connections": 300, **options}
    assert (probe["judge"], probe["names"]) == (judge, names)


def test_no_spread_is_expected_of_one_client_that_stays() -> None:
    for more in ({"method": "source_hash"}, {"method": "destination_hash"}, {"affinity": 3600}, {"pins": 2}):
        (probe,) = probes([service(**more)], overrides={"web": {"protocol": "http", "tolerance": 0}})
        assert "expected" not in probe["options"]
        assert "tolerance" not in probe["options"]


def test_limits_of_a_service_are_kept() -> None:
    (probe,) = probes([service(max_connections_per_client=3, new_connections_per_second=20)], connections="300")
    assert (probe["options"]["concurrency"], probe["options"]["connections"]) == (3, 20)


def test_a_service_may_be_probed_from_a_host_of_its_own() -> None:
    web, dns = probes([service(), service("dns")], overrides={"web": {"from": "client"}})
    assert web == {**probes([service()])[0], "from": "client"}
    assert "from" not in dns


@pytest.mark.parametrize(
    ("listen", "address", "target"),
    [
        ("198.51.100.0/24:80", None, "198.51.100.1:80"),
        ("198.51.100.0/24:80", "192.0.2.2", "198.51.100.1:80"),
        ("198.51.100.0/24:80", "198.51.100.9", "198.51.100.9:80"),
        ("198.51.100.0/24:80", "balancer.example.com", "198.51.100.1:80"),
        ("0.0.0.0/0:80-90", "192.0.2.2", "192.0.2.2:80"),
        ("0.0.0.0/0:80-90", ["2001:db8::2", "192.0.2.2"], "192.0.2.2:80"),
        ("*:80", ["2001:db8::2", "192.0.2.2"], "192.0.2.2:80"),
    ],
)
def test_an_address_of_a_network(listen: str, address: Any, target: str) -> None:
    (probe,) = probes([service(listen=[listen])], address=address)
    assert probe["options"]["target"] == target


@pytest.mark.parametrize(
    ("address", "targets"),
    [
        ("192.0.2.2", ["192.0.2.2:443"]),
        ("2001:db8::2", ["[2001:db8::2]:443"]),
        (["2001:db8::2", "192.0.2.2"], ["192.0.2.2:443", "[2001:db8::2]:443"]),
        ("lb1", []),
    ],
)
def test_an_address_is_chosen_by_its_family(address: Any, targets: list[str]) -> None:
    whole = service(listen=["0.0.0.0/0:443", "[::/0]:443"], backends=[backend("web1", "10.0.0.3"), *V6])
    assert [probe["options"]["target"] for probe in probes([whole], address=address)] == targets


@pytest.mark.parametrize(
    "more",
    [
        {"restricted": True},
        {"interface": "eth1"},
        {"snat_elsewhere": ["10.0.0.10"]},
        {"listen": ["198.51.100.0/24:80"]},
        {"listen": ["0.0.0.0/0:443", "[::/0]:443"]},
        {"backends": [backend("web1", "10.0.0.3", max_connections=2), backend("web2", "10.0.0.4")]},
    ],
)
def test_what_a_balancer_does_not_probe_itself(more: dict[str, Any]) -> None:
    assert probes([service(**more)], own=True) == []
    assert probes([service(**more)], address="192.0.2.2")


def test_an_address_beside_a_network_is_probed() -> None:
    (probe,) = probes([service(listen=["198.51.100.0/24:80", "198.51.100.7:80"])], own=True)
    assert probe["options"]["target"] == "198.51.100.7:80"


@pytest.mark.parametrize(("listens", "made"), [(32, 32), (33, 17), (64, 32), (65, 22)])
def test_a_balancer_probes_so_many_addresses_itself(listens: int, made: int) -> None:
    many = service(listen=[f"192.0.2.{number}:80" for number in range(1, listens + 1)])
    assert len(probes([many], own=True)) == made
    assert len(probes([many])) == listens


@pytest.mark.parametrize(("limits", "at_a_time"), [((2, 2), 4), ((2, 0), None), ((20, 2), 10)])
def test_no_more_connections_than_the_backends_have_room_for(limits: tuple[int, int], at_a_time: int | None) -> None:
    limited = [backend(f"web{n}", f"10.0.0.{n}", max_connections=limit) for n, limit in enumerate(limits, 3)]
    (probe,) = probes([service(backends=limited)])
    assert probe["options"].get("concurrency") == at_a_time


def test_options_of_a_service_of_another_balancer_are_fine() -> None:
    assert probes([service()], overrides={"elsewhere": {"protocol": "http"}}) == probes([service()])


@pytest.mark.parametrize(
    ("found", "arguments", "message"),
    [
        (service(listen=["*:30080"]), {}, "web listens on every address"),
        (service(listen=["0.0.0.0/0:80"]), {}, "web listens on whatever address"),
        (service(listen=["somewhere"]), {}, "web listens on 'somewhere', which is not understood"),
        (service(), {"overrides": ["web"]}, "the options are not a mapping by service"),
        (service(), {"overrides": {"web": "http"}}, "the options are not a mapping by service"),
        (
            service(),
            {"overrides": {"web": {"tolerence": 0}}},
            "options.web.tolerence: no such option .did you mean tol",
        ),
        (service(), {"overrides": {"web": {"tolerance": "x"}}}, "options.web.tolerance: 'x' is not a fraction"),
    ],
)
def test_probes_refuses(found: dict[str, Any], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message.replace("*", r"\*")):
        probes([found], **arguments)


def probed(item: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"item": item, "connections": 300, "errors": 0, "error_messages": [], "backends": {}, **more}


def test_only_backends_of_services_that_failed_are_checked() -> None:
    web, dns = service(), service("dns", listen=["[2001:db8::1]:53"], protocol=["udp"], backends=V6)
    items = probes([web, dns])
    assert checks([web, dns], [probed(item) for item in items]) == []
    found = checks([web, dns], [probed(items[0]), probed(items[1], errors=2)])
    assert found == [
        {"service": "dns", "backend": "web6", "options": {"target": "[2001:db8:2::3]:9000", "protocol": "udp"}}
    ]
    portless = service(backends=[backend("web1", "10.0.0.3", port=None), *V6])
    (found,) = checks([portless], [probed(items[0], errors=1)])
    assert found["options"] == {"target": "10.0.0.3:80", "protocol": "tcp"}


# -- balancers of a pair ----------------------------------------------------------------------------------------------


def test_identical_balancers_are_shown_once() -> None:
    lines = status_table({name: info(service(), remarks=["one"]) for name in ("lb1", "lb2")})
    assert [line.split()[:3] for line in lines] == [
        ["BALANCER", "SERVICE", "LISTEN"],
        ["lb1,", "lb2", "web"],
        ["web2", "10.0.0.4:9000", "1"],
        ["lb1,", "lb2:", "one"],
    ]


def test_counters_are_summed_and_times_are_the_first() -> None:
    def one(new: int, active: int | None, second: int) -> dict[str, Any]:
        why = f"down since 2026-11-26T01:00:0{second}Z: refused"
        counts = {"new_connections": new, "active_connections": active}
        return info(service(backends=[backend("web1", "10.0.0.3", why=why, **counts)]))

    lines = status_table({"lb1": one(3, 1, 7), "lb2": one(4, 2, 2)})
    assert lines[1].split()[-2:] == ["7", "3"], lines
    assert lines[2:] == ["    down since 2026-11-26T01:00:02Z: refused"]
    unknown = status_table({"lb1": one(3, 1, 7), "lb2": one(4, None, 2)})
    assert "ACTIVE" not in unknown[0], "one cannot say, so there is no sum"


def test_only_what_differs_is_told_apart() -> None:
    other = service(backends=[backend("web1", "10.0.0.3", weight=3), backend("web2", "10.0.0.4", health="down")])
    lines = status_table({"lb1": info(service()), "lb2": info(other)})
    assert lines[1].startswith("lb1, lb2  web ")
    assert "web1" in lines[1]
    assert [line.split()[:2] for line in lines[2:]] == [["lb1", "web2"], ["lb2", "web2"]]
    drifted = status_table({"lb1": info(service()), "lb2": info(service(), drift=True)})
    assert drifted[1].startswith("lb1, lb2  drifted (lb2)  web ")


def test_balancers_with_other_services_are_apart() -> None:
    lines = status_table({"lb1": info(service()), "lb2": info(service(listen=["192.0.2.11:80"]))})
    assert [line.split()[0] for line in lines if " web " in line] == ["lb1", "lb2"]


def test_a_table_is_not_wider_than_a_terminal() -> None:
    assert max(map(len, status_table(example_fleet.broken()))) <= 100
    long = backend("x" * 63, "2001:db8:1111:2222:3333:4444:5555:6666", why="because " + "it is so " * 40, weight=2)
    odd = info(service(listen=[f"192.0.2.{n}:8000" for n in range(90)], backends=[long, {**long, "health": "down"}]))
    lines = status_table({**{f"balancer-{n}.example.org": odd for n in range(9)}, "lb2": info(service())})
    assert max(map(len, lines)) <= 100, "\n".join(lines)
    assert "".join(line.split()[0] for line in lines if "x" in line.split()[0][:1]).count("x") == 2 * 63


def test_what_is_down_is_marked_for_a_terminal() -> None:
    marked = status_table(example_fleet.broken(), marked=True)
    assert [line["text"] for line in marked] == status_table(example_fleet.broken())
    levels = {line["text"].split()[0]: line["level"] for line in marked if line["text"].startswith("    ")}
    assert {levels["web2"], levels["api1"]} == {"bad"}
    assert levels["mx1"] == ""
    assert levels["mx2"] == "odd"


def test_the_example_has_what_the_module_returns() -> None:
    """The keys of the example are those that the module says it returns."""
    returned = yaml.safe_load(info_module.RETURN)
    found = example_fleet.broken()["lb1"]
    assert set(found) == set(returned)
    assert set(found["services"][0]) == set(returned["services"]["contains"])
    assert set(found["services"][0]["backends"][0]) == set(returned["services"]["contains"]["backends"]["contains"])


@pytest.mark.parametrize(
    ("block", "fleet"),
    [("status", example_fleet.broken()), ("healthy status", example_fleet.healthy())],
    ids=["broken", "healthy"],
)
def test_the_tables_in_docs_are_those_that_are_printed(block: str, fleet: dict[str, Any]) -> None:
    table = "\n".join(status_table(fleet))
    generated.check_block(ROOT / "docs" / "status.md", block, f"```text\n{table}\n```\n")


def test_a_thousand_services_take_little_time() -> None:
    fleet = example_fleet.large()
    began = time.process_time()
    lines = status_table(fleet)
    spent = time.process_time() - began
    print(f"1,000 services on 2 balancers: {len(lines)} lines in {spent:.2f} s of processor time")
    assert len(lines) == 1 + 1 + 1000 + 4000 + 1 + 2, "once for both balancers"
    assert spent < 2


@pytest.mark.parametrize(
    ("variables", "terminal", "coloured"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm"}, False, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
        ({}, True, False),
    ],
)
def test_natlb_status_colours_terminals_alone(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], terminal: bool, coloured: bool
) -> None:
    """The program writes to a file, or to a real terminal of a pair."""
    for name in ("TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ends = os.openpty() if terminal else os.pipe()
    with contextlib.closing(os.fdopen(ends[0], "rb", buffering=0)) as reading, os.fdopen(ends[1], "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        found = info(service(backends=[backend("web1", "10.0.0.3", health="down")]))
        monkeypatch.setattr(status_info, "info", lambda **_options: found)
        assert program.main(["status"]) == 0
        stdout.flush()
        assert (b"\033[31m" in reading.read(4096)) is coloured
