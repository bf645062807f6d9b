# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Uplinks as real hosts have them: one is missing, one has no gateway, one goes down and comes back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kernel_lab import drive, following, server, traffic
from kernel_lab.balancer import Balancer, service
from kernel_lab.host import Host
from kernel_lab.topology import CLIENT, CLIENTS, FRONT, INTERNET, WEB
from test_egress import GATEWAYS, INSIDE, by_weight, out, ways

RULES = ["ip", "rule", "show"]
TABLE = ["ip", "route", "show", "table"]
SECOND = "default via 100.64.2.1 dev up2.100"
#: What keeps them in place knows neither engine.
either = pytest.mark.engines("nftables")


@pytest.fixture
def follower(balancer: Balancer) -> Iterator[Balancer]:
    """Two uplinks, and the script that keeps them."""
    balancer.lab.uplinks()
    balancer.apply([], [by_weight(1, 1)])
    balancer.host.call(following.start, str(balancer.etc / "boot-uplinks"), str(balancer.etc.parent / "said"))
    yield balancer
    balancer.host.call(following.stop)


def waits(balancer: Balancer, argv: list[str], text: str, there: bool = True) -> None:
    printed = balancer.host.call(following.wait_for, argv, text, there)
    assert (text in printed) == there, printed


@pytest.mark.parametrize("lost", ["gone", "down", "without an address"])
def test_an_uplink_that_is_missing_leaves_the_others_theirs(balancer: Balancer, lost: str) -> None:
    balancer.lab.uplinks()
    loses = {
        "gone": "link set up2.100 down\nlink set up2.100 name lost2",
        "down": "link set up2.100 down",
        "without an address": "address flush dev up2.100",
    }
    balancer.host.ip(f"route add default via 100.64.1.1\n{loses[lost]}")
    outcome = balancer.apply([], [by_weight(1, 1)])
    (warning,) = [warning for warning in outcome.warnings if "up2.100" in warning]
    assert warning.startswith("uplink up2.100 via 100.64.2.1: ")
    assert "so it has no route" in warning
    assert ("this host has no interface up2.100 (it has " in warning) == (lost == "gone")
    assert ways(out(balancer, f"{INTERNET}:80", 4)) == {"isp1": 4}, "the main table's default route takes its share"
    assert not balancer.apply([], [by_weight(1, 1)]).changed
    assert not balancer.info()["drift"]


@either
def test_a_gateway_that_is_this_host_itself(balancer: Balancer) -> None:
    """The kernel takes such a route, and asks the wire for its own address."""
    balancer.lab.uplinks()
    own = {"interface": "up1", "gateway": "100.64.1.2"}
    outcome = balancer.apply([], [{"source": INSIDE, "uplinks": [own, GATEWAYS["isp2"]]}])
    (warning,) = [warning for warning in outcome.warnings if "up1" in warning]
    assert warning == (
        "uplink up1 via 100.64.1.2: 100.64.1.2 is an address of this host itself, so its connections go nowhere; "
        "write the address of the router behind up1"
    )
    assert [text for text in balancer.apply([], [by_weight(1, 1)]).warnings if "itself" in text] == []


@either
def test_at_boot_each_uplink_stands_alone(balancer: Balancer) -> None:
    balancer.lab.uplinks()
    balancer.apply([], [by_weight(1, 1)])
    for number in ("24600", "24601", "24602"):
        balancer.host.ip(f"rule delete pref {number}")
    balancer.host.ip("route flush table 24602\nlink set up1 down\nlink set up1 name lost1")
    script = str(balancer.etc / "boot-uplinks")
    said = balancer.host.run("sh", "-c", f"sh {script} 2>&1; echo status $?")
    assert "no way by: default via 100.64.1.1 dev up1" in said
    assert "status 1" in said
    rules = balancer.host.run(*RULES)
    assert [line.split(":")[0] for line in rules.splitlines() if "fwmark" in line] == ["24600", "24601", "24602"]
    assert SECOND in balancer.host.run(*TABLE, "24602")


def test_an_uplink_without_a_gateway(balancer: Balancer) -> None:
    """The other end of the wire answers for what is behind it, as that of a tunnel does."""
    balancer.lab.uplinks()
    declared = [{"source": INSIDE, "uplinks": [{"interface": "up1"}, {**GATEWAYS["isp2"], "weight": 2}]}]
    balancer.apply([], declared)
    assert ways(out(balancer, f"{INTERNET}:80", 6)) == {"isp1": 2, "isp2": 4}
    assert balancer.host.run(*TABLE, "24601").startswith("default dev up1")
    assert not balancer.apply([], declared).changed
    balancer.host.ip("rule delete pref 24601\nroute flush table 24601")
    balancer.host.run("sh", str(balancer.etc / "boot-uplinks"))
    assert not balancer.apply([], declared).changed
    balancer.remove()
    assert balancer.host.run("sh", "-c", "ip route show table 24601 2>/dev/null || true") == ""


