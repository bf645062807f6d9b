# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent as a unit of systemd, on a stock Debian: in its sandbox, over a reboot and a reload of another firewall."""

from __future__ import annotations

import json
import re

import pytest
from controller import Controller
from kernel_lab import server, traffic
from kernel_lab.balancer import service
from kernel_lab.topology import NAMES, PORTS, VIP, Lab
from machine import Machine

ROLLBACK_AFTER_S = 45
#: On a processor that is emulated, answers take their time.
HEALTH = {"type": "tcp", "port": 80, "interval": "3s", "timeout": "2s", "fall": 2, "rise": 1}
PROGRAM = "natlb"
#: Something, and then another process is the agent, which has said that it is ready.
AFTER = r"""
before=$(systemctl show --property=MainPID --value natlb-agent)
{}
timeout 250 sh -c "until [ \$(systemctl is-active natlb-agent) = active ] &&
    [ \$(systemctl show --property=MainPID --value natlb-agent) != $before ]; do sleep 0.5; done"
"""
WAIT = "timeout 120 sh -c \"until journalctl -u natlb-agent --no-pager -o cat | grep -q '{}'; do sleep 0.2; done\""


@pytest.fixture(params=["nftables", "iptables"])
def host(request: pytest.FixtureRequest, machine: Machine, controller: Controller) -> Machine:
    machine.load("installed")
    controller.declare(engine=request.param, services=[service(health=HEALTH)], rollback_after=ROLLBACK_AFTER_S)
    run = controller.run("deploy")
    assert run.status == 0, run.said
    machine.run(WAIT.format("web4 of web is up"))
    return machine


def who(lab: Lab, count: int = 6) -> set[str]:
    return set(traffic.tally(lab.client.call(traffic.ask, f"{VIP}:80", count, timeout_s=30)))


def test_its_life(host: Machine, controller: Controller, lab: Lab) -> None:
    assert who(lab, 8) == set(NAMES)
    again = controller.run("deploy")
    assert (again.status, again.changes) == (0, []), again.said
    lab.backends["web2"].call(server.crash)
    try:
        host.run(WAIT.format("web2 of web is down"))
        assert who(lab) == {"web1", "web3", "web4"}
        fields = json.loads(host.run("journalctl -u natlb-agent -o json -g 'web2 of web is down' | tail -1"))
        assert (fields["NATLB_SERVICE"], fields["NATLB_BACKEND"], fields["NATLB_STATE"]) == ("web", "web2", "down")
        # A reload of the stock configuration flushes everything.
        host.run("systemctl --quiet start nftables; systemctl reload nftables; nft flush ruleset")
        host.run(WAIT.format("they are back"))
        assert who(lab) == {"web1", "web3", "web4"}
        # One that is killed, and one that hangs, which the watchdog finds.
        for signal in ("KILL", "STOP"):
            host.run(AFTER.format(f"systemctl kill --kill-who=main --signal={signal} natlb-agent"))
            assert who(lab) == {"web1", "web3", "web4"}
        assert "watchdog" in host.run("journalctl -u natlb-agent --no-pager -o cat").lower()
        host.reboot()
        host.run("until systemctl is-active --quiet natlb-agent; do sleep 0.5; done")
        assert who(lab) == {"web1", "web3", "web4"}, "what boots knows who is dead"
    finally:
        lab.backends["web2"].call(server.start, "web2", PORTS)
    host.run(f"for i in $(seq 300); do {PROGRAM} status web | grep -q down || exit 0; sleep 0.5; done; exit 1")
    assert who(lab, 8) == set(NAMES)
    host.run(f"{PROGRAM} drain web3 --reason test")
    assert who(lab) == {"web1", "web2", "web4"}
    host.run(f"{PROGRAM} restore web3")
    assert host.run("systemctl --failed --no-legend") == ""
    removed = controller.run("remove")
    assert removed.status == 0, removed.said
    assert (
        host.run("systemctl list-units 'natlb*' --all --plain --no-legend; find /etc /run /usr/local -path '*natlb*'")
        == ""
    )


def test_the_clock_is_set(host: Machine, lab: Lab) -> None:
    """Hours ahead, and hours back: nothing changes, and checks go on at their pace."""
    for name in NAMES:
        host.run(WAIT.format(f"{name} of web is up"))
    said = "journalctl -u natlb-agent --no-pager -o cat | grep -cE 'is (up|down)'"
    before = host.run(said)
    for jump in ("5 hours", "-9 hours"):
        host.run(f"date -s '{jump}'")
        assert who(lab, 8) == set(NAMES)
        assert host.run(said) == before
    lab.backends["web3"].call(server.crash)
    try:
        host.run(WAIT.format("web3 of web is down"))
        assert who(lab) == {"web1", "web2", "web4"}
        since = json.loads(host.run("cat /run/natlb/health.json"))["health"]
        told = next(item["since"] for item in since if item["state"] == "down")
        assert told[:13] == host.run("date -u +%Y-%m-%dT%H").strip() or told[14:16] in ("58", "59")
    finally:
        lab.backends["web3"].call(server.start, "web3", PORTS)
    host.run(f"for i in $(seq 300); do {PROGRAM} status web | grep -q down || exit 0; sleep 0.5; done; exit 1")
    assert who(lab, 8) == set(NAMES)


def test_its_sandbox(host: Machine) -> None:
    said = host.run("systemd-analyze security natlb-agent.service --no-pager | tail -1")
    (exposure,) = re.findall(r"exposure level for natlb-agent.service: ([0-9.]+)", said)
    print(f"exposure {exposure}")
    assert float(exposure) < 3.0
