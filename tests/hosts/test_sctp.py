# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Associations of SCTP with the kernel's own sockets, which few kernels that run tests have.

Client and backends are network namespaces of the virtual machine itself, since only its kernel has such sockets.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from controller import Controller
from kernel_lab.balancer import service
from kernel_lab.topology import VIP
from machine import Machine

ENDPOINT = Path(__file__).with_name("sctp_endpoint.py")
CLIENT = "100.64.0.2"
BACKENDS = {"sctp1": "100.64.1.2", "sctp2": "100.64.2.2"}
PORT, BACKEND_PORT = 3868, 3869
ROLLBACK_AFTER_S = 45
#: A namespace behind a wire of its own, and the host as its way out.
NAMESPACE = """
ip netns add {name}
ip link add to-{name} type veth peer name eth0 netns {name}
ip address add {host}/24 dev to-{name}
ip link set to-{name} up
ip -n {name} link set lo up
ip -n {name} address add {address}/24 dev eth0
ip -n {name} link set eth0 up
ip -n {name} route add default via {host}
"""
SERVER = """
systemd-run --quiet --unit={name} ip netns exec {name} python3 -u /root/sctp.py serve {name} {address} {port}
until journalctl --unit={name} | grep -q listening; do sleep 0.2; done
"""


def gateway(address: str) -> str:
    return address.rpartition(".")[0] + ".1"


@pytest.fixture
def host(machine: Machine) -> Machine:
    machine.load("installed")
    machine.run(f"cat > /root/sctp.py <<'END'\n{ENDPOINT.read_text()}END")
    for name, address in {"client": CLIENT, **BACKENDS}.items():
        machine.run(NAMESPACE.format(name=name, address=address, host=gateway(address)))
    for name, address in BACKENDS.items():
        machine.run(SERVER.format(name=name, address=address, port=BACKEND_PORT))
    return machine


def answers(host: Machine, count: int) -> list[list[str]]:
    """What the first and the second message of each association were answered."""
    printed = host.run(f"ip netns exec client python3 /root/sctp.py ask {VIP} {PORT} {count}")
    found: list[list[str]] = json.loads(printed)
    return found


@pytest.mark.parametrize("engine", ["nftables", "iptables"])
def test_associations_take_turns_and_stay(host: Machine, controller: Controller, engine: str) -> None:
    backends = [{"name": name, "address": address, "port": BACKEND_PORT} for name, address in BACKENDS.items()]
    diameter = service("diameter", listen=[f"{VIP}:{PORT}"], protocol="sctp", backends=backends)
    seen_as = {
        "masquerade": {f"{name} {gateway(address)}" for name, address in BACKENDS.items()},
        "none": {f"{name} {CLIENT}" for name in BACKENDS},
    }
    for snat, expected in seen_as.items():
        controller.declare(engine=engine, services=[{**diameter, "snat": snat}], rollback_after=ROLLBACK_AFTER_S)
        run = controller.run("deploy")
        assert run.status == 0, run.said
        first, second = answers(host, 8)
        assert {answer: first.count(answer) for answer in first} == dict.fromkeys(expected, 4), snat
        assert second == first, "each association stays with its backend"
    assert host.run("dmesg | grep -E 'Oops|kernel BUG|WARNING: CPU' || true") == ""
