# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules of others that take, drop or do not track our packets, at every hook that those pass.

Each is shown to do so first, then a run names it, and is silent once it is gone.
"""

from __future__ import annotations

from typing import Any

import pytest
from foreign_rules import IPTABLES, NFT, ip6tables
from kernel_lab.balancer import Balancer, service
from kernel_lab.topology import CLIENT, FRONT, NAMES, VIP, VIP6, WEB, WEB6

VARIANTS = ("iptables-nft", "iptables-legacy")
NOT_SERVED = {"TimeoutError", "OSError", "ConnectionRefusedError", "ConnectionResetError"}
OURS = f"ip daddr {VIP} tcp dport 80"


def told(outcome: Any) -> list[str]:
    """Warnings about rules of others."""
    return [warning for warning in outcome.warnings if "table " in warning]


def works(balancer: Balancer) -> None:
    assert balancer.tally(count=4) == dict.fromkeys(NAMES, 1)


def fails(balancer: Balancer) -> None:
    assert set(balancer.tally(timeout_s=0.4)) <= NOT_SERVED


def put(balancer: Balancer, head: str, *rules: str, family: str = "inet") -> None:
    lines = "\n".join(rules)
    balancer.host.run("nft", "-f", "-", stdin=f"table {family} other {{\nchain c {{\n{head}\n{lines}\n}}\n}}\n")


def take_away(balancer: Balancer, family: str = "inet") -> None:
    balancer.host.run("nft", "delete", "table", family, "other")


#: The head of a chain of nft, its rule, and what is said.
NFT_CASES = {
    "notrack": ("type filter hook prerouting priority raw;", f"{OURS} notrack", "not tracked"),
    "notrack of answers": ("type filter hook prerouting priority raw;", 'iifname "back" tcp sport 80 notrack', ""),
    "notrack of a network": (
        "type filter hook prerouting priority raw;",
        "ip saddr 10.0.0.0/24 counter notrack",
        "not tracked",
    ),
    "before tracking": ("type filter hook prerouting priority -310;", f"{OURS} drop", "dropped"),
    "mangle": ("type filter hook prerouting priority mangle;", f"ct state new {OURS} counter drop", "dropped"),
    "policy": ("type filter hook prerouting priority mangle; policy drop;", "udp dport 53 accept", "dropped"),
    "behind our translation": (
        "type filter hook prerouting priority filter;",
        "ip daddr 10.0.0.0/24 tcp dport 80 drop",
        "dropped",
    ),
    "going out": ("type filter hook postrouting priority mangle;", 'oifname "back" ip protocol tcp drop', "dropped"),
    "behind source translation": (
        "type filter hook postrouting priority 300;",
        "ip daddr 10.0.0.0/24 log prefix \"x\" drop",
        "dropped",
    ),
    "ingress": ('type filter hook ingress device "front" priority 0;', f"{OURS} drop", "dropped"),
}  # fmt: skip


@pytest.mark.parametrize("case", NFT_CASES)
def test_a_chain_of_nft(balancer: Balancer, case: str) -> None:
    head, rule, said = NFT_CASES[case]
    web = [service()]
    put(balancer, head, rule)
    outcome = balancer.apply(web)
    fails(balancer)
    if said:
        (warning,) = told(outcome)
        assert warning.startswith("service web: packets are ")
        assert said in warning
        assert "by table inet other, chain c (" in warning or "because of table inet other, chain c (" in warning
        assert ("(policy drop)" if case == "policy" else f"({rule.split()[0]} ") in warning
    take_away(balancer)
    assert told(balancer.apply(web)) == []
    works(balancer)


def test_a_chain_of_a_device(balancer: Balancer) -> None:
    head = 'type filter hook ingress device "front" priority 0;'
    put(balancer, head, f"{OURS} drop", family="netdev")
    outcome = balancer.apply([service()])
    fails(balancer)
    (warning,) = told(outcome)
    assert "packets are dropped by table netdev other, chain c" in warning
    take_away(balancer, "netdev")
    put(balancer, head.replace("front", "back"), f"{OURS} drop", family="netdev")
    assert told(balancer.apply([service()])) == []
    works(balancer)


@pytest.mark.parametrize("hook", ["prerouting", "input"])
def test_a_chain_of_a_bridge(balancer: Balancer, hook: str) -> None:
    balancer.host.ip(
        f"link add br0 type bridge\naddress flush dev front\nlink set front master br0\n"
        f"address add {FRONT}/24 dev br0\nlink set br0 address 02:00:00:00:00:02\nlink set br0 up\n"
        f"route add 198.18.0.0/16 via {CLIENT}"
    )
    put(balancer, f"type filter hook {hook} priority 0;", f"{OURS} drop", family="bridge")
    balancer.host.sysctl({"bridge/bridge-nf-call-iptables": 1})
    if hook == "input":
        assert told(balancer.apply([service()])) == [], "with br_netfilter our rules come before it"
        works(balancer)
        balancer.host.sysctl({"bridge/bridge-nf-call-iptables": 0})
    outcome = balancer.apply([service()])
    fails(balancer)
    (warning,) = told(outcome)
    assert "packets are dropped by table bridge other, chain c" in warning
    take_away(balancer, "bridge")
    assert told(balancer.apply([service()])) == []
    works(balancer)


#: A table of iptables, a rule, and what is said.
IPTABLES_CASES = {
    "notrack": ("raw", f"PREROUTING -d {VIP} -p tcp --dport 80 -j CT --notrack", "not tracked"),
    "raw": ("raw", "PREROUTING -p tcp -m multiport --dports 80,443 -j DROP", "dropped"),
    "mangle": ("mangle", f"PREROUTING -d {VIP} -p tcp -m conntrack --ctstate NEW -j DROP", "dropped"),
    "answers": ("mangle", "PREROUTING -i back -s 10.0.0.0/24 -m conntrack --ctstate ESTABLISHED -j DROP", "dropped"),
    "on the way out": ("mangle", "POSTROUTING -o back -p tcp --dport 80 -j DROP", "dropped"),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", IPTABLES_CASES)
def test_a_table_of_iptables(balancer: Balancer, case: str, variant: str) -> None:
    table, rule, said = IPTABLES_CASES[case]
    web = [service()]
    balancer.host.run(variant, "-t", table, "-A", *rule.split())
    outcome = balancer.apply(web)
    fails(balancer)
    (warning,) = told(outcome)
    assert warning.startswith("service web: packets are ")
    assert said in warning
    assert f"the chain {rule.split()[0]} of the table {table} of {variant} (-A " in warning
    balancer.host.run(variant, "-t", table, "-D", *rule.split())
    assert told(balancer.apply(web)) == []
    works(balancer)


def test_ipv6_is_walked_by_itself(balancer: Balancer) -> None:
    both = [
        service(
            listen=[f"{VIP}:80", f"[{VIP6}]:80"],
            backends=[{"address": WEB["web1"]}, {"address": WEB6["web1"], "name": "six"}],
        )
    ]
    put(balancer, "type filter hook prerouting priority mangle;", f"ip6 daddr {VIP6} drop")
    (warning,) = told(balancer.apply(both))
    assert f"ip6 daddr {VIP6} drop" in warning
    assert balancer.tally() == {"web1": 1}
    assert set(balancer.tally(f"[{VIP6}]:80", timeout_s=0.4)) <= NOT_SERVED


# -- who translates ------------------------------------------------------------------------------------------------

TO_WEB4 = f"{OURS} dnat ip to {WEB['web4']}:80"


def test_a_translation_that_comes_first(balancer: Balancer) -> None:
    web = [service(backends=[{"name": "web1", "address": WEB["web1"]}])]
    put(balancer, "type nat hook prerouting priority -110;", TO_WEB4)
    outcome = balancer.apply(web)
    (warning,) = told(outcome)
    assert balancer.tally(count=4) == {"web4": 4}
    assert warning == (
        f"service web: connections are translated by table inet other, chain c ({TO_WEB4}), which comes before natlb's "
        "rules; remove that rule, or choose another frontend"
    )
    take_away(balancer)
    assert told(balancer.apply(web)) == []
    assert balancer.tally(count=4) == {"web1": 4}


def test_of_two_with_one_priority(balancer: Balancer) -> None:
    """With iptables that comes first which was loaded last; the nftables engine does not leave it to that."""
    web = [service(backends=[{"name": "web1", "address": WEB["web1"]}])]
    head = "type nat hook prerouting priority dstnat;"
    put(balancer, head, TO_WEB4)
    first = balancer.apply(web)
    assert balancer.tally() == {"web1": 1}
    take_away(balancer)
    put(balancer, head, TO_WEB4)
    second = balancer.apply(web)
    assert balancer.tally() == ({"web1": 1} if balancer.nftables else {"web4": 1})
    for outcome in (first, second):
        assert len(told(outcome)) == (0 if balancer.nftables else 1)
        assert all("has the same priority as natlb's rules" in warning for warning in told(outcome))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_translation_of_iptables(balancer: Balancer, variant: str) -> None:
    balancer.host.ip(f"address add {VIP}/32 dev front")
    web = [service(backends=[{"name": "web1", "address": WEB["web1"]}])]
    balancer.apply(web)
    # As Docker publishes a port.
    docker = f"""*nat