@either
@pytest.mark.parametrize("source", ["10.0.0.0/24", "2001:db8:2::/64"])
def test_an_uplink_without_a_gateway_is_of_the_family_of_the_source(balancer: Balancer, source: str) -> None:
    balancer.lab.uplinks()
    balancer.apply([], [{"source": source, "uplinks": [{"interface": "up1"}]}])
    flags = ("-6", "-4") if ":" in source else ("-4", "-6")
    shown = [balancer.host.run("ip", flag, "rule", "show") for flag in flags]
    assert ["lookup 24601" in text for text in shown] == [True, False]
    assert not balancer.apply([], [{"source": source, "uplinks": [{"interface": "up1"}]}]).changed


def test_as_many_uplinks_as_the_mask_holds(balancer: Balancer) -> None:
    balancer.lab.uplinks()
    before = balancer.snapshot()
    many = [{"interface": "up1", "gateway": f"100.64.1.{number}"} for number in range(3, 103)]
    declared = [{"source": INSIDE, "uplinks": many}]
    balancer.apply([], declared, mark_mask="0xff000000")
    again = balancer.apply([], declared, mark_mask="0xff000000")
    assert (again.changed, again.diff) == (False, "")
    balancer.remove()
    after = balancer.snapshot()
    assert (after["rules-4"], after["routes-4"]) == (before["rules-4"], before["routes-4"])


def internet(balancer: Balancer) -> dict[str, Host]:
    """Providers that ask for the balancer's link-layer address in their own name, and not in that of a client."""
    providers = dict(balancer.lab.uplinks())
    for provider in providers.values():
        provider.sysctl({"ipv4/conf/all/arp_announce": 2})
    return providers


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("snat", ["masquerade", "none"])
def test_what_comes_in_by_an_uplink_leaves_by_it(balancer: Balancer, snat: str, protocol: str, strict: bool) -> None:
    """The client has the same address behind both; the default route leads to the other one."""
    providers = internet(balancer)
    balancer.host.ip("route add default via 100.64.1.1")
    balancer.host.sysctl({f"ipv4/conf/{link}/rp_filter": int(strict) for link in ("all", "up1", "up2.100")})
    listen = ["100.64.1.2:80", "100.64.2.2:80"]
    declared = service(listen=listen, protocol=protocol, snat=snat), by_weight(1, 1)
    balancer.apply([declared[0]], [declared[1]])
    balancer.host.call(server.start, "balancer", (8080,))
    for name, address in (("isp1", "100.64.1.2"), ("isp2", "100.64.2.2")):
        for port in (80, 8080):
            held = providers[name].call(traffic.hold, f"{address}:{port}", 4, protocol=protocol, source=INTERNET)
            assert not [answer for _handle, answer in held if answer.error], (name, port)
            again = [providers[name].call(traffic.talk, handle) for handle, _answer in held]
            assert [answer[0] for answer in again] == [answer.name for _handle, answer in held]
        providers[name].call(traffic.release)
    assert ways(out(balancer, f"{INTERNET}:80", 4)) == {"isp1": 2, "isp2": 2}


def test_egress_for_everybody_leaves_what_came_in_alone(balancer: Balancer) -> None:
    """A source of everything takes clients of services in as well."""
    providers = internet(balancer)
    balancer.host.sysctl({"ipv4/ip_forward": 1})
    uplinks = [GATEWAYS["isp1"], GATEWAYS["isp2"]]
    balancer.apply([service(listen="100.64.2.2:80")], [{"source": ["0.0.0.0/1", "128.0.0.0/1"], "uplinks": uplinks}])
    # What no service takes as well: here the provider knows the way inside.
    providers["isp2"].ip("route replace 10.0.0.0/24 via 100.64.2.2")
    for target in ("100.64.2.2:80", f"{WEB['web1']}:8080"):
        held = providers["isp2"].call(traffic.hold, target, 8, source=INTERNET)
        # One that took the other way would take this one at its second attempt.
        assert not [answer for _handle, answer in held if answer.error or answer.resent], target


def test_egress_for_everybody_leaves_the_host_itself_alone(balancer: Balancer) -> None:
    """A client that asks the host for something of its own is answered by the way that the host has chosen."""
    balancer.lab.uplinks()
    balancer.apply([service()], [{**by_weight(1, 1), "source": "0.0.0.0/0"}])
    balancer.host.call(server.start, "balancer", (8080,))
    balancer.host.ip(f"route delete {CLIENTS}\nroute add default via {CLIENT}")
    for protocol in ("tcp", "udp"):
        answers = balancer.ask(f"{FRONT}:8080", 4, protocol=protocol, sources=["198.18.0.7"])
        assert traffic.tally(answers) == {"balancer": 4}


