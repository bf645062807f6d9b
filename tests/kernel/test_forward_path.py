# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Firewalls of others that deny what is forwarded: a run says so, and opens a way for our connections if it may."""

from __future__ import annotations

import re
from typing import Any

import pytest
from kernel_lab.balancer import Balancer, service
from kernel_lab.topology import CLIENT, INTERNET, NAMES, VIP, VIP6, WEB, WEB6

VARIANTS = ("iptables-nft", "iptables-legacy")

#: As Docker 24 leaves it with one bridge and one published port.
DOCKER = """
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
"""
#: What ufw 0.36 loads of its forward chains.
UFW = """
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:ufw-after-forward - [0:0]
:ufw-after-logging-forward - [0:0]
:ufw-before-forward - [0:0]
:ufw-before-logging-forward - [0:0]
:ufw-reject-forward - [0:0]
:ufw-track-forward - [0:0]
:ufw-user-forward - [0:0]
-A FORWARD -j ufw-before-logging-forward
-A FORWARD -j ufw-before-forward
-A FORWARD -j ufw-after-forward
-A FORWARD -j ufw-after-logging-forward
-A FORWARD -j ufw-reject-forward
-A FORWARD -j ufw-track-forward
-A ufw-after-logging-forward -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix "[UFW BLOCK] "
-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-forward -p icmp -m icmp --icmp-type 8 -j ACCEPT
-A ufw-before-forward -j ufw-user-forward
COMMIT
"""
#: The policy lets everything pass, the last rule nothing.
REJECT = """
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -j REJECT --reject-with icmp-host-prohibited
COMMIT
"""
SHAPES = {"docker": DOCKER, "ufw": UFW, "reject": REJECT}

NFT_DROP = """
table inet filter {
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state vmap { established : accept, related : accept, invalid : drop }
    iifname "docker0" accept
    counter comment "what is left"
  }
}
"""
#: What firewalld 1.3 loads for the forward hook.
FIREWALLD = """
table inet firewalld {
  chain filter_FORWARD {
    type filter hook forward priority filter + 10; policy accept;
    ct state { established, related } accept
    ct status dnat accept
    iifname "lo" accept
    ct state { invalid } drop
    ip6 daddr { ::/96, ::ffff:0.0.0.0/96, 2002::/24 } reject with icmpv6 addr-unreachable
    jump filter_FORWARD_POLICIES
    reject with icmpx admin-prohibited
  }
  chain filter_FORWARD_POLICIES {
    iifname "front" oifname "front" jump filter_FWD_public
    iifname "front" jump filter_FWD_public
    reject with icmpx admin-prohibited
  }
  chain filter_FWD_public {
    ip protocol icmp accept
  }
}
"""

BOTH = service(
    "both", listen=[f"{VIP}:80", f"[{VIP6}]:80"], backends=[{"address": WEB["web1"]}, {"address": WEB6["web1"]}]
)


def load(balancer: Balancer, variant: str, text: str) -> None:
    balancer.host.run(f"{variant}-restore", "-w", "10", stdin=text)
    six = text.replace("icmp-host-prohibited", "icmp6-adm-prohibited").replace("172.17.0.2/32", "2001:db8:17::2/128")
    six = six.replace("-p icmp -m icmp --icmp-type 8", "-p ipv6-icmp -m icmp6 --icmpv6-type 128")
    balancer.host.run(f"{variant.replace('ip', 'ip6', 1)}-restore", "-w", "10", stdin=six)


def theirs(balancer: Balancer) -> dict[str, str]:
    """Rules of others, to the byte, but for the packets that they have counted."""
    return {
        program: re.sub(r"^\[\d+:\d+\] |packets \d+ bytes \d+", "", text, flags=re.MULTILINE)
        for program, text in balancer.foreign().items()
    }


def closing(outcome: Any) -> list[str]:
    return [warning for warning in outcome.warnings if "not forwarded" in warning]


def passes(balancer: Balancer) -> None:
    assert balancer.tally(count=8) == dict.fromkeys(NAMES, 2)


