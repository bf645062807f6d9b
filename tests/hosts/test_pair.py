# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pair of balancers on two stock Debian hosts: the power of the active one fails, and the other one is rebooted."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import image
import pytest
from controller import Controller
from kernel_lab import server, traffic
from kernel_lab.balancer import service
from kernel_lab.host import CALL_TIMEOUT_S
from kernel_lab.topology import BACK, BACK6, FRONT, FRONT6, NAMES, WEB6, Lab
from machine import Machine

#: Virtual addresses, and what backends send to: whoever is active has them.
ADDRESSES = ("192.0.2.11", "2001:db8:1::11")
GATEWAYS = ("10.0.0.250", "2001:db8:2::250")
#: A start of Python takes seconds on a processor that is emulated, and `natlb ready` is one.
CHECK_INTERVAL_S = 10
ROLLBACK_AFTER_S = 90
HEALTH = {"type": "tcp", "port": 80, "interval": "5s", "timeout": "3s", "fall": 3, "rise": 1}
SERVICES = [
    service("web", listen=[f"{ADDRESSES[0]}:80"], method="source_hash", snat="none", health=HEALTH),
    service(
        "six",
        listen=[f"[{ADDRESSES[1]}]:80"],
        method="flow_hash",
        snat="none",
        backends=[{"name": name, "address": address} for name, address in WEB6.items()],
    ),
]
TARGETS = (f"{ADDRESSES[0]}:80", f"[{ADDRESSES[1]}]:80")
#: Established connections to each of them.
KEPT = 50
#: How often somebody connects to each of them, how often in all, and how long an attempt may take: less than until its
#: SYN is sent again, so that what is lost is told as lost.
RATE, COUNT, TIMEOUT_S = 10, 300, 0.9
#: Three advertisements and a part of one are missing, one a second, before the other machine takes over; and on a
#: processor that is emulated it takes its time to do so.
LOST = 10 * RATE


class Pair(NamedTuple):
    first: Machine
    second: Machine
    controller: Controller

    def active(self) -> list[Machine]:
        return [one for one in (self.first, self.second) if ADDRESSES[0] in one.run("ip -4 -o address show eth0")]


def _send_by(lab: Lab, addresses: tuple[str, str]) -> None:
    """Let backends answer through whoever has these addresses."""
    for backend in lab.backends.values():
        backend.ip("\n".join(f"route replace default via {address}" for address in addresses))


@pytest.fixture(params=[("bookworm", "nftables"), ("trixie", "iptables")], ids=" ".join)
def pair(request: pytest.FixtureRequest, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    suite, engine = request.param
    made = image.build(suite)
    first = Machine(made, lab, tmp_path_factory.mktemp("first"))
    second = Machine(made, lab, tmp_path_factory.mktemp("second"), image.SECOND)
    first.start()
    try:
        second.join()
        # A client of the same network asks who has an address. To all others of the lab, the first machine is the way.
        lab.client.ip("\n".join(f"route replace {address} dev front" for address in ADDRESSES))
        _send_by(lab, GATEWAYS)
        controller = Controller(first, tmp_path_factory.mktemp("controller"), second)
        controller.declare(
            engine=engine,
            services=SERVICES,
            rollback_after=ROLLBACK_AFTER_S,
            failover_check_interval=CHECK_INTERVAL_S,
            failover_addresses=[
                {
                    "addresses": [f"{ADDRESSES[0]}/24", f"{ADDRESSES[1]}/64"],
                    "interface": "eth0",
                    "router_id": 51,
                    "gateways": [f"{GATEWAYS[0]}/24", f"{GATEWAYS[1]}/64"],
                    "gateway_interface": "eth1",
                }
            ],
        )
        yield Pair(first, second, controller)
    finally:
        second.stop()
        first.stop()
        _send_by(lab, (BACK, BACK6))
        lab.client.ip(
            "\n".join(
                f"route replace {address} via {way}" for address, way in zip(ADDRESSES, (FRONT, FRONT6), strict=True)
            )
        )


class Held(NamedTuple):
    """A connection that stays open, and who answered it."""

    handle: int
    name: str


def hold(lab: Lab) -> list[Held]:
    web, six = TARGETS
    found = [lab.client.call(traffic.hold, web, source=f"198.18.1.{number}")[0] for number in range(1, KEPT + 1)]
    found += lab.client.call(traffic.hold, six, KEPT)
    held = [Held(handle, answer.name) for handle, answer in found]
    assert {one.name for one in held} == set(NAMES)
    return held


def fates(lab: Lab, held: list[Held]) -> Counter[str]:
    """What has become of them: clients speak first on one half, and backends on the other."""
    speak, hear = held[::2], held[1::2]
    spoken = lab.client.call(traffic.talk_on, [one.handle for one in speak], 30.0)
    for backend in lab.backends.values():
        backend.call(server.announce)
    heard = lab.client.call(traffic.hear_on, [one.handle for one in hear], 30.0)
    return Counter(
        answer.error or ("kept" if answer.name == one.name else "another")
        for one, answer in zip([*speak, *hear], [*spoken, *heard], strict=True)
    )


def lost_in_a_row(attempts: list[traffic.Attempt]) -> int:
    rows = itertools.groupby(attempts, lambda one: bool(one.answer.error))
    return max((len(list(row)) for failed, row in rows if failed), default=0)


def test_a_failure_and_a_reboot(pair: Pair, lab: Lab) -> None:
    deployed = pair.controller.run("deploy")
    assert deployed.status == 0, deployed.said
    again = pair.controller.run("deploy")
    assert (again.status, again.changes) == (0, []), again.said
    (active,) = pair.active()
    standby = pair.second if active is pair.first else pair.first
    held = hold(lab)
    for what, happens, where in (
        ("the power of the active one fails", active.cut_the_power, standby),
        ("the other one is rebooted", standby.reboot, active),
    ):
        watched = [lab.client.begin(traffic.attempts, target, COUNT, RATE, timeout_s=TIMEOUT_S) for target in TARGETS]
        happens()
        for target, seen in zip(TARGETS, (future.result(CALL_TIMEOUT_S) for future in watched), strict=True):
            lost = lost_in_a_row(seen)
            failed = sum(bool(one.answer.error) for one in seen)
            print(f"{what}: {target}: {failed} of {len(seen)} failed, {lost / RATE:.1f} s at most in a row")
            assert not seen[-1].answer.error
            assert lost <= LOST
        assert pair.active() == [where], "whoever comes back takes nothing"
        kept = fates(lab, held)
        print(f"{what}: established: {dict(kept)}")
        assert kept == {"kept": len(held)}
    removed = pair.controller.run("remove")
    assert removed.status == 0, removed.said
    assert pair.active() == []
    for machine in (active, standby):
        assert machine.run("find /etc /run /usr/local -path '*natlb*'; systemctl --failed --no-legend") == ""