@either
def test_two_uplinks_of_one_interface(balancer: Balancer) -> None:
    """By which of them a connection came cannot be told; it takes the host's own routes, as without uplinks."""
    providers = internet(balancer)
    balancer.host.ip("route add default via 100.64.1.1")
    uplinks = [{"interface": "up1", "gateway": f"100.64.1.{number}"} for number in (7, 9)]
    balancer.apply([service(listen="100.64.1.2:80")], [{"source": INSIDE, "uplinks": uplinks}])
    held = providers["isp1"].call(traffic.hold, "100.64.1.2:80", 4, source=INTERNET)
    assert not [answer for _handle, answer in held if answer.error]


@either
@pytest.mark.parametrize("lost", ["link set up2.100 down", "address flush dev up2.100", "route flush table 24602"])
def test_an_uplink_comes_back_by_itself(follower: Balancer, lost: str) -> None:
    follower.host.ip(lost)
    if "flush table" not in lost:
        waits(follower, [*TABLE, "24602"], SECOND, there=False)
        follower.host.ip("link set up2.100 up\naddress replace 100.64.2.2/24 dev up2.100")
    waits(follower, [*TABLE, "24602"], SECOND)
    assert ways(out(follower, f"{INTERNET}:80", 4)) == {"isp1": 2, "isp2": 2}
    assert not follower.apply([], [by_weight(1, 1)]).changed


@either
def test_rules_that_somebody_removes_come_back(follower: Balancer) -> None:
    """As systemd-networkd does, which takes all rules that it has not made for forgotten ones."""
    for number in ("24600", "24601", "24602"):
        follower.host.ip(f"rule delete pref {number}")
    waits(follower, RULES, "lookup 24602")
    assert not follower.apply([], [by_weight(1, 1)]).changed


@either
def test_it_follows_a_new_declaration(follower: Balancer) -> None:
    follower.apply([], [{"source": INSIDE, "uplinks": [GATEWAYS["isp1"]]}])
    follower.host.ip("rule delete pref 24601")
    waits(follower, RULES, "lookup 24601")
    assert "24602" not in follower.host.run(*RULES)


@either
def test_it_ends_with_the_last_uplink(follower: Balancer) -> None:
    follower.remove()
    assert follower.host.call(following.status) == 0
    assert "2460" not in follower.host.run(*RULES)


@either
def test_a_change_that_waits_to_be_confirmed_is_not_undone(balancer: Balancer) -> None:
    """The files of the next boot are those of before, and so is what the script would put in place."""
    balancer.lab.uplinks()
    balancer.apply([], [by_weight(1, 1)])
    outcome = balancer.apply([], [{"source": INSIDE, "uplinks": [GATEWAYS["isp1"]]}], rollback_after=60)
    assert outcome.token
    script = str(balancer.etc / "boot-uplinks")
    waiting = balancer.host.run("sh", "-c", f"timeout 3 sh {script}; echo $?")
    assert waiting.strip() == "124", "it waits"
    assert "24602" not in balancer.host.run(*RULES)
    balancer.host.call(drive.confirm, str(balancer.etc.parent), outcome.token)
    balancer.host.run("sh", script)
    assert "24602" not in balancer.host.run(*RULES)


@either
def test_a_run_at_work_is_waited_for(balancer: Balancer) -> None:
    """Half of what it does must not be put in place, or undone."""
    balancer.lab.uplinks()
    balancer.apply([], [by_weight(1, 1)])
    balancer.host.ip("rule delete pref 24601")
    script, lock = str(balancer.etc / "boot-uplinks"), str(balancer.etc.parent / "run" / "lock")
    waiting = balancer.host.run("sh", "-c", f"flock {lock} timeout 2 sh {script}; echo $?")
    assert waiting.strip() == "124", "it waits"
    assert "24601:" not in balancer.host.run(*RULES)
    balancer.host.run("sh", script)
    assert "24601:" in balancer.host.run(*RULES)


@either
def test_it_says_once_what_is_missing(follower: Balancer) -> None:
    said = follower.etc.parent / "said"
    follower.host.ip("link set up2.100 down")
    waits(follower, ["cat", str(said)], "no way by: default via 100.64.2.1 dev up2.100")
    for number in ("24600", "24601"):
        follower.host.ip(f"rule delete pref {number}")
        waits(follower, RULES, f"{number}:")
    follower.host.ip("link set up2.100 up\naddress replace 100.64.2.2/24 dev up2.100")
    waits(follower, ["cat", str(said)], "every uplink has its route")
    assert said.read_text().count("no way by") == 1