def is_stopped(balancer: Balancer, target: str = f"{VIP}:80") -> None:
    assert set(balancer.tally(target, timeout_s=0.25)) <= {"TimeoutError", "OSError", "ConnectionRefusedError"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_closed_chain_is_opened_for_ours_alone(balancer: Balancer, variant: str) -> None:
    warn_open_and_close(balancer, "docker", variant)


@pytest.mark.engines("nftables")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", ["ufw", "reject"])
def test_so_are_chains_of_other_shapes(balancer: Balancer, shape: str, variant: str) -> None:
    warn_open_and_close(balancer, shape, variant)


def warn_open_and_close(balancer: Balancer, shape: str, variant: str) -> None:
    load(balancer, variant, SHAPES[shape])
    before = theirs(balancer)
    web = [service()]
    outcome = balancer.apply(web)
    (first, *_more) = closing(outcome)
    assert "service web: connections are not forwarded, because of the chain FORWARD of iptables-" in first
    assert ("policy DROP" in first) == (shape != "reject")
    assert "; firewall: accept lets" in first
    is_stopped(balancer)

    announced = balancer.apply(web, firewall="accept", check=True)
    is_stopped(balancer)
    outcome = balancer.apply(web, firewall="accept")
    assert announced.diff == outcome.diff
    assert "-A FORWARD -j NATLB.forward" in outcome.diff
    assert closing(outcome) == []
    passes(balancer)
    is_stopped(balancer, f"{WEB['web1']}:8080")
    assert not balancer.apply(web, firewall="accept").changed
    assert not balancer.info()["drift"]
    assert theirs(balancer) == before

    assert closing(balancer.apply(web)) == [first]
    is_stopped(balancer)
    balancer.apply(web, firewall="accept")
    balancer.remove()
    assert theirs(balancer) == before
    assert balancer.ours_left() == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_frontend_passes(balancer: Balancer, variant: str) -> None:
    """Both families, ranges, any address, an interface, UDP, clients that stay visible, and refusals beside them."""
    load(balancer, variant, DOCKER)
    services = [
        BOTH,
        service("range", listen=f"{VIP}:9000-9003", snat="none", backends=[{"address": WEB["web2"]}]),
        service("node", listen="*:8080", backends=[{"address": WEB["web3"]}]),
        service("card", listen=f"{VIP}:81", interface="front", backends=[{"address": WEB["web4"], "port": 80}]),
        service("names", listen=f"{VIP}:53", protocol="udp", backends=[{"address": WEB["web1"]}]),
        service("nobody", listen=f"{VIP}:82", backends=[]),
        service("network", listen="203.0.113.0/24:80-81", backends=[{"address": WEB["web2"], "port": 80}]),
        service("part", listen="203.0.113.8/29:80", interface="front", backends=[{"address": WEB["web3"]}]),
    ]
    balancer.apply(services, firewall="accept")
    balancer.host.ip(f"address add {VIP}/32 dev front")
    assert balancer.tally(f"{VIP}:80") == {"web1": 1}
    assert balancer.tally(f"[{VIP6}]:80") == {"web1": 1}
    assert balancer.tally(f"{VIP}:9002") == {"web2": 1}
    assert balancer.tally(f"{VIP}:8080") == {"web3": 1}
    assert balancer.tally(f"{VIP}:81") == {"web4": 1}
    assert balancer.tally(f"{VIP}:53", protocol="udp") == {"web1": 1}
    assert balancer.tally(f"{VIP}:82") == {"ConnectionRefusedError": 1}
    assert balancer.tally("203.0.113.7:80") == balancer.tally("203.0.113.9:81") == {"web2": 1}
    assert balancer.tally("203.0.113.9:80") == {"web3": 1}
    assert not balancer.apply(services, firewall="accept").changed


@pytest.mark.parametrize("variant", VARIANTS)
def test_egress_passes(balancer: Balancer, variant: str) -> None:
    load(balancer, variant, DOCKER)
    egress = [{"source": "10.0.0.0/24", "out_interface": "front", "protocol": "tcp", "destination_ports": [80]}]
    web1 = balancer.lab.backends["web1"]
    (first, *_more) = closing(balancer.apply([], egress))
    assert first.startswith("egress of 10.0.0.0/24: connections are not forwarded")
    assert reached(web1, f"{CLIENT}:80") == ""
    balancer.apply([], egress, firewall="accept")
    assert reached(web1, f"{CLIENT}:80") == "client"
    assert reached(web1, f"{CLIENT}:8080") == "", "a port that egress does not name"
    balancer.apply([], [{"source": ["10.0.0.0/24", "10.9.0.0/16"]}], firewall="accept")
    assert reached(web1, f"{CLIENT}:8080") == "client"
    is_stopped(balancer, f"{WEB['web1']}:80")


def reached(host: Any, target: str) -> str:
    from kernel_lab import traffic  # noqa: PLC0415

    (answer,) = host.call(traffic.ask, target, timeout_s=0.25)
    return str(answer.name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_changes_later_is_told_and_repaired(balancer: Balancer, variant: str) -> None:
    """A FORWARD chain that closes, a flush of it, and a denial that somebody puts in front of us."""
    load(balancer, variant, DOCKER.replace("FORWARD DROP", "FORWARD ACCEPT"))
    web = [service()]
    assert closing(balancer.apply(web)) == []
    passes(balancer)
    balancer.host.run(variant, "-w", "10", "-P", "FORWARD", "DROP")
    outcome = balancer.apply(web)
    assert not outcome.changed
    assert len(closing(outcome)) == 1
    balancer.apply(web, firewall="accept")
    for words in ("-D FORWARD -j NATLB.forward", "-I FORWARD 1 -i front -j REJECT"):
        balancer.host.run(variant, "-w", "10", *words.split())
        is_stopped(balancer)
        assert balancer.info()["drift"]
        assert balancer.apply(web, firewall="accept").changed
        passes(balancer)
        assert not balancer.apply(web, firewall="accept").changed


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_chain_that_is_open_is_left_alone(balancer: Balancer, variant: str) -> None:
    load(balancer, variant, DOCKER.replace("FORWARD DROP", "FORWARD ACCEPT"))
    outcome = balancer.apply([service()], firewall="accept")
    assert closing(outcome) == []
    assert "NATLB.forward" not in outcome.diff
    load(
        balancer,
        variant,
        UFW.replace("COMMIT", "-A ufw-user-forward -i front -o back -p tcp --dport 80 -j ACCEPT\nCOMMIT"),
    )
    assert [warning for warning in closing(balancer.apply([service()])) if "ip6" not in warning] == []
    passes(balancer)


def test_a_table_of_another_is_not_touched_but_named(balancer: Balancer) -> None:
    balancer.host.run("nft", "-f", "-", stdin=NFT_DROP)
    before = theirs(balancer)
    for firewall in ("warn", "accept"):
        (warning,) = closing(balancer.apply([service()], firewall=firewall))
        assert "table inet filter, chain forward (policy drop)" in warning
        assert "`nft insert rule inet filter forward ct status dnat accept`" in warning
        is_stopped(balancer)
    assert theirs(balancer) == before
    balancer.host.run(*["nft", "insert", "rule", "inet", "filter", "forward", "ct", "status", "dnat", "accept"])
    assert closing(balancer.apply([service()])) == []
    passes(balancer)
    egress = [{"source": "10.0.0.0/24"}]
    (warning,) = closing(balancer.apply([service()], egress))
    command = warning.split("`")[1]
    assert reached(balancer.lab.backends["web1"], f"{CLIENT}:80") == ""
    balancer.host.run(*command.split())
    assert reached(balancer.lab.backends["web1"], f"{CLIENT}:80") == "client"
    assert closing(balancer.apply([service()], egress)) == []


def test_firewalld_lets_translated_connections_pass(balancer: Balancer) -> None:
    balancer.host.run("nft", "-f", "-", stdin=FIREWALLD)
    before = theirs(balancer)
    assert closing(balancer.apply([service()])) == []
    passes(balancer)
    (warning,) = closing(balancer.apply([service()], [{"source": "10.0.0.0/24"}]))
    assert warning.startswith("egress of 10.0.0.0/24")
    assert "firewall-cmd" in warning
    assert theirs(balancer) == before


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_way_is_open_after_a_reboot(balancer: Balancer, variant: str) -> None:
    """Whether the other firewall comes up before us or after."""
    web = [service()]
    for first in ("theirs", "ours"):
        load(balancer, variant, DOCKER)
        balancer.apply(web, firewall="accept")
        balancer.lab.reset()
        balancer.host.sysctl({"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1})
        if first == "theirs":
            load(balancer, variant, DOCKER)
        balancer.host.run("sh", str(balancer.etc / "boot"))
        if first == "ours":
            for words in ("-N DOCKER-USER", "-A DOCKER-USER -j RETURN", "-I FORWARD -j DOCKER-USER", "-P FORWARD DROP"):
                balancer.host.run(variant, "-w", "10", *words.split())
        passes(balancer)
        balancer.host.run("sh", str(balancer.etc / "boot"))
        passes(balancer)
        assert not balancer.info()["drift"] or first == "ours"
        balancer.remove()


def test_a_thousand_services_pass_in_a_tree(balancer: Balancer) -> None:
    """Every packet comes by here, so a rule per service in a row would cost dearly."""
    load(balancer, "iptables-nft", DOCKER)
    many = [
        service(f"s{i}", listen=f"{VIP}:{20000 + i}", backends=[{"address": WEB["web1"], "port": 80}])
        for i in range(1000)
    ]
    balancer.apply(many, firewall="accept")
    text = balancer.host.run("iptables-nft-save", "-t", "filter")
    chains: dict[str, int] = {}
    for line in text.splitlines():
        if line.startswith("-A NATLB"):
            chains[line.split()[1]] = chains.get(line.split()[1], 0) + 1
    assert max(chains.values()) <= 16
    assert balancer.tally(f"{VIP}:20999") == {"web1": 1}


def test_a_change_that_nobody_confirms_closes_it_again(balancer: Balancer) -> None:
    load(balancer, "iptables-nft", DOCKER)
    before = theirs(balancer)
    balancer.apply([service()])
    outcome = balancer.apply([service()], firewall="accept", rollback_after=1)
    assert outcome.token
    passes(balancer)
    balancer.apply([service()], check=True)
    # The next run waits until it is settled.
    outcome = balancer.apply([service()])
    assert not outcome.changed
    is_stopped(balancer)
    assert theirs(balancer) == before


def test_uplinks_are_ways_out(balancer: Balancer) -> None:
    load(balancer, "iptables-nft", DOCKER)
    balancer.lab.uplinks()
    ways = [{"interface": "up1", "gateway": "100.64.1.1"}, {"interface": "up2.100", "gateway": "100.64.2.1"}]
    balancer.apply([], [{"source": "10.0.0.0/24", "uplinks": ways}], firewall="accept")
    web1 = balancer.lab.backends["web1"]
    assert {reached(web1, f"{INTERNET}:80") for _unused in range(4)} == {"isp1", "isp2"}
