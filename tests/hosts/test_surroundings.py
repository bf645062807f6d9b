# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What else there is on real hosts: interfaces that networkd makes, routers that make themselves known, power cuts."""

from __future__ import annotations

import time

import pytest
from controller import Controller
from kernel_lab import advertising, traffic
from kernel_lab.balancer import service, webs
from kernel_lab.topology import CLIENT, NAMES, VIP, VIP6, WEB6, Lab
from machine import Machine
from processes import kill_all

ROLLBACK_AFTER_S = 45
SIX = service("six", listen=[f"[{VIP6}]:80"], backends=[{"name": name, "address": WEB6[name]} for name in WEB6])
#: Chains and sets of every kind.
MANY = [
    service(method="source_hash", affinity="1h"),
    service("limited", listen=[f"{VIP}:81"], max_connections_per_client=50, new_connections_per_second=50),
    service("from", listen=[f"{VIP}:82"], allow_from=["192.0.2.0/24"], log=True, method="random"),
    service("dns", listen=[f"{VIP}:53"], protocol=["tcp", "udp"], when_empty="drop"),
    service("seen", listen=[f"{VIP}:83"], snat="none"),
    SIX,
]
FEW = [service(backends=webs("web2"))]
KEPT = "nft --stateless list ruleset; find /etc/natlb -type f -exec sha256sum {} + -o -type l -printf '%p %l\\n' | sort"
#: The network sorts before that of eth1, whose link-layer address the VLAN interface has, too.
VLAN = {
    "30-vlan.netdev": "[NetDev]\nName=eth1.100\nKind=vlan\n\n[VLAN]\nId=100\n",
    "15-vlan.network": "[Match]\nName=eth1.100\n\n[Network]\nAddress=100.64.1.2/24\nConfigureWithoutCarrier=yes\n",
    "20-back.network.d/vlan.conf": "[Network]\nVLAN=eth1.100\n",
}
UPLINKS = [
    {"interface": "eth0", "gateway": CLIENT, "weight": 2},
    {"interface": "eth1.100", "gateway": "100.64.1.1", "weight": 1},
]


@pytest.fixture
def host(machine: Machine) -> Machine:
    machine.load("installed")
    return machine


@pytest.mark.parametrize("engine", ["nftables", "iptables"])
def test_chains_and_sets_come_and_go(host: Machine, controller: Controller, lab: Lab, engine: str) -> None:
    """Before 6.2 the kernel does not delete a chain along with the last element that leads to it."""
    for services in (MANY, FEW, MANY, [*MANY[2:], *FEW]):
        controller.declare(engine=engine, services=services, rollback_after=ROLLBACK_AFTER_S)
        run = controller.run("deploy")
        assert run.status == 0, run.said
        again = controller.run("deploy")
        assert (again.status, again.changes) == (0, []), again.said
    assert traffic.tally(lab.client.call(traffic.ask, f"{VIP}:80", 4, timeout_s=30)) == {"web2": 4}
    assert host.run("dmesg | grep -E 'Oops|kernel BUG|WARNING: CPU' || true") == ""


def test_an_interface_with_a_dot_in_its_name(host: Machine, controller: Controller) -> None:
    """Its settings are there again after a reboot, though it comes later than systemd-sysctl runs."""
    for name, text in VLAN.items():
        host.run(f"cd /etc/systemd/network; mkdir -p $(dirname {name}); cat > {name} <<'END'\n{text}END")
    host.run("networkctl reload; networkctl reconfigure eth1")
    host.run("until ip -4 address show eth1.100 | grep -q inet; do sleep 1; done")
    controller.declare(
        engine="nftables",
        services=FEW,
        egress=[{"source": "10.0.0.0/24", "uplinks": UPLINKS}],
        rollback_after=ROLLBACK_AFTER_S,
    )
    run = controller.run("deploy")
    assert run.status == 0, run.said
    shown = "cat /proc/sys/net/ipv4/conf/eth1.100/src_valid_mark; ip rule; ip route show table all | grep eth1.100"
    was = host.run(shown)
    assert was.startswith("1\n")
    host.reboot()
    assert host.run(shown) == was
    run = controller.run("deploy")
    assert (run.status, run.changes) == (0, []), run.said


def test_the_way_out_that_a_router_has_made_known_stays(host: Machine, controller: Controller, lab: Lab) -> None:
    host.run("echo 1 > /proc/sys/net/ipv6/conf/eth0/accept_ra")
    learned = "ip -6 route show default proto ra"
    deadline = time.monotonic() + 60
    while not host.run(learned):
        assert time.monotonic() < deadline
        lab.client.call(advertising.advertise, "front")
    controller.declare(engine="nftables", services=[SIX], rollback_after=ROLLBACK_AFTER_S)
    run = controller.run("deploy")
    assert run.status == 0, run.said
    assert "proto ra" in host.run("ip -6 route show default")
    assert host.run("cat /proc/sys/net/ipv6/conf/all/forwarding") == "1\n"
    answers = lab.client.call(traffic.ask, f"[{VIP6}]:80", 4, timeout_s=30)
    assert traffic.tally(answers) == dict.fromkeys(NAMES, 1)
    again = controller.run("deploy")
    assert (again.status, again.changes) == (0, []), again.said


def test_the_power_fails_before_the_confirmation(host: Machine, controller: Controller, lab: Lab) -> None:
    """The former rules boot, and nobody has to put anything right."""
    controller.declare(engine="nftables", services=FEW, rollback_after=ROLLBACK_AFTER_S)
    run = controller.run("deploy")
    assert run.status == 0, run.said
    was = host.run(KEPT)
    controller.declare(engine="nftables", services=MANY, rollback_after=300)
    ansible = controller.begin("deploy")
    host.run("until ls /run/natlb/rollback.*/pending && nft list ruleset | grep -q ' [.] 82 '; do sleep 0.1; done")
    kill_all(ansible)
    host.cut_the_power()
    assert host.run(KEPT) == was
    assert traffic.tally(lab.client.call(traffic.ask, f"{VIP}:80", 4, timeout_s=30)) == {"web2": 4}
    run = controller.run("deploy")
    assert run.status == 0, run.said
    assert run.changes


def test_the_playbooks_that_look(host: Machine, controller: Controller) -> None:
    controller.declare(engine="nftables", services=[service(), SIX], rollback_after=ROLLBACK_AFTER_S)
    run = controller.run("deploy", "--check", "--diff")
    assert run.status == 0, run.said
    assert host.run("nft list ruleset; ls /etc | grep natlb || true") == "", "check mode touches nothing"
    for playbook in ("deploy", "verify", "status"):
        run = controller.run(playbook)
        assert run.status == 0, run.said
    assert "six" in run.said
