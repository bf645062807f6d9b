# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of a balancer on a stock Debian: deployed, deployed again, locked out of, rebooted, removed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from controller import Controller, Run
from kernel_lab import traffic
from kernel_lab.balancer import service
from kernel_lab.topology import CLIENT, FRONT, NAMES, VIP, VIP6, WEB6, Lab
from machine import Machine
from processes import kill_all

ENGINES = ("nftables", "iptables")
BACKENDS6 = [{"name": name, "address": address} for name, address in WEB6.items()]
SERVICES = [
    service(),
    service("dns", listen=[f"{VIP}:53"], protocol="udp"),
    service("six", listen=[f"[{VIP6}]:80"], backends=BACKENDS6),
]
EGRESS = [{"source": "10.0.0.0/24", "out_interface": "eth0"}]
DECLARED = {"services": SERVICES, "egress": EGRESS}
#: A new connection and a start of Python take seconds on a processor that is emulated.
ROLLBACK_AFTER_S = 45
SSH = service("ssh", listen=[f"{FRONT}:22"])
OTHER = service("other", listen=[f"{VIP}:81"])
#: All that a run may change, without counters; and what the kernel adds in its own time.
STATE = """
nft --stateless list ruleset
for variant in nft legacy; do iptables-$variant-save; ip6tables-$variant-save; done | sed 's/\\[[0-9:]*\\]//; /^#/d'
for family in 4 6; do ip -$family rule; ip -$family route show table all | grep -v 'proto kernel'; done
sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.netfilter.nf_conntrack_max 2>&1
systemctl list-unit-files 'natlb*' --no-legend || true; systemctl list-units 'natlb*' --all --plain --no-legend
find / -xdev -path '*natlb*' -type f -exec sha256sum {} + -o -path '*natlb*' -type l -printf '%p %l\\n' | sort
"""
#: Nothing of ours: no file, no unit, no rule.
LEFT = """
nft list ruleset | grep -i natlb || true
for variant in nft legacy; do { iptables-$variant-save; ip6tables-$variant-save; } | grep -i natlb || true; done
ip rule | grep -v 'lookup \\(local\\|main\\|default\\)$' || true
find / -xdev -path '*natlb*' || true; find /run -path '*natlb*' || true
systemctl list-unit-files 'natlb*' --no-legend || true; systemctl list-units 'natlb*' --all --plain --no-legend
"""


@pytest.fixture(scope="module", params=ENGINES)
def first(request: pytest.FixtureRequest, machine: Machine, controller: Controller) -> Run:
    """The first run on a host that nobody has touched; the host as it was behind it is saved."""
    machine.load("installed")
    declared = {"engine": request.param, "rollback_after": ROLLBACK_AFTER_S, **DECLARED}
    controller.declare(verify_each=True, **declared)
    run = controller.run("deploy", "--diff")
    machine.save("deployed")
    controller.declare(**declared)
    return run


@pytest.fixture
def deployed(first: Run, machine: Machine) -> Iterator[Machine]:
    """A host that balances."""
    assert first.status == 0, first.said
    machine.load("deployed")
    yield machine
    # Whoever is looked for in vain later has left his message here.
    print(machine.console.read_text(errors="replace")[-2000:])


def serves(lab: Lab) -> None:
    """Each service gives each backend its share, and backends find the way out."""
    for target, protocol in ((f"{VIP}:80", "tcp"), (f"{VIP}:53", "udp"), (f"[{VIP6}]:80", "tcp")):
        answers = lab.client.call(traffic.ask, target, 8, protocol=protocol, timeout_s=30)
        assert traffic.tally(answers) == dict.fromkeys(NAMES, 2), (target, protocol)
    (answer,) = lab.backends["web1"].call(traffic.ask, f"{CLIENT}:80", timeout_s=30)
    assert (answer.name, answer.peer) == ("client", FRONT)