:DOCKER - [0:0]
-I PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 80 -j DNAT --to-destination {WEB["web4"]}:80
COMMIT
"""
    balancer.host.run(f"{variant}-restore", "--noflush", stdin=docker)
    warnings = told(balancer.apply(web))
    answers = balancer.tally(count=4)
    if balancer.nftables:
        assert warnings == []
        assert answers == {"web1": 4}
        return
    (warning,) = warnings
    assert "connections are translated by the chain PREROUTING of the table nat of " + variant in warning
    mine = variant == f"iptables-{balancer.variant}"
    assert ("which comes before natlb's rules" in warning) == mine
    assert ("has the same priority" in warning) != mine
    assert answers == {"web4": 4}
    balancer.host.run(variant, "-t", "nat", "-D", "PREROUTING", "-m", "addrtype", "--dst-type", "LOCAL", "-j", "DOCKER")
    assert told(balancer.apply(web)) == []
    assert balancer.tally(count=4) == {"web1": 4}


@pytest.mark.engines(*VARIANTS)
def test_an_accept_before_our_rules(balancer: Balancer) -> None:
    program = f"iptables-{balancer.variant}"
    balancer.host.ip(f"address add {VIP}/32 dev front")
    balancer.apply([service()])
    balancer.host.run(program, "-t", "nat", "-I", "PREROUTING", "-i", "front", "-j", "ACCEPT")
    (warning,) = told(balancer.apply([service()]))
    fails(balancer)
    assert warning.startswith(
        "service web: connections bypass natlb's rules because of the chain PREROUTING of the table nat"
    )
    balancer.host.run(program, "-t", "nat", "-D", "PREROUTING", "-i", "front", "-j", "ACCEPT")
    assert told(balancer.apply([service()])) == []
    works(balancer)


def peers(balancer: Balancer) -> set[str]:
    return {answer.peer for answer in balancer.ask(count=2)}


def test_clients_that_somebody_hides_first(balancer: Balancer) -> None:
    web = [service(snat="none")]
    put(balancer, "type nat hook postrouting priority 90;", 'oifname "back" masquerade')
    (warning,) = told(balancer.apply(web))
    assert peers(balancer) == {"10.0.0.1"}
    assert warning.startswith(
        'service web: source addresses differ from snat because of table inet other, chain c (oifname "back" '
        "masquerade), which comes before natlb's rules; "
    )
    assert told(balancer.apply([service()])) == [], "a masquerade is what this one asks for"
    take_away(balancer)
    assert told(balancer.apply(web)) == []
    assert peers(balancer) == {CLIENT}
    put(balancer, "type nat hook postrouting priority srcnat;", 'oifname "back" masquerade')
    warnings = told(balancer.apply(web))
    if balancer.nftables:
        assert warnings == []
        assert peers(balancer) == {CLIENT}
    else:
        assert "has the same priority as natlb's rules" in warnings[0]


def test_clients_stay_visible_whoever_hides_them_later(balancer: Balancer) -> None:
    """As on every router of a tutorial: `-A POSTROUTING -o DEVICE -j MASQUERADE`, in whichever system."""
    web = [service(snat="none")]
    put(balancer, "type nat hook postrouting priority 110;", 'oifname "back" masquerade')
    for variant in VARIANTS:
        balancer.host.run(variant, "-t", "nat", "-A", "POSTROUTING", "-o", "back", "-j", "MASQUERADE")
    warnings = told(balancer.apply(web))
    if balancer.nftables:
        assert warnings == []
        assert peers(balancer) == {CLIENT}
        return
    (warning,) = warnings
    other = next(variant for variant in VARIANTS if variant != f"iptables-{balancer.variant}")
    assert f"POSTROUTING of the table nat of {other}" in warning
    assert "has the same priority" in warning
    balancer.host.run(other, "-t", "nat", "-F")
    assert told(balancer.apply(web)) == []
    assert peers(balancer) == {CLIENT}


@pytest.mark.engines(*VARIANTS)
def test_clients_that_iptables_hides_first(balancer: Balancer) -> None:
    program = f"iptables-{balancer.variant}"
    web = [service(snat="none")]
    balancer.host.run(program, "-t", "nat", "-A", "POSTROUTING", "-o", "back", "-j", "MASQUERADE")
    assert told(balancer.apply(web)) == [], "our jump comes first"
    assert peers(balancer) == {CLIENT}
    balancer.host.run(program, "-t", "nat", "-I", "POSTROUTING", "-o", "back", "-j", "MASQUERADE")
    (warning,) = told(balancer.apply(web))
    assert peers(balancer) == {"10.0.0.1"}
    assert f"because of the chain POSTROUTING of the table nat of {program} (-A POSTROUTING -o back -j" in warning


# -- no false alarm ------------------------------------------------------------------------------------------------


def test_rules_that_do_not_concern_us(balancer: Balancer) -> None:
    """Docker, kube-proxy, libvirt, fail2ban and firewalld as they are, and rules of which nobody can tell."""
    balancer.host.run("nft", "-f", "-", stdin=NFT)
    for variant in VARIANTS:
        balancer.host.run(f"{variant}-restore", "-w", "10", stdin=IPTABLES)
        balancer.host.run(f"{variant.replace('ip', 'ip6', 1)}-restore", "-w", "10", stdin=ip6tables())
    put(
        balancer,
        "type filter hook prerouting priority raw;",
        "meta mark 7 drop",
        "ip saddr 203.0.113.9 drop",
        "udp dport 80 notrack",
        f"{OURS} limit rate over 900/second drop",
        "fib saddr . iif oif missing drop",
        "fib daddr type != local accept",
    )
    for snat in ("masquerade", "none"):
        assert told(balancer.apply([service(snat=snat)], [{"source": "10.0.0.0/24"}])) == []
        works(balancer)


def test_what_is_ours_does_not_count(balancer: Balancer) -> None:
    balancer.lab.uplinks()
    ways = [{"interface": "up1", "gateway": "100.64.1.1"}, {"interface": "up2", "gateway": "100.64.2.1"}]
    egress = [{"source": "10.0.0.0/24", "uplinks": ways}]
    for _unused in range(2):
        assert told(balancer.apply([service(snat="none"), service("node", listen="*:81")], egress)) == []