def test_a_stock_host(machine: Machine) -> None:
    """What these tests are for, that no container and no namespace of the lab has."""
    machine.load("installed")
    said = machine.run(
        "grep -E ' /(run|tmp) ' /proc/mounts; lsmod; ls /proc/sys/net/netfilter; cat /proc/sys/net/ipv4/ip_forward"
    )
    mounts = [line.split()[3].split(",") for line in said.splitlines()[:2]]
    assert all({"noexec", "nosuid", "nodev"} <= set(options) for options in mounts)
    assert "nf_tables" not in said
    assert "nf_conntrack" not in said.split(), "neither the module nor its settings"
    assert said.endswith("\n0\n")


@pytest.mark.usefixtures("deployed")
def test_the_first_run(first: Run, lab: Lab) -> None:
    """It is verified by connections of its own."""
    assert first.changes
    assert "[WARNING]" not in first.said
    assert "(item=web at " in first.said
    serves(lab)


def test_the_second_run_changes_nothing_and_nobody_notices(deployed: Machine, controller: Controller, lab: Lab) -> None:
    was = deployed.run(STATE)
    hammering = lab.client.begin(traffic.hammer, [f"{VIP}:80"], keep=4, limit_s=600, breath_s=0.1)
    lab.client.call(traffic.hammering)
    run = controller.run("deploy")
    lab.client.call(traffic.halt)
    hammered = hammering.result(60)
    assert (run.status, run.changes) == (0, []), run.said
    assert deployed.run(STATE) == was
    assert set(hammered.answers) == set(NAMES)
    assert not hammered.cut


def test_locked_out(deployed: Machine, controller: Controller, lab: Lab) -> None:
    was = deployed.run(STATE)
    refused = controller.run("deploy", _extra(services=[*SERVICES, SSH], allow_management_port=True, rollback_after=20))
    assert refused.status != 0
    said = " ".join(refused.said.split())
    assert "was not confirmed over a new connection within 20 s" in said
    assert "nobody confirmed the change in time, so the host went back to its former rules" in said
    assert deployed.run(STATE) == was
    assert deployed.run("systemctl --failed --no-legend") == ""
    serves(lab)


def test_ansible_is_killed(deployed: Machine, controller: Controller, lab: Lab) -> None:
    """Nothing is wrong with the change; nobody is left who could say so."""
    was = deployed.run(STATE)
    ansible = controller.begin("deploy", _extra(services=[*SERVICES, OTHER], rollback_after=20))
    deployed.run(
        "until { nft list ruleset; iptables-save; } 2>/dev/null | grep -qE '(dport|[.]) 81( |$)'; do sleep 0.1; done"
    )
    kill_all(ansible)
    deployed.run("ls /run/natlb/rollback.*/pending")
    assert deployed.run(STATE) != was
    deployed.run(
        "until [ -e /run/natlb/undone ]; do sleep 0.5; done; while ls -d /run/natlb/rollback.*; do sleep 0.5; done"
    )
    assert deployed.run("cat /run/natlb/undone").count("\n") == 1, "something could not be put back"
    assert deployed.run(STATE) == was
    assert deployed.run("systemctl --failed --no-legend") == ""
    serves(lab)


def test_after_a_reboot_it_serves_without_a_run(deployed: Machine, controller: Controller, lab: Lab) -> None:
    # Its stock configuration begins with a flush of everything, now and at boot.
    deployed.run(
        "systemctl --quiet enable --now nftables; while systemctl list-jobs | grep -q natlb; do sleep 0.1; done"
    )
    serves(lab)
    was = deployed.run(STATE)
    deployed.reboot()
    serves(lab)
    assert deployed.run(STATE) == was
    run = controller.run("deploy")
    assert (run.status, run.changes) == (0, []), run.said


def test_a_removal_leaves_nothing(deployed: Machine, controller: Controller, lab: Lab) -> None:
    run = controller.run("remove")
    assert run.status == 0, run.said
    assert deployed.run(LEFT) == ""
    assert traffic.tally(lab.client.call(traffic.ask, f"{VIP}:80", timeout_s=30)) == {"ConnectionRefusedError": 1}
    again = controller.run("remove")
    assert (again.status, again.changes) == (0, []), again.said


def _extra(**variables: Any) -> str:
    return f"--extra-vars={json.dumps({f'natlb_{key}': value for key, value in variables.items()})}"
